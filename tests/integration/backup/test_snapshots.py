"""Mode snapshot, alone and in the middle of a chain: before, between and after merges nothing is missed."""

from pathlib import Path
from typing import Literal

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness, same_disks
from tests.integration.product import Product

pytestmark = pytest.mark.vm

TARGETS = ["vda", "vdb"]
KEPT = 3


def make_vm(lab: Lab, name: str, second: Literal["qcow2", "raw"] = "qcow2") -> LabVm:
    vm = lab.create_vm(name, [DiskSpec(size=8 * MIB), DiskSpec(size=2 * MIB, image_format=second)], guest=False)
    vm.write_blocks("vda", 0, 2 * MIB, 0xA0)
    vm.write_blocks("vdb", 0, MIB, 0xB0)
    return vm


def write(vm: LabVm, number: int) -> None:
    """Something new in both disks, and something given back."""
    vm.write_blocks("vda", number * 200 * 1024, 100 * 1024, number)
    vm.write_blocks("vdb", number * 100 * 1024, 1024, number)
    vm.discard_blocks("vda", number * 64 * 1024, 64 * 1024)


def libvirts_snapshots(vm: LabVm) -> set[str]:
    return {snapshot.getName() for snapshot in vm.domain.listAllSnapshots()}


def listed_snapshots(product: Product, vm: LabVm) -> list[str]:
    return [point["id"] for point in product.points(vm.name) if point["mode"] == "snapshot"]


def test_incrementals_around_snapshots_of_a_running_vm_restore_right(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    vm = make_vm(module_lab, "running")

    def point(mode: str) -> Sighting:
        references = witness.copy(vm, *TARGETS)
        made = product.backup(vm.name, mode)
        assert made["mode"] == mode, made
        return Sighting(made["point"], references)

    points = [point("full")]
    snapshots = []
    for number in range(1, KEPT + 2):
        write(vm, number)
        snapshots.append(point("snapshot"))
        write(vm, number + 10)
        points.append(point("incremental"))
    kept = snapshots[-KEPT:]
    assert listed_snapshots(product, vm) == [seen.point for seen in kept]
    assert libvirts_snapshots(vm) == {product.point(seen.point)["snapshot"] for seen in kept}
    for seen in points:
        witness.confirm(seen)
    for seen in kept:
        same_disks(witness.restored(seen.point, "qcow2"), seen.references)


def test_points_around_snapshots_of_a_stopped_vm_restore_right(module_lab: Lab) -> None:
    """Its second disk is raw below the overlays; each point is incremental or says why it is not."""
    product = Product(module_lab.folder / "stopped", "[snapshot]\nkeep = 1\n")
    witness = Witness(product, module_lab.folder)
    vm = make_vm(module_lab, "stopped", "raw")
    points = []
    for number, mode in enumerate(["full", "snapshot", "incremental", "snapshot", "incremental"]):
        write(vm, number)
        vm.destroy()
        references = witness.copy(vm, *TARGETS)
        made = product.backup(vm.name, mode)
        assert made["mode"] == mode or made["reason"] is not None, made
        points.append(Sighting(made["point"], references))
        vm.start()
    merged = points.pop(1)
    assert listed_snapshots(product, vm) == [points[2].point]
    assert len(libvirts_snapshots(vm)) == 1
    assert product.run("point", "show", merged.point).failed(4)
    for seen in points:
        same_disks(witness.restored(seen.point, "raw"), seen.references)


def test_snapshot_that_someone_merged_is_refused_and_not_mistaken(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    vm = make_vm(module_lab, "merged-outside")
    made = product.backup(vm.name, "snapshot")
    write(vm, 1)
    (snapshot,) = vm.domain.listAllSnapshots()
    snapshot.delete()
    to = witness.new_path("nothing")
    refused = product.run("restore", made["point"], "--to", to).failed(4)
    assert "no longer on this host" in refused.stderr
    assert not to.exists()
    status, verdicts = product.verify(made["point"])
    assert (status, verdicts[0]["findings"][0]["kind"]) == (1, "missing")


def test_snapshot_is_no_copy_and_no_downtime(module_lab: Lab, product: Product) -> None:
    vm = make_vm(module_lab, "plain")
    made = product.backup(vm.name, "snapshot")
    assert (made["mode"], made["reason"], made["bytes_read"]) == ("snapshot", None, 0)
    assert not list(product.path_of(made["point"]).glob("*.qcow2"))
    shown = product.point(made["point"])
    assert {disk["target"]: disk["mode"] for disk in shown["disks"]} == {"vda": "host", "vdb": "host"}
    assert libvirts_snapshots(vm) == {shown["snapshot"]}
    # What is written now goes to the overlay, beside the image that stands still.
    assert vm.disk("vda") != Path(next(disk["host_path"] for disk in shown["disks"] if disk["target"] == "vda"))
    assert vm.state == "running"
    assert product.verify(made["point"])[0] == 0


def test_number_to_keep_is_a_setting(module_lab: Lab) -> None:
    product = Product(module_lab.folder / "keeps-one", "[snapshot]\nkeep = 1\n")
    vm = make_vm(module_lab, "one")
    for number in range(1, 4):
        vm.write_blocks("vda", number * 300 * 1024, 1024, number)
        newest = product.backup(vm.name, "snapshot")["point"]
        assert listed_snapshots(product, vm) == [newest]
    assert len(libvirts_snapshots(vm)) == 1


def test_merging_keeps_what_the_vm_wrote(module_lab: Lab, witness: Witness) -> None:
    product = Product(module_lab.folder / "merges", "[snapshot]\nkeep = 1\n")
    vm = make_vm(module_lab, "merged")
    for number in range(1, 4):
        write(vm, number)
        before = witness.copy(vm, *TARGETS)
        product.backup(vm.name, "snapshot")
        same_disks(witness.copy(vm, *TARGETS), before)


def test_snapshots_that_someone_else_made_stay(module_lab: Lab, product: Product) -> None:
    vm = make_vm(module_lab, "others")
    vm.domain.snapshotCreateXML(
        "<domainsnapshot><name>mine</name></domainsnapshot>",
        16,  # VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    )
    for _ in range(KEPT + 1):
        product.backup(vm.name, "snapshot")
    assert "mine" in libvirts_snapshots(vm)
    assert len(libvirts_snapshots(vm)) == KEPT + 1
