"""Retention on a real VM: nothing but incrementals, pruned by the backups themselves, and by the command."""

import subprocess

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Product

pytestmark = pytest.mark.vm

RULE = "[retention]\nlast = 3\ndaily = 1\nweekly = 1\nmonthly = 1\n"


def make_vm(lab: Lab, name: str) -> LabVm:
    vm = lab.create_vm(name, [DiskSpec(size=16 * MIB), DiskSpec(size=2 * MIB, image_format="raw")], guest=False)
    vm.write_blocks("vda", 0, 8 * MIB, 0xA0)
    vm.write_blocks("vdb", 0, MIB, 0xB0)
    return vm


def write(vm: LabVm, number: int) -> None:
    vm.write_blocks("vda", number * 300 * 1024, 200 * 1024, number)
    vm.write_blocks("vdb", number * 100 * 1024, 1024, number)
    vm.discard_blocks("vda", number * 64 * 1024, 64 * 1024)


def test_incremental_for_ever_is_pruned_by_the_backups_and_every_kept_point_restores_right(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    product.configure(RULE)
    vm = make_vm(module_lab, "for-ever")
    seen: list[Sighting] = []
    modes = []
    for number in range(1, 8):
        write(vm, number)
        references = witness.copy(vm, "vda", "vdb")
        made = product.backup(vm.name)
        modes.append(made["mode"])
        seen.append(Sighting(made["point"], references))
    # The checkpoint of the newest point outlives every prune: nothing but the first is full.
    assert modes == ["full"] + ["incremental"] * 6
    points = product.points(vm.name)
    assert [point["id"] for point in points] == [one.point for one in seen[-3:]]
    assert [point["mode"] for point in points] == ["full", "incremental", "incremental"]
    for one in seen[-3:]:
        witness.confirm(one)
    status, verdicts = product.verify("--all", "--deep")
    assert (status, [verdict["good"] for verdict in verdicts]) == (0, [True] * len(verdicts))
    assert product.leftovers(vm.name) == []


def test_command_prunes_a_vm_that_libvirt_no_longer_knows_and_tells_why(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    product.configure("[retention]\nafter_backup = false\n")
    vm = make_vm(module_lab, "gone")
    seen = []
    for number in range(1, 5):
        write(vm, number)
        references = witness.copy(vm, "vda", "vdb")
        seen.append(Sighting(product.backup(vm.name)["point"], references))
    assert len(product.points(vm.name)) == 4
    vm.destroy()
    subprocess.run(["virsh", "-q", "undefine", "--checkpoints-metadata", vm.uuid], check=True, capture_output=True)
    name = vm.name
    product.configure(f'[retention]\nlast = 2\n\n[vm."{name}".retention]\nlast = 1\n')
    (told,) = product.run("prune", "--dry-run", "--json", "--", name).succeeded().events
    assert len(product.points(name)) == 4
    (done,) = product.run("prune", "--json", "--", name).succeeded().events
    for result in (told, done):
        assert [point["kept"] for point in result["points"]] == [False, False, False, True]
        assert [point["consolidated"] for point in result["points"]] == [False, False, False, True]
        assert result["points"][-1]["reasons"] == ["last", "daily", "weekly", "monthly", "good"]
    assert done["bytes_freed"] > 0
    assert [point["id"] for point in product.points(name)] == [seen[-1].point]
    witness.confirm(seen[-1])
    assert product.verify("--vm", name, "--deep")[0] == 0
    text = product.run("prune", "--", name).succeeded().stdout
    assert "kept: one of the newest, daily" in text
    assert "points kept: 1, removed: 0" in text
