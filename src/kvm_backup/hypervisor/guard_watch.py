"""What the guard does while a backup job goes on and the run that reads it may not be able to look after it.

Tried with QEMU 7.2: when the scratch files cannot grow, it is the guest that gets the write error; and an NBD client
that stands still with requests under way makes QEMU wait for it, guest included, as soon as anything drains its
block layer (a snapshot, a reset, a shutdown). So neither may depend on the run being alive and awake.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.1
"""Seconds between two looks."""

STANDSTILL = 20.0
"""Seconds that a run may stand still (SIGSTOP, a debugger) while a job waits for it; then it is killed."""

_SMALL = 40
"""On a small file system one part in so many must stay free; the run itself asks for twice as much."""


class JobWatch:
    """Looks after one job. `reserve` is what must stay free on the scratch folder's file system, in bytes."""

    def __init__(self, *, uri: str, vm: str, socket: Path, scratch_folder: Path, reserve: int) -> None:
        self._uri = uri
        self._vm = vm
        self._socket = socket
        self._scratch_folder = scratch_folder
        self._reserve = reserve
        self._run = os.getppid()
        self._stood_since: float | None = None

    def look(self) -> None:
        """End the job when its scratch files have no room left; kill a run that stands still for too long."""
        # At the first look already, so that no time is lost when it matters. Not before there is a job: libvirt's
        # binding takes longer to load than all else, and each run waits until the guard is there.
        from kvm_backup.hypervisor import backup_job  # noqa: F401

        if self._scratch_is_full():
            self._end_job()
        self._kill_when_it_stands()

    def _scratch_is_full(self) -> bool:
        try:
            status = os.statvfs(self._scratch_folder)
        except OSError:
            return False
        return status.f_bavail * status.f_frsize < min(self._reserve, status.f_blocks * status.f_frsize // _SMALL)

    def _end_job(self) -> None:
        from kvm_backup.domain.errors import KvmBackupError
        from kvm_backup.hypervisor import backup_job
        from kvm_backup.hypervisor.connection import Hypervisor

        with suppress(KvmBackupError), Hypervisor.connect(self._uri) as hypervisor:
            backup_job.end_job(hypervisor, self._vm, self._socket)

    def _kill_when_it_stands(self) -> None:
        if not _stands_still(self._run):
            self._stood_since = None
            return
        now = time.monotonic()
        self._stood_since = self._stood_since or now
        if now - self._stood_since >= STANDSTILL and os.getppid() == self._run:
            with suppress(ProcessLookupError):
                os.kill(self._run, signal.SIGKILL)


def _stands_still(pid: int) -> bool:
    """Whether a process is stopped: states T and t of proc(5), /proc/<pid>/stat."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")
