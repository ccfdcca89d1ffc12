"""Runs the command `kvm-backup` as it is, but stops its own process (SIGSTOP) at one instant, for a test to act.

usage: python -m tests.integration.faults.driver INSTANT WORDS...

SIGSTOP reaches every thread at once, and SIGKILL a stopped process too: so a test kills in exactly that instant.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvm_backup.cli import main
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.names import PARTIAL_PREFIX
from kvm_backup.engine.copy import WAIT_SECONDS
from kvm_backup.hypervisor import backup_job
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository import durable
from kvm_backup.runtime.daemon import Daemon
from kvm_backup.services import events, restore_in_place, restore_task, session, snapshot, staging
from kvm_backup.services.recording import RecordingListener

STEP = "step:"
"""INSTANT `step:publish`: a step was announced."""
PROGRESS = "progress:"
"""INSTANT `progress:copy`: the first bytes of a step were dealt with, and not the last."""

TOLD_TO_END = "told-to-end:"
"""INSTANT `told-to-end:restore`: as PROGRESS, but nothing stands still: the service gets SIGTERM there."""


def stop() -> None:
    """Stand still; behind this the test has acted, and let us go on."""
    sys.stdout.flush()
    # To this thread: sent to the process, it may be taken by another, and this one would run on for a moment.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def always(*_words: Any) -> bool:
    return True


def of_a_point(old: Path, _new: Path) -> bool:
    """Of all renames the one that makes a point visible."""
    return old.name.startswith(PARTIAL_PREFIX)


def before(owner: Any, name: str, wanted: Callable[..., bool] = always) -> None:
    """Stop when `owner.name` is called for the first time with arguments that are wanted."""
    real = getattr(owner, name)

    def stopping(*words: Any, **named: Any) -> Any:
        if wanted(*words):
            setattr(owner, name, real)
            stop()
        return real(*words, **named)

    setattr(owner, name, stopping)


def after(owner: Any, name: str, wanted: Callable[..., bool] = always) -> None:
    """Stop when `owner.name`, called with arguments that are wanted, has returned for the first time."""
    real = getattr(owner, name)

    def stopping(*words: Any, **named: Any) -> Any:
        result = real(*words, **named)
        if wanted(*words):
            setattr(owner, name, real)
            stop()
        return result

    setattr(owner, name, stopping)


def at_event(wanted: Callable[[events.Event], bool], act: Callable[[], None] = stop) -> None:
    """Act at the first event that is wanted, after it was told: on the screen, or by the service to the history."""
    done = False

    def stopping(listener: Any) -> None:
        real = listener.__call__

        def telling(self: Any, event: events.Event) -> None:
            nonlocal done
            real(self, event)
            if not done and wanted(event):
                done = True
                act()

        listener.__call__ = telling

    stopping(EventView)
    stopping(RecordingListener)


def tell_to_end_at(wanted: Callable[[events.Event], bool]) -> None:
    """No stop: the service gets SIGTERM at that event, and has taken note of it when its run goes on."""
    real = Daemon.run
    services: list[Daemon] = []

    def running(service: Daemon) -> None:
        services.append(service)
        real(service)

    def tell() -> None:
        signal.raise_signal(signal.SIGTERM)
        services[0].activity.ending.wait()
        time.sleep(WAIT_SECONDS)  # so often does a copy look whether it shall end

    Daemon.run = running  # type: ignore[assignment,method-assign]
    at_event(wanted, tell)


INSTANTS: dict[str, Callable[[], None]] = {
    # A backup of a running VM.
    "frozen": lambda: before(backup_job, "begin"),
    "begun": lambda: after(backup_job, "begin"),
    "manifest-written": lambda: before(durable, "rename", of_a_point),
    "renamed": lambda: after(durable, "rename", of_a_point),
    "repository-written": lambda: before(durable, "rename"),
    # Of a stopped one.
    "offline-checkpoint-made": lambda: after(session, "create_offline_checkpoint"),
    # A snapshot.
    "before-snapshot": lambda: before(snapshot, "create_snapshot"),
    "snapshot-made": lambda: after(snapshot, "create_snapshot"),
    "point-withdrawn": lambda: before(snapshot, "delete_snapshot"),
    # A restore in place.
    "disks-written": lambda: before(restore_in_place, "_exchange"),
    "first-disk-exchanged": lambda: before(durable, "sync_folder"),
    "disks-exchanged": lambda: after(restore_in_place, "_exchange"),
    "before-definition": lambda: before(restore_in_place, "forget_checkpoints"),
    # Any other restore.
    "first-file-published": lambda: after(staging, "_link"),
    "files-published": lambda: after(staging.Staging, "publish"),
    "vm-defined": lambda: after(Hypervisor, "define"),
    "vm-started": lambda: after(Hypervisor, "start"),
    "restored": lambda: after(restore_task.Restorer, "restore"),
}


def arrange(instant: str) -> None:
    """Prepare to stop at that instant."""
    if instant.startswith(TOLD_TO_END):
        step = instant[len(TOLD_TO_END) :]
        tell_to_end_at(lambda event: isinstance(event, events.Progress) and event.step == step)
    elif instant.startswith(STEP):
        at_event(lambda event: isinstance(event, events.StepStarted) and event.step == instant[len(STEP) :])
    elif instant.startswith(PROGRESS):
        step = instant[len(PROGRESS) :]
        at_event(lambda event: isinstance(event, events.Progress) and event.step == step and event.done < event.total)
    else:
        INSTANTS[instant]()


if __name__ == "__main__":
    arrange(sys.argv.pop(1))
    sys.argv[0] = "kvm-backup"
    main.main()
