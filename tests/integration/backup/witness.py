"""What a disk held at an instant, known by a route of its own, and whether a point holds the same."""

import itertools
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import LabVm, compare_images, virtual_size
from tests.integration.product import Json, Product

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A point, and the disks of its VM at that instant by target."""

    point: str
    references: Mapping[str, Path]


class Witness:
    """Takes reference copies of a VM's disks with qemu-img, and compares what points hold with them."""

    def __init__(self, product: Product, folder: Path) -> None:
        self._product = product
        self._folder = folder / f"witness-{next(_numbers)}"
        self._folder.mkdir(mode=0o711)

    def new_path(self, name: str) -> Path:
        """A path below its folder where nothing is yet."""
        return self._folder / f"{next(_numbers)}-{name}"

    def copy(self, vm: LabVm, *targets: str) -> dict[str, Path]:
        """Copies of the disks as they are; the VM stands still meanwhile, and afterwards when it stood before."""
        goes_on = vm.state == "running"
        if goes_on:
            vm.suspend()
        try:
            copies = {target: self.new_path(f"{target}.qcow2") for target in targets or ("vda",)}
            for target, path in copies.items():
                vm.copy_disk(target, path)
        finally:
            if goes_on:
                vm.resume()
        return copies

    def back_up(self, vm: LabVm, *targets: str, mode: str | None = None, repository: Path | None = None) -> Json:
        """Back a VM up that nobody writes to meanwhile, and see that the point holds its disks as they are."""
        references = self.copy(vm, *targets)
        made = self._product.backup(vm.name, mode, repository)
        same_disks(self.restored(made["point"], "qcow2", repository), references)
        return made

    def confirm(self, seen: Sighting, repository: Path | None = None) -> None:
        """Restored as qcow2 and as raw, and converted by hand, each disk of the point is its reference."""
        for restored in (
            self.restored(seen.point, "qcow2", repository),
            self.restored(seen.point, "raw", repository),
        ):
            assert restored.keys() == seen.references.keys()
            same_disks(restored, seen.references)
        same_disks(self.by_hand(seen, repository), seen.references)

    def restored(self, point: str, image_format: str, repository: Path | None = None) -> dict[str, Path]:
        """The disks of a point, restored to a new folder."""
        return self._product.restore(point, self.new_path("restored"), image_format, repository)

    def by_hand(self, seen: Sighting, repository: Path | None = None) -> dict[str, Path]:
        """The disks of a point, converted as the README tells those who have only qemu-img."""
        folder = self._product.path_of(seen.point, repository)
        made = {}
        for target in seen.references:
            made[target] = self.new_path(f"{target}.qcow2")
            convert(folder / f"{target}.qcow2", made[target])
        return made


def convert(image: Path, to: Path) -> None:
    """`qemu-img convert`, with nothing else than the file's name."""
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, to], check=True, timeout=300)


def same_disks(found: Mapping[str, Path], wanted: Mapping[str, Path]) -> None:
    """Fails unless both hold the same bytes and have the same size."""
    for target, reference in wanted.items():
        compare_images(found[target], reference)
        assert virtual_size(found[target]) == virtual_size(reference), target
