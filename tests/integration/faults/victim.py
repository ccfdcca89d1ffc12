"""A VM that faults happen to, and what must be true of it afterwards."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness, same_disks
from tests.integration.product import Json, Product

_patterns = itertools.cycle(range(1, 256))


@dataclass(slots=True)
class Victim:
    """A VM with one disk `vda` (or more), its product and a witness of what its disks held."""

    product: Product
    witness: Witness
    vm: LabVm
    targets: tuple[str, ...] = ("vda",)
    written: int = field(default=0)

    def backup_words(self, mode: str | None = None) -> list[str]:
        return list(self.product.backup_words(self.vm.name, mode))

    def write(self, mib: int = 2) -> None:
        """Change `mib` MiB in the first half of each disk, another range each time."""
        pattern = next(_patterns)
        for target in self.targets:
            self.vm.write_blocks(target, (self.written * MIB) % (32 * MIB), mib * MIB, pattern)
        self.written += mib

    def leftovers(self) -> list[str]:
        """Kinds of what doctor finds left behind of this VM."""
        return sorted(
            one["kind"] for one in self.product.doctor()["leftovers"] if one["vm"] in (self.vm.name, self.vm.uuid)
        )

    def has_job(self) -> bool:
        """Whether libvirt knows a backup job."""
        try:
            self.vm.domain.backupGetXMLDesc()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
                return False
            raise
        return True

    def is_well(self) -> None:
        """It runs, and what it writes is there."""
        assert self.vm.state == "running"
        self.write(1)
        pattern = self.vm.read_blocks("vda", ((self.written - 1) * MIB) % (32 * MIB), 512)
        assert len(set(pattern)) == 1
        assert pattern[0] != 0

    def recovers(self, mode: str | None = None, expected: str = "incremental") -> Json:
        """The next run makes an `expected` point that is what the disks are, and nothing is left behind."""
        references = self.witness.copy(self.vm, *self.targets)
        made = self.product.backup(self.vm.name, mode)
        assert made["mode"] == expected, made
        assert self.leftovers() == []
        if self.vm.domain.isActive():
            assert not self.has_job()
        self.every_point_is_whole()
        if expected != "snapshot":
            same_disks(self.witness.restored(made["point"], "qcow2"), references)
        return made

    def every_point_is_whole(self) -> None:
        status, verdicts = self.product.verify("--all", "--deep")
        assert status == 0, verdicts

    def checkpoints(self) -> list[str]:
        return [str(one.getName()) for one in self.vm.domain.listAllCheckpoints()]


def make_victim(
    lab: Lab, name: str, *, mib: int = 24, running: bool = True, settings: str = "", **variables: str
) -> Victim:
    """A VM at its firmware's screen whose disk holds `mib` MiB that cannot be compressed, of 64."""
    image = noise_image(lab.folder / f"{name}.qcow2", mib)
    product = Product(lab.folder / f"{name}-product", settings, variables)
    vm = lab.create_vm(name, [DiskSpec(image=image)], guest=False, start=running)
    return Victim(product, Witness(product, lab.folder), vm)


def noise_image(path: Path, mib: int, size: int = 64 * MIB) -> Path:
    """A qcow2 image with random data in its second half, so that copying it takes a while."""
    from lab.programs import run

    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        for _ in range(mib):
            file.write(os.urandom(MIB))
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path])
    raw.unlink()
    path.chmod(0o666)
    return path
