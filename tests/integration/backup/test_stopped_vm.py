"""VMs that are off: full and incremental, through starts and stops, and how consistent their disks are."""

import subprocess

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Product

pytestmark = pytest.mark.vm


def test_chain_goes_on_through_starts_and_stops(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = module_lab.create_vm("chain", [DiskSpec(size=8 * MIB), DiskSpec(size=MIB)], guest=False)
    vm.write_blocks("vda", 0, 3 * MIB, 1)
    vm.write_blocks("vdb", 0, MIB, 1)
    vm.destroy()
    points = []

    def back_up(mode: str) -> int:
        references = witness.copy(vm, "vda", "vdb")
        made = product.backup(vm.name)
        assert made["mode"] == mode, made
        points.append(Sighting(made["point"], references))
        return int(made["bytes_read"])

    back_up("full")
    assert back_up("incremental") == 0
    vm.start()
    vm.write_blocks("vda", MIB, 70 * 1024, 2)
    vm.discard_blocks("vdb", 0, MIB // 2)
    assert back_up("incremental") == 128 * 1024
    vm.write_blocks("vda", 2 * MIB, 64 * 1024, 3)
    vm.destroy()
    assert back_up("incremental") == 64 * 1024
    vm.resize_disk("vda", 12 * MIB)
    back_up("incremental")
    vm.start()
    vm.write_blocks("vda", 11 * MIB, 512, 4)
    assert back_up("incremental") == 64 * 1024
    for seen in points:
        witness.confirm(seen)


def test_disk_taken_away_makes_the_next_point_a_full_one(module_lab: Lab, witness: Witness) -> None:
    vm = module_lab.create_vm("fewer", [DiskSpec(size=MIB), DiskSpec(size=MIB)], guest=False)
    witness.back_up(vm, "vda", "vdb")
    vm.destroy()
    vm.detach_disk("vdb")
    made = witness.back_up(vm, "vda")
    assert (made["mode"], made["reason"]) == ("full", "disk-removed")
    assert witness.back_up(vm, "vda")["mode"] == "incremental"


def test_disk_shrunk_makes_the_next_point_a_full_one(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = module_lab.create_vm("shrunk", [DiskSpec(size=4 * MIB)], guest=False, start=False)
    witness.back_up(vm)
    # qemu-img shrinks no image that holds bitmaps, so whoever shrinks it has removed them.
    remove_bitmaps(vm, product)
    vm.resize_disk("vda", 2 * MIB)
    made = witness.back_up(vm)
    assert made["mode"] == "full"
    assert made["reason"] in ("bitmap-missing", "disk-shrunk")


def remove_bitmaps(vm: LabVm, product: Product) -> None:
    for point in product.points(vm.name):
        name = product.point(point["id"])["checkpoint"]
        subprocess.run(["qemu-img", "bitmap", "--remove", vm.disk("vda"), name], check=True)


def test_vm_that_never_ran_is_saved(module_lab: Lab, witness: Witness) -> None:
    vm = module_lab.create_vm("never", [DiskSpec(size=MIB)], guest=False, start=False)
    witness.back_up(vm)


def test_guest_that_shut_down_is_consistent_and_one_whose_power_was_cut_is_not(
    module_lab: Lab, witness: Witness
) -> None:
    vm = module_lab.create_vm("guest")
    vm.wait_agent()
    vm.shutdown()
    assert witness.back_up(vm)["consistency"] == "filesystem"
    vm.start()
    vm.wait_agent()
    vm.destroy()
    made = witness.back_up(vm)
    assert (made["mode"], made["consistency"]) == ("incremental", "crash")
