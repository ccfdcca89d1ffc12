"""What every command shares: the application, and the wish to stop."""

import signal
import threading
from functools import cache
from types import FrameType
from typing import Annotated

import typer

from kvm_backup.bootstrap import Application

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RepositoryOption = Annotated[
    str | None, typer.Option("--repository", "-r", metavar="NAME", help="A repository's name or path.")
]

_stop = threading.Event()


@cache
def application(*, makes_settings: bool = False) -> Application:
    """The application of this process; `makes_settings` for a command that writes them. Raises SettingsError."""
    from kvm_backup.cli.key import ask_for_identities

    return Application.from_environment(ask_for_identities, makes_settings=makes_settings)


def stop_requested() -> bool:
    """Whether the user pressed Ctrl-C or the process was asked to end."""
    return _stop.is_set()


def stop_on_signals() -> None:
    """The first signal lets the run end cleanly; a second Ctrl-C interrupts at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)


def ignore_suspension() -> None:
    """Ctrl-Z would leave QEMU, and so perhaps the guest, waiting for a reader that stands still."""
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    if _stop.is_set() and number == signal.SIGINT:
        raise KeyboardInterrupt
    _stop.set()
