"""The VM writes while it is copied: the point holds what the disks held when the job began, all at one instant."""

import random
import signal
import threading
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness, convert
from tests.integration.product import Product

pytestmark = pytest.mark.vm

SIZE = 32 * MIB
TARGETS = ["vda", "vdb"]


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    """Two disks full of data that does not compress, so that there is something to copy."""
    images = [module_lab.folder / f"{target}.qcow2" for target in TARGETS]
    for number, image in enumerate(images):
        raw = image.with_suffix(".raw")
        raw.write_bytes(random.Random(number).randbytes(SIZE))
        convert(raw, image)
        raw.unlink()
    return module_lab.create_vm("writes", [DiskSpec(image=image) for image in images], guest=False)


class Writer(threading.Thread):
    """Overwrites blocks of both disks, back to front, so that it meets the copy on its way."""

    def __init__(self, vm: LabVm, pattern: int) -> None:
        super().__init__()
        self.vm = vm
        self.pattern = pattern
        self.enough = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        for offset in range(SIZE - MIB, 0, -MIB):
            for target in TARGETS:
                self.vm.write_blocks(target, offset + 1024, 70 * 1024, self.pattern)
            self.rounds += 1
            if self.enough.is_set():
                return


def copy_during_writes(vm: LabVm, product: Product, witness: Witness, mode: str, pattern: int) -> Sighting:
    """A point of a VM that is let go, and written to, only when its job has begun."""
    vm.suspend()
    references = witness.copy(vm, *TARGETS)
    with product.start_backup(vm.name, mode) as run:
        run.wait_for(event="step", step="copy")
        # Nothing of it may be read before the first writes: the copy then has to take what they replaced.
        run.signal(signal.SIGSTOP)
        vm.resume()
        for target in TARGETS:
            for offset in range(0, SIZE, 3 * MIB):
                vm.write_blocks(target, offset, 512, pattern)
            vm.discard_blocks(target, SIZE // 2, 2 * MIB)
        writer = Writer(vm, pattern)
        writer.start()
        run.signal(signal.SIGCONT)
        done = run.finish().succeeded().finished
        writer.enough.set()
        writer.join()
    assert writer.rounds > 1
    assert done["mode"] == mode
    # Else the comparison would prove nothing.
    assert changed(vm, witness, references)
    return Sighting(done["point"], references)


def changed(vm: LabVm, witness: Witness, references: dict[str, Path]) -> bool:
    now = witness.copy(vm, *TARGETS)
    return all(now[target].read_bytes() != references[target].read_bytes() for target in TARGETS)


def test_points_of_a_writing_vm_hold_the_instant_they_began(vm: LabVm, product: Product, witness: Witness) -> None:
    full = copy_during_writes(vm, product, witness, "full", 0x51)
    first = copy_during_writes(vm, product, witness, "incremental", 0x52)
    second = copy_during_writes(vm, product, witness, "incremental", 0x53)
    for seen in (full, first, second):
        witness.confirm(seen)


def test_every_disk_shows_the_same_instant(vm: LabVm, product: Product, witness: Witness) -> None:
    """Disk after disk gets the next number; a point holds either both of a round, or only the first disk's."""
    stop = threading.Event()
    rounds = 0

    def count() -> None:
        nonlocal rounds
        while not stop.is_set():
            rounds += 1
            for target in TARGETS:
                vm.write_blocks(target, 4096, 512, rounds % 250 + 1)

    points = []
    counter = threading.Thread(target=count)
    counter.start()
    try:
        for _ in range(3):
            before = rounds
            points.append(product.backup(vm.name)["point"])
            assert rounds > before
    finally:
        stop.set()
        counter.join()
    for point in points:
        first, second = (number_in(path) for path in witness.restored(point, "raw").values())
        assert first - second in (0, 1, 1 - 250)


def number_in(image: Path) -> int:
    with image.open("rb") as disk:
        disk.seek(4096)
        sector = disk.read(512)
    assert len(set(sector)) == 1
    return sector[0]


def test_paused_vm_is_saved_as_it_stands_and_stays_paused(vm: LabVm, product: Product, witness: Witness) -> None:
    vm.write_blocks("vda", 0, 512, 0x61)
    vm.suspend()
    try:
        made = witness.back_up(vm, *TARGETS)
        assert vm.state == "paused"
        assert made["consistency"] == "crash"
    finally:
        vm.resume()
