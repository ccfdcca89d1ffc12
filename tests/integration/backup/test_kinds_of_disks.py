"""Disks that are saved whole, and disks that are left out, each by rule and said so."""

from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Json, Product

pytestmark = pytest.mark.vm

SAVED = ["vda", "vdb", "vdc"]
LEFT_OUT = {"hda": "cdrom", "vdd": "read-only", "vde": "shareable", "vdf": "excluded"}


@pytest.fixture(scope="module")
def vm(module_lab: Lab, product: Product) -> LabVm:
    disks = [
        DiskSpec(size=8 * MIB),
        DiskSpec(size=3 * MIB + 512, image_format="raw"),
        DiskSpec(size=2 * MIB, image_format="raw", block_device=True),
        DiskSpec(size=MIB, read_only=True),
        DiskSpec(size=MIB, image_format="raw", shareable=True),
        DiskSpec(size=MIB),
        DiskSpec(size=MIB, image_format="raw", bus="ide", device="cdrom"),
    ]
    made = module_lab.create_vm("kinds", disks, guest=False)
    product.configure(f'[vm."{made.name}"]\nexclude_disks = ["vdf"]\n')
    return made


@pytest.fixture(scope="module")
def points(vm: LabVm, product: Product, witness: Witness) -> list[Sighting]:
    """Two running, one stopped, and one running again."""
    seen = []
    for round_number in range(1, 5):
        if round_number == 3:
            vm.destroy()
        elif round_number == 4:
            vm.start()
        if vm.state == "running":
            for target in SAVED:
                vm.write_blocks(target, round_number * 70 * 1024, 130 * 1024, round_number)
        references = witness.copy(vm, *SAVED)
        seen.append(Sighting(product.backup(vm.name)["point"], references))
    return seen


@pytest.mark.parametrize("number", range(4))
def test_point_restores_to_what_every_saved_disk_held(points: list[Sighting], witness: Witness, number: int) -> None:
    witness.confirm(points[number])


def test_disks_without_bitmap_are_saved_whole_each_time_and_the_point_says_so(
    points: list[Sighting], product: Product
) -> None:
    shown = [product.point(seen.point) for seen in points]
    assert [point["mode"] for point in shown] == ["full", "incremental", "incremental", "incremental"]
    for point in shown:
        whole = {disk["target"] for disk in point["disks"] if disk["mode"] == "whole"}
        assert whole == {"vdb", "vdc"}
        assert {disk["source_format"] for disk in point["disks"] if disk["target"] in whole} == {"raw"}
        assert all(any(target in notice for notice in point["notices"]) for target in whole)


def test_disks_that_do_not_belong_to_a_point_are_listed_with_the_reason(
    points: list[Sighting], product: Product
) -> None:
    for seen in points:
        point = product.point(seen.point)
        assert {disk["target"]: disk["reason"] for disk in point["left_out"]} == LEFT_OUT
        assert sorted(path.name for path in product.path_of(seen.point).iterdir()) == sorted(
            ["domain.xml", "manifest.json", *(f"{target}.qcow2" for target in SAVED)]
        )


def test_vm_list_tells_the_same_disks_left_out(vm: LabVm, product: Product) -> None:
    rows: list[Json] = product.run("vm", "list", "--json").succeeded().json
    row = next(row for row in rows if row["name"] == vm.name)
    told = {disk["target"]: disk["left_out"] for disk in row["disks"] if disk["left_out"]}
    assert told == LEFT_OUT


def test_vm_whose_disks_are_all_excluded_is_refused_with_the_list(vm: LabVm, module_lab: Lab) -> None:
    other = Product(module_lab.folder / "all-excluded", f'[vm."{vm.name}"]\nexclude_disks = {[*SAVED, "vdf"]}\n')
    done = other.run("backup", "--json", vm.name).failed(1)
    assert done.finished["error_code"] == "unsupported-disk"
    assert "vdd: read-only" in done.finished["error"]
    assert list(other.repository.glob("*--*")) == []


def test_raw_disk_alone_makes_every_point_a_full_one(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = module_lab.create_vm("raw", [DiskSpec(size=2 * MIB, image_format="raw")], guest=False)
    assert witness.back_up(vm)["reason"] == "no-point"
    vm.write_blocks("vda", 1000 * 512, 4096, 9)
    made = witness.back_up(vm)
    assert (made["mode"], made["reason"]) == ("full", "no-disk-with-bitmap")


def test_restored_raw_disk_is_a_raw_image(points: list[Sighting], product: Product, tmp_path: Path) -> None:
    restored = product.restore(points[0].point, tmp_path / "out", "raw")
    assert restored["vdb"].stat().st_size == 3 * MIB + 512
