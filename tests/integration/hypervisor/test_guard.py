import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvm_backup.domain.errors import HypervisorError
from kvm_backup.hypervisor import backup_job, checkpoints
from kvm_backup.hypervisor.guard import Guard
from tests.integration.hypervisor.bios_vm import BiosVm

pytestmark = pytest.mark.vm

RUN = """
import fcntl, sys
from pathlib import Path
from kvm_backup.hypervisor import backup_job, run_folder
from kvm_backup.hypervisor.backup_job import DiskRequest
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guard import Guard
uuid, socket, lock_path, how = sys.argv[1:]
socket, lock = Path(socket), open(lock_path, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
hypervisor = Hypervisor.connect()
guard = Guard.start(
    vm=uuid, uri="qemu:///system", socket_path=socket, scratch_folder=socket.parent, pass_fds=[lock.fileno()]
)
if how != "nothing begun":
    guard.freezing()
    guard.checkpoint("fresh")
    guard.beginning()
    vm = hypervisor.vm(uuid)
    job = backup_job.begin(hypervisor, vm, [DiskRequest("vda", False)], checkpoint="fresh", base=None,
                           socket=socket, scratch_folder=socket.parent)
    if how != "killed within begin":
        guard.begun()
    if how == "published":
        guard.durable()
    if how == "done":
        guard.thawed()
        job.end()
        guard.ended()
        guard.durable()
        guard.done()
    if how == "given up":
        guard.done()
print("here", flush=True)
sys.stdin.read()
"""


def killed_run(vm: BiosVm, how: str) -> Path:
    """A run that is killed at the point named; returns its lock file."""
    lock = vm.folder / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, vm.uuid, vm.socket, lock, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "here\n"
        os.killpg(run.pid, signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    return lock


def wait_for_the_lock(lock: Path) -> None:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)


def left(vm: BiosVm) -> tuple[bool, list[str], bool]:
    """Whether a job runs, the checkpoints, whether the run folder is there."""
    job = backup_job.running_job(vm.hypervisor, vm.uuid)
    names = [one.name for one in checkpoints.list_checkpoints(vm.hypervisor, vm.uuid)]
    return job is not None, names, vm.run_folder.exists()


@pytest.mark.parametrize("how", ["begun", "killed within begin", "interrupted"])
def test_the_job_and_checkpoint_of_a_dead_run_are_gone_before_its_lock_is_free(running_vm: BiosVm, how: str) -> None:
    lock = killed_run(running_vm, how)
    wait_for_the_lock(lock)
    assert left(running_vm) == (False, [], False)
    assert running_vm.domain.isActive()


def test_a_checkpoint_that_belongs_to_a_published_point_is_kept(running_vm: BiosVm) -> None:
    wait_for_the_lock(killed_run(running_vm, "published"))
    assert left(running_vm) == (False, ["fresh"], False)


def test_a_run_that_said_done_leaves_nothing_to_undo(running_vm: BiosVm) -> None:
    wait_for_the_lock(killed_run(running_vm, "done"))
    assert left(running_vm) == (False, ["fresh"], True)


def test_what_a_run_that_is_over_could_not_undo_is_undone_by_the_guard(running_vm: BiosVm) -> None:
    wait_for_the_lock(killed_run(running_vm, "given up"))
    assert left(running_vm) == (False, [], False)


def test_a_run_that_dies_before_it_began_leaves_the_work_of_others_alone(
    running_vm: BiosVm,
) -> None:
    running_vm.make_checkpoint("older")
    with running_vm.another_programs_job():
        wait_for_the_lock(killed_run(running_vm, "nothing begun"))
        assert left(running_vm)[:2] == (True, ["older"])


def test_a_guard_starts_quickly_and_ends_when_told(running_vm: BiosVm) -> None:
    times = []
    for _ in range(3):
        before = time.monotonic()
        guard = Guard.start(
            vm=running_vm.uuid,
            uri="qemu:///system",
            socket_path=running_vm.socket,
            scratch_folder=running_vm.run_folder,
        )
        times.append(time.monotonic() - before)
        guard.done()
        guard.done()
        with pytest.raises(HypervisorError):
            guard.freezing()
    # 0.15 s is the aim and 0.05 s usual; the bound is for machines that do other things too.
    assert min(times) < 1.0
