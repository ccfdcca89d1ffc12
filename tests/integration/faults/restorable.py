"""A VM that restores are tried on."""

from collections.abc import Sequence
from pathlib import Path

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness
from tests.integration.faults.victim import Victim, noise_image
from tests.integration.product import Product

TARGETS = ("vda", "vdb")


class Restorable:
    """A VM with two disks that is off, a point of it, and what its disks held then and hold now."""

    def __init__(self, lab: Lab) -> None:
        product = Product(lab.folder / "product")
        images = [noise_image(lab.folder / f"restorable-{target}.qcow2", 12, 32 * MIB) for target in TARGETS]
        vm = lab.create_vm("restorable", [DiskSpec(image=image) for image in images], guest=False)
        self.victim = Victim(product, Witness(product, lab.folder), vm, TARGETS)
        self.point = str(product.backup(vm.name)["point"])
        self.then = self.victim.witness.copy(vm, *TARGETS)
        for number, target in enumerate(TARGETS):
            vm.write_blocks(target, 20 * MIB, MIB, 0x60 + number)
        vm.destroy()
        self.now = self.victim.witness.copy(vm, *TARGETS)

    @property
    def vm(self) -> LabVm:
        return self.victim.vm

    def run(self, words: Sequence[str | Path]) -> None:
        self.victim.product.run("restore", "--json", *words, "--", self.point).succeeded()


def reset(restorable: Restorable) -> None:
    """Put the disks into the state `now`, with nothing of libvirt's in them."""
    for target, reference in restorable.now.items():
        path = restorable.vm.disk(target)
        path.write_bytes(reference.read_bytes())
    for checkpoint in restorable.vm.domain.listAllCheckpoints():
        checkpoint.delete(2)  # VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
