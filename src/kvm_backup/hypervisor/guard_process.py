"""The guard's own program: `python -m kvm_backup.hypervisor.guard_process FD URI VM SOCKET SCRATCH_FOLDER RESERVE`.

It imports little before it watches, because each backup waits for that. Once its parent is gone it tries for a
bounded time and then leaves the rest to the next run's clean-up.
"""

import os
import signal
import socket
import sys
import syslog
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.hypervisor.guard_watch import INTERVAL, JobWatch

SETTLE = 5.0
"""Seconds in which a job, or a freeze, that libvirtd was just beginning when we died may still turn up."""

PATIENCE = 60.0
"""Seconds to try for, in all, when libvirt does not answer."""


@dataclass(slots=True)
class Plan:
    """What there is to undo."""

    vm: str
    socket: Path
    scratch_folder: Path
    frozen: bool = False
    beginning: bool = False
    job: bool = False
    """Whether a job goes on that must be watched."""
    checkpoint: str | None = None
    durable: bool = False
    done: bool = False

    def note(self, line: str) -> None:
        """Take in one line from the parent."""
        word, _, rest = line.partition(" ")
        if word in ("freezing", "thawed"):
            self.frozen = word == "freezing"
        elif word in ("beginning", "begun"):
            self.beginning = word == "beginning"
            self.job = True
        elif word == "ended":
            self.job = False
        elif word == "checkpoint":
            self.checkpoint, self.durable = rest, False
        elif word == "durable":
            self.durable = True
        elif word == "done":
            self.done = True


def main(argv: list[str]) -> int:
    """Watch, and clean up if need be; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    descriptor, uri, vm, socket_path, scratch_folder, reserve = argv
    plan = Plan(vm, Path(socket_path), Path(scratch_folder))
    job_watch = JobWatch(uri=uri, vm=vm, socket=plan.socket, scratch_folder=plan.scratch_folder, reserve=int(reserve))
    with socket.socket(fileno=int(descriptor)) as wire:
        # Not to be inherited by programs that we start.
        os.set_inheritable(wire.fileno(), False)  # noqa: FBT003 (the standard library's signature)
        wire.sendall(b"ready\n")
        wire.settimeout(INTERVAL)
        watch(wire, plan, job_watch.look)
    if plan.done:
        return 0
    return clean_up(uri, plan)


def watch(wire: socket.socket, plan: Plan, look: Callable[[], None] = lambda: None) -> None:
    """Take notes until the parent says `done` or is gone; calls `look` now and then while a job goes on."""
    rest = b""
    while not plan.done:
        try:
            got = wire.recv(4096)
        except TimeoutError:
            if plan.job:
                look()
            continue
        except OSError:
            return
        if not got:
            return
        *lines, rest = (rest + got).split(b"\n")
        for line in lines:
            plan.note(line.decode())


def clean_up(uri: str, plan: Plan) -> int:
    """Undo what the dead run left, the guest's well-being first. Returns 1 when something could not be undone."""
    # Imported here because libvirt's binding takes longer to load than all else.
    from kvm_backup.hypervisor import backup_job, checkpoints, guest_agent, nbd_servers, run_folder
    from kvm_backup.hypervisor.connection import Hypervisor

    deadline = time.monotonic() + PATIENCE
    steps: list[tuple[str, Callable[[Hypervisor], object]]] = []
    if plan.frozen:
        steps.append(("thaw", lambda hypervisor: guest_agent.thaw(hypervisor, plan.vm)))
    steps.append(("end the backup job", lambda hypervisor: backup_job.end_job(hypervisor, plan.vm, plan.socket)))
    name = plan.checkpoint
    if name is not None and not plan.durable:
        steps.append(
            ("delete the checkpoint", lambda hypervisor: checkpoints.delete_checkpoint(hypervisor, plan.vm, name))
        )
    for pid in list(nbd_servers.find(plan.socket.parent)):
        nbd_servers.stop(pid, plan.socket.parent)
    settled = time.monotonic() + (SETTLE if plan.beginning or plan.frozen else 0.0)
    while True:
        failed = [what for what, step in steps if not _tried(what, step, uri, deadline)]
        if time.monotonic() >= settled:
            break
        time.sleep(0.25)
    run_folder.clear(plan.scratch_folder)
    run_folder.clear(plan.socket.parent)
    return 1 if failed else 0


def _tried(what: str, step: Callable[..., object], uri: str, deadline: float) -> bool:
    from kvm_backup.domain.errors import KvmBackupError, VmNotFoundError
    from kvm_backup.hypervisor.connection import Hypervisor

    while True:
        try:
            with Hypervisor.connect(uri) as hypervisor:
                step(hypervisor)
            return True
        except VmNotFoundError:
            return True
        except KvmBackupError as error:
            if time.monotonic() >= deadline:
                syslog.syslog(syslog.LOG_ERR, f"kvm-backup: cannot {what} after a backup died: {error.message}")
                return False
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
