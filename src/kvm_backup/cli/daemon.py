"""kvm-backup daemon"""

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType

from kvm_backup.cli.context import application
from kvm_backup.cli.output import printable

_saying = threading.Lock()


def daemon() -> None:
    """Run what is scheduled and what commands hand over, until the process is told to end.

    It stays in the foreground and says on standard error what it does; systemd keeps it running (install-service).
    SIGTERM and Ctrl-C end it in order: copies that go on are cancelled and done again after the next start, or
    finished first, as the setting scheduler.on_stop says.
    """
    run_service()


def run_service(beside: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """The service, with what goes on beside it."""
    from kvm_backup.bootstrap.service import make_service  # with DBOS, which takes long to load

    parts = application()
    made = make_service(parts, say, beside)

    def end(_number: int, _frame: FrameType | None) -> None:
        made.activity.ending.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    made.run()
    # Whoever copies the file of the history when no service runs should have all of it.
    parts.database.close()


def say(message: str) -> None:
    """A line for a person, or for systemd's journal, which adds the time."""
    with _saying:
        sys.stderr.write(f"{printable(message)}\n")
        sys.stderr.flush()
