import json
import subprocess
from datetime import UTC, datetime

import libvirt_qemu
import pytest

from kvm_backup.domain.errors import (
    CheckpointUnusableError,
    ToolFailedError,
    UnsupportedDiskError,
    VmNotFoundError,
    VmRunningError,
)
from kvm_backup.hypervisor import checkpoints, snapshots
from kvm_backup.hypervisor.bitmaps import BitmapFault, BitmapState, bitmaps
from tests.integration.hypervisor.bios_vm import BiosVm, MakeVm

pytestmark = pytest.mark.vm

CREATED = datetime(2026, 3, 1, 2, 0, 0, tzinfo=UTC)


def names(vm: BiosVm) -> list[str]:
    return [one.name for one in checkpoints.list_checkpoints(vm.hypervisor, vm.uuid)]


def states(vm: BiosVm, target: str = "vda") -> dict[str, BitmapState]:
    return bitmaps(vm.hypervisor, vm.seen())[target]


def delete(vm: BiosVm, name: str) -> None:
    checkpoints.delete_checkpoint(vm.hypervisor, vm.uuid, name)


@pytest.fixture
def chain(running_vm: BiosVm) -> BiosVm:
    """Checkpoints c1, c2, c3, each followed by a write to the block of its number."""
    for number in (1, 2, 3):
        running_vm.make_checkpoint(f"c{number}")
        running_vm.write(number)
    return running_vm


def test_checkpoints_are_listed_parents_first_with_their_bitmaps(chain: BiosVm) -> None:
    listed = checkpoints.list_checkpoints(chain.hypervisor, chain.uuid)
    assert [(one.name, one.parent) for one in listed] == [("c1", None), ("c2", "c1"), ("c3", "c2")]
    assert listed[2].disks == {"vda": "c3"}
    assert abs((datetime.now(UTC) - listed[2].created).total_seconds()) < 600


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("gone", ["c1", "c2", "c3"])
def test_deleting_one_checkpoint_leaves_the_others_complete(chain: BiosVm, gone: str, off: bool) -> None:
    if off:
        chain.stop()
    delete(chain, gone)
    assert gone not in names(chain)
    assert gone not in states(chain)
    if off:
        chain.start()
    chain.write(9)
    expected = {"c1": {1, 2, 3, 9}, "c2": {2, 3, 9}, "c3": {3, 9}}
    del expected[gone]
    assert {name: chain.changed_since(name) for name in expected} == expected


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
def test_all_checkpoints_can_be_deleted_and_a_new_one_made(chain: BiosVm, off: bool) -> None:
    if off:
        chain.stop()
    for name in ("c2", "c3", "c1"):
        delete(chain, name)
    assert names(chain) == []
    assert states(chain) == {}
    if off:
        chain.start()
    chain.make_checkpoint("c1")
    chain.write(5)
    assert chain.changed_since("c1") == {5}


def test_bitmaps_survive_a_normal_stop_and_are_shown_while_off(chain: BiosVm) -> None:
    running = states(chain)
    chain.stop()
    off = states(chain)
    assert running.keys() == off.keys() == {"c1", "c2", "c3"}
    assert all(state.fault is None and state.only_in_top_layer for state in (*running.values(), *off.values()))


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
def test_bitmaps_left_broken_by_a_killed_qemu_are_shown_and_cleared(chain: BiosVm, off: bool) -> None:
    chain.stop()
    chain.start()
    chain.kill()
    if not off:
        chain.start()
    assert {name: state.fault for name, state in states(chain).items()} == dict.fromkeys(
        ("c1", "c2", "c3"), BitmapFault.INCONSISTENT
    )
    for name in ("c1", "c2", "c3"):
        delete(chain, name)
    assert names(chain) == []
    assert states(chain) == {}


def test_a_checkpoint_whose_bitmap_was_never_saved_is_listed_without_bitmap_and_can_be_deleted(
    running_vm: BiosVm,
) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.kill()
    running_vm.start()
    assert names(running_vm) == ["c1"]
    assert states(running_vm) == {}
    delete(running_vm, "c1")
    assert names(running_vm) == []


def test_a_checkpoint_whose_bitmap_was_removed_behind_our_back_can_be_deleted(chain: BiosVm) -> None:
    node = next(
        node["node-name"]
        for node in json.loads(
            libvirt_qemu.qemuMonitorCommand(chain.domain, json.dumps({"execute": "query-named-block-nodes"}), 0)
        )["return"]
        if node.get("dirty-bitmaps") and node["drv"] == "qcow2"
    )
    libvirt_qemu.qemuMonitorCommand(
        chain.domain,
        json.dumps({"execute": "block-dirty-bitmap-remove", "arguments": {"node": node, "name": "c2"}}),
        0,
    )
    with pytest.raises(CheckpointUnusableError):
        chain.changed_since("c2")
    delete(chain, "c2")
    assert names(chain) == ["c1", "c3"]
    assert chain.changed_since("c1") == {1, 2, 3}


def test_a_bitmap_whose_checkpoint_libvirt_lost_is_removed_by_name(stopped_vm: BiosVm) -> None:
    subprocess.run(["qemu-img", "bitmap", "--add", stopped_vm.paths["vda"], "orphan"], check=True)
    delete(stopped_vm, "orphan")
    assert states(stopped_vm) == {}


def test_deleting_what_is_not_there_is_no_error_but_an_unknown_vm_is(running_vm: BiosVm) -> None:
    delete(running_vm, "nothing")
    with pytest.raises(VmNotFoundError):
        checkpoints.delete_checkpoint(running_vm.hypervisor, "00000000-0000-4000-8000-000000000000", "c1")


def test_an_incremental_from_a_checkpoint_made_while_off_holds_exactly_the_later_writes(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("qcow2", 16 << 20), "vdb": ("qcow2", 4 << 20)})
    vm.write(1)
    made = checkpoints.create_offline_checkpoint(vm.hypervisor, vm.seen(), "off", ["vda", "vdb"], CREATED)
    assert (made.name, made.created, made.disks) == ("off", CREATED, {"vda": "off", "vdb": "off"})
    vm.write(2)
    vm.start()
    vm.write(3)
    vm.write(4, "vdb")
    assert vm.changed_since("off") == {2, 3}
    assert vm.changed_since("off", "vdb") == {4}


def test_checkpoints_made_while_running_and_while_off_form_one_line(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.stop()
    checkpoints.create_offline_checkpoint(running_vm.hypervisor, running_vm.seen(), "c2", ["vda"], CREATED)
    running_vm.start()
    running_vm.write(1)
    running_vm.make_checkpoint("c3")
    listed = checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid)
    assert [(one.name, one.parent) for one in listed] == [("c1", None), ("c2", "c1"), ("c3", "c2")]
    assert [running_vm.changed_since(name) for name in ("c1", "c2", "c3")] == [{1}, {1}, set()]


def test_a_checkpoint_while_off_that_fails_half_way_leaves_nothing(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("qcow2", 16 << 20), "vdb": ("qcow2", 4 << 20)})
    subprocess.run(["qemu-img", "bitmap", "--add", vm.paths["vdb"], "off"], check=True)
    with pytest.raises(ToolFailedError):
        checkpoints.create_offline_checkpoint(vm.hypervisor, vm.seen(), "off", ["vda", "vdb"], CREATED)
    assert states(vm, "vda") == {}
    assert set(states(vm, "vdb")) == {"off"}
    assert names(vm) == []


def test_a_checkpoint_while_off_is_refused_for_a_running_vm_and_a_raw_disk(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("qcow2", 16 << 20), "vdb": ("raw", 4 << 20)})
    with pytest.raises(UnsupportedDiskError):
        checkpoints.create_offline_checkpoint(vm.hypervisor, vm.seen(), "off", ["vda", "vdb"], CREATED)
    assert states(vm) == {}
    seen_while_off = vm.seen()
    vm.start()
    with pytest.raises(VmRunningError):
        checkpoints.create_offline_checkpoint(vm.hypervisor, seen_while_off, "off", ["vda"], CREATED)


def test_a_bitmap_left_in_a_lower_layer_only_is_told_from_a_good_one(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.stop()
    running_vm.start()
    snapshots.create_snapshot(
        running_vm.hypervisor, running_vm.seen(), "s1", {"vda": running_vm.folder / "overlay.qcow2"}
    )
    running_vm.write(4)
    running_vm.kill()
    assert states(running_vm)["c1"].fault is BitmapFault.NOT_IN_TOP_LAYER
    running_vm.start()
    assert states(running_vm)["c1"].fault is BitmapFault.NOT_IN_TOP_LAYER
    with pytest.raises(CheckpointUnusableError):
        running_vm.changed_since("c1")
    delete(running_vm, "c1")
    assert names(running_vm) == []


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
def test_a_checkpoint_is_deleted_from_every_layer_of_a_chain(chain: BiosVm, off: bool) -> None:
    snapshots.create_snapshot(chain.hypervisor, chain.seen(), "s1", {"vda": chain.folder / "overlay.qcow2"})
    assert states(chain)["c2"].layers == (0, 1)
    if off:
        chain.stop()
    delete(chain, "c2")
    assert set(states(chain)) == {"c1", "c3"}
    if off:
        chain.start()
    chain.write(6)
    assert chain.changed_since("c1") == {1, 2, 3, 6}
    assert chain.changed_since("c3") == {3, 6}


def test_a_checkpoint_is_deleted_although_another_disk_of_the_stopped_vm_is_gone(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("qcow2", 16 << 20), "vdb": ("qcow2", 4 << 20)})
    checkpoints.create_offline_checkpoint(vm.hypervisor, vm.seen(), "off", ["vda", "vdb"], CREATED)
    vm.paths["vda"].unlink()
    assert set(bitmaps(vm.hypervisor, vm.seen())) == {"vdb"}
    delete(vm, "off")
    assert names(vm) == []
    assert states(vm, "vdb") == {}
