import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import HypervisorError, TargetExistsError, UnsupportedDiskError
from kvm_backup.hypervisor import checkpoints, snapshots
from kvm_backup.hypervisor.snapshots import Snapshot
from tests.integration.hypervisor.bios_vm import BiosVm, MakeVm

pytestmark = pytest.mark.vm


def take(vm: BiosVm, name: str) -> Snapshot:
    return snapshots.create_snapshot(
        vm.hypervisor, vm.seen(), name, {"vda": overlay(vm, name)}, description=f"<{name}> & more"
    )


def overlay(vm: BiosVm, name: str) -> Path:
    return vm.folder / f"{name}.qcow2"


def names(vm: BiosVm) -> list[str]:
    return [one.name for one in snapshots.list_snapshots(vm.hypervisor, vm.uuid)]


def holds(vm: BiosVm, path: Path, block: int, pattern: int) -> bool:
    """Whether the guest's block, read through the image at `path`, is filled with `pattern`."""
    done = subprocess.run(
        ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {block * 65536} 65536", path],
        capture_output=True,
        text=True,
    )
    return done.returncode == 0 and "Pattern verification failed" not in done.stdout


def top(vm: BiosVm) -> str | None:
    return vm.seen().disk("vda").path


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
def test_a_snapshot_freezes_the_old_image_and_is_listed(make_vm: MakeVm, off: bool) -> None:
    vm = make_vm()
    if not off:
        vm.start()
    vm.write(1, pattern=7)
    made = take(vm, "s1")
    vm.write(1, pattern=9)
    assert (made.name, made.parent, made.description) == ("s1", None, "<s1> & more")
    (disk,) = made.disks
    assert (disk.target, disk.overlay, disk.frozen) == ("vda", str(overlay(vm, "s1")), str(vm.paths["vda"]))
    assert top(vm) == disk.overlay
    assert holds(vm, vm.paths["vda"], 1, 7)
    assert snapshots.list_snapshots(vm.hypervisor, vm.uuid) == [made]


@pytest.mark.parametrize("off", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("order", ["s1 s2 s3", "s2 s3 s1", "s3 s2 s1"])
def test_snapshots_in_a_chain_are_deleted_in_any_order_without_losing_a_block(
    running_vm: BiosVm, order: str, off: bool
) -> None:
    running_vm.make_checkpoint("c0")
    for number in (1, 2, 3):
        take(running_vm, f"s{number}")
        running_vm.write(number, pattern=number)
        running_vm.make_checkpoint(f"c{number}")
    running_vm.write(9)
    if off:
        running_vm.stop()
    left = ["s1", "s2", "s3"]
    for name in order.split():
        snapshots.delete_snapshot(running_vm.hypervisor, running_vm.uuid, name)
        left.remove(name)
        assert names(running_vm) == left
    assert top(running_vm) == str(running_vm.paths["vda"])
    assert not any(overlay(running_vm, name).exists() for name in ("s1", "s2", "s3"))
    if off:
        running_vm.start()
    expected = {"c0": {1, 2, 3, 9}, "c1": {2, 3, 9}, "c2": {3, 9}, "c3": {9}}
    assert {name: running_vm.changed_since(name) for name in expected} == expected
    running_vm.stop()
    assert all(holds(running_vm, running_vm.paths["vda"], number, number) for number in (1, 2, 3))


def test_an_incremental_after_a_snapshot_holds_exactly_the_blocks_written(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.write(1)
    take(running_vm, "s1")
    running_vm.write(2)
    assert running_vm.changed_since("c1") == {1, 2}
    running_vm.make_checkpoint("c2")
    running_vm.write(3)
    assert running_vm.changed_since("c2") == {3}


def test_a_snapshot_of_a_stopped_vm_keeps_its_checkpoints_usable(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.write(1)
    running_vm.make_checkpoint("c2")
    running_vm.stop()
    before = checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid)
    take(running_vm, "s1")
    assert checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid) == before
    running_vm.write(2)
    running_vm.start()
    running_vm.write(3)
    assert running_vm.changed_since("c1") == {1, 2, 3}
    assert running_vm.changed_since("c2") == {2, 3}
    snapshots.delete_snapshot(running_vm.hypervisor, running_vm.uuid, "s1")
    assert running_vm.changed_since("c1") == {1, 2, 3}


def test_a_snapshot_of_a_stopped_vm_that_fails_keeps_its_checkpoints(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.stop()
    with pytest.raises(HypervisorError):
        snapshots.create_snapshot(
            running_vm.hypervisor, running_vm.seen(), "s1", {"vda": running_vm.folder / "no such folder" / "o.qcow2"}
        )
    assert [one.name for one in checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid)] == ["c1"]
    assert names(running_vm) == []
    running_vm.start()
    running_vm.write(4)
    assert running_vm.changed_since("c1") == {4}


def test_a_raw_disk_gets_an_overlay_too_and_is_merged_back(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("raw", 4 << 20)})
    vm.start()
    take(vm, "s1")
    vm.write(2, pattern=6)
    assert vm.seen().disk("vda").format == "qcow2"
    snapshots.delete_snapshot(vm.hypervisor, vm.uuid, "s1")
    assert vm.seen().disk("vda").format == "raw"
    vm.stop()
    assert vm.paths["vda"].read_bytes()[2 * 65536 : 3 * 65536] == bytes([6]) * 65536


def test_an_existing_file_is_never_taken_as_overlay(running_vm: BiosVm) -> None:
    precious = overlay(running_vm, "s1")
    precious.write_text("precious")
    with pytest.raises(TargetExistsError):
        take(running_vm, "s1")
    assert precious.read_text() == "precious"
    assert names(running_vm) == []


def test_an_empty_drive_cannot_have_a_snapshot(running_vm: BiosVm) -> None:
    with pytest.raises(UnsupportedDiskError, match="sda"):
        snapshots.create_snapshot(running_vm.hypervisor, running_vm.seen(), "s1", {"sda": overlay(running_vm, "s1")})


def test_deleting_a_snapshot_that_is_not_there_says_so(running_vm: BiosVm) -> None:
    with pytest.raises(HypervisorError, match="s1"):
        snapshots.delete_snapshot(running_vm.hypervisor, running_vm.uuid, "s1")
