import os
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CheckpointUnusableError, StorageError, VmBusyError, VmStateChangedError
from kvm_backup.hypervisor import backup_job, checkpoints, run_folder, scratch_files
from kvm_backup.hypervisor.backup_job import DiskRequest, Export
from kvm_backup.hypervisor.connection import Hypervisor
from tests.integration.hypervisor.bios_vm import BiosVm, MakeVm

pytestmark = pytest.mark.vm

TWO_DISKS = {"vda": ("qcow2", 16 << 20), "vdb": ("raw", 4 << 20)}


def test_a_job_serves_all_disks_asked_for_and_its_end_leaves_only_the_checkpoint(make_vm: MakeVm) -> None:
    vm = make_vm(disks=TWO_DISKS)
    vm.start()
    job = vm.begin("first")
    assert job.exports == {"vda": Export("vda", None), "vdb": Export("vdb", None)}
    assert stat.S_ISSOCK(vm.socket.stat().st_mode)
    assert job.alive()
    assert job.scratch_used() > 0
    job.end()
    assert not job.alive()
    assert [*vm.run_folder.iterdir(), *vm.scratch_folder.iterdir()] == []
    assert backup_job.running_job(vm.hypervisor, vm.uuid) is None
    (made,) = checkpoints.list_checkpoints(vm.hypervisor, vm.uuid)
    assert (made.name, made.disks) == ("first", {"vda": "first"})
    job.end()


def test_an_incremental_holds_exactly_the_blocks_written_since_its_base(running_vm: BiosVm) -> None:
    running_vm.write(1)
    running_vm.make_checkpoint("first")
    running_vm.write(3)
    running_vm.write(200)
    running_vm.make_checkpoint("second")
    running_vm.write(7)
    assert running_vm.changed_since("first") == {3, 200, 7}
    assert running_vm.changed_since("second") == {7}


def test_a_raw_disk_is_read_whole_in_an_incremental_job(make_vm: MakeVm) -> None:
    vm = make_vm(disks=TWO_DISKS)
    vm.start()
    vm.make_checkpoint("first")
    job = vm.begin("second", "first")
    assert job.exports == {"vda": Export("vda", "backup-vda"), "vdb": Export("vdb", None)}
    job.end()


def test_a_vm_without_any_bitmap_gets_no_checkpoint(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("raw", 4 << 20)})
    vm.start()
    job = vm.begin("first")
    job.end()
    assert job.checkpoint is None
    assert checkpoints.list_checkpoints(vm.hypervisor, vm.uuid) == []


def test_disks_not_asked_for_take_no_part(make_vm: MakeVm) -> None:
    vm = make_vm(disks=TWO_DISKS)
    vm.start()
    job = backup_job.begin(
        vm.hypervisor,
        vm.seen(),
        [DiskRequest("vdb", incremental=False)],
        checkpoint="first",
        base=None,
        socket=vm.socket,
        scratch_folder=vm.scratch_folder,
    )
    assert set(job.exports) == {"vdb"}
    job.end()


def test_another_programs_job_is_named_and_left_alone(running_vm: BiosVm) -> None:
    with running_vm.another_programs_job() as foreign:
        with pytest.raises(VmBusyError, match=str(foreign)):
            running_vm.begin("first")
        assert backup_job.leftover_job(running_vm.hypervisor, running_vm.uuid, running_vm.folder / "run") is None
        assert backup_job.end_job(running_vm.hypervisor, running_vm.uuid, running_vm.socket) is False
        job = backup_job.running_job(running_vm.hypervisor, running_vm.uuid)
        assert job is not None
        assert job.socket == str(foreign)
        assert checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid) == []


def test_a_job_of_a_dead_run_is_known_by_its_socket_and_can_be_ended(running_vm: BiosVm) -> None:
    running_vm.begin("first")
    socket = backup_job.leftover_job(running_vm.hypervisor, running_vm.uuid, running_vm.folder / "run")
    assert socket == running_vm.socket
    assert backup_job.end_job(running_vm.hypervisor, running_vm.uuid, socket) is True
    assert backup_job.running_job(running_vm.hypervisor, running_vm.uuid) is None


def test_a_job_whose_qemu_was_killed_is_not_alive_and_ends_cleanly(running_vm: BiosVm) -> None:
    job = running_vm.begin("first")
    running_vm.kill()
    assert not job.alive()
    job.end()
    assert [*running_vm.run_folder.iterdir(), *running_vm.scratch_folder.iterdir()] == []


def test_a_restarted_vm_does_not_pass_for_the_one_the_job_ran_on(running_vm: BiosVm) -> None:
    job = running_vm.begin("first")
    running_vm.stop()
    running_vm.start()
    again = running_vm.begin("second")
    assert not job.alive()
    assert again.alive()
    again.end()


@pytest.mark.parametrize("how", ["deleted", "never there", "bitmap gone"])
def test_a_base_that_is_unusable_is_told_and_leaves_no_new_checkpoint(running_vm: BiosVm, how: str) -> None:
    if how == "deleted":
        running_vm.make_checkpoint("first")
        checkpoints.delete_checkpoint(running_vm.hypervisor, running_vm.uuid, "first")
    if how == "bitmap gone":
        running_vm.make_checkpoint("first")
        running_vm.kill()
        running_vm.start()
    before = checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid)
    with pytest.raises(CheckpointUnusableError):
        running_vm.begin("second", "first")
    assert checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid) == before
    assert backup_job.running_job(running_vm.hypervisor, running_vm.uuid) is None


def test_a_job_on_a_vm_that_was_shut_down_says_so(stopped_vm: BiosVm) -> None:
    with pytest.raises(VmStateChangedError, match="not running"):
        stopped_vm.begin("first")


@pytest.mark.parametrize(
    "name", ["with space", 'it\'s <&> "quoted"', "-leading-dash", "été-虚拟机", "semi;$(id)`x`", "100%s"]
)
def test_a_vm_with_an_odd_name_is_found_and_backed_up(make_vm: MakeVm, name: str) -> None:
    full = f"{name} {uuid.uuid4().hex[:6]}" if name.startswith("-") else f"kbhyp {name} {uuid.uuid4().hex[:6]}"
    vm = make_vm(name=full)
    vm.start()
    vm.make_checkpoint("first")
    vm.write(2)
    assert vm.hypervisor.vm(full).uuid == vm.uuid
    assert vm.changed_since("first") == {2}


def test_a_run_folder_that_qemu_could_not_reach_is_refused(hypervisor: Hypervisor, folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(StorageError, match="may not enter"):
        run_folder.prepare_run_folder(closed / "run", hypervisor.qemu_owner())


def test_a_guest_that_took_qemu_over_can_put_no_link_in_the_place_of_a_scratch_file(
    hypervisor: Hypervisor, folder: Path
) -> None:
    uid, gid = hypervisor.qemu_owner()
    scratch = run_folder.prepare_scratch_folder(folder / "scratch", (uid, gid))
    file = scratch / "vda.scratch"
    assert scratch_files.create_all({file: 1 << 20}, (uid, gid))

    def as_qemu(*words: str | Path) -> int:
        return subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *words]).returncode

    assert as_qemu("qemu-img", "resize", "-q", "-f", "qcow2", file, "2M") == 0
    assert as_qemu("ln", "-s", "/etc/shadow", scratch / "link") != 0
    assert as_qemu("ln", "-sf", "/etc/shadow", file) != 0
    assert as_qemu("mv", file, folder / "moved") != 0
    assert [path.name for path in scratch.iterdir()] == ["vda.scratch"]
    assert not file.is_symlink()


@pytest.mark.parametrize("taken_by", ["link", "file", "folder"])
def test_what_lies_at_the_place_of_a_scratch_file_is_neither_followed_nor_written(
    hypervisor: Hypervisor, folder: Path, taken_by: str
) -> None:
    scratch = run_folder.prepare_scratch_folder(folder / "scratch", hypervisor.qemu_owner())
    victim = folder / "victim"
    victim.write_text("precious")
    place = scratch / "vdb.scratch"
    match taken_by:
        case "link":
            place.symlink_to(victim)
        case "file":
            place.write_text("of somebody")
        case "folder":
            place.mkdir()
    assert not scratch_files.create_all({scratch / "vda.scratch": 1 << 20, place: 1 << 20}, hypervisor.qemu_owner())
    assert victim.read_text() == "precious"
    assert [path.name for path in scratch.iterdir()] == ["vdb.scratch"]
    assert taken_by != "file" or place.read_text() == "of somebody"


def test_a_run_folder_is_open_to_qemu_and_to_nobody_else(hypervisor: Hypervisor, folder: Path) -> None:
    uid, gid = hypervisor.qemu_owner()
    path = run_folder.prepare_run_folder(folder / "a" / "run", (uid, gid))
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), gid, 0o770)
