"""What commands leave in the audit log."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Actor, Outcome, Via
from kvm_backup.domain.errors import DatabaseError, KvmBackupError


class Note:
    """What the line says; the command may say it better once it knows more."""

    def __init__(self, subject: str, detail: str) -> None:
        self.subject = subject
        self.detail = detail


@contextmanager
def audited(parts: Application, action: str, subject: str, detail: str = "") -> Iterator[Note]:
    """Write down what is done in here, and how it ended. Raises what is raised in here, and DatabaseError."""
    note = Note(subject, detail)
    try:
        yield note
    except DatabaseError:
        raise  # the log is in the same database
    except KvmBackupError as error:
        parts.audit.add(_actor(), action, note.subject, Outcome.FAILED, error.code)
        raise
    parts.audit.add(_actor(), action, note.subject, Outcome.DONE, note.detail)


def _actor() -> Actor:
    """The operating system's user; behind sudo both, since the one who typed it is the one to ask."""
    name = _user_name()
    by = os.environ.get("SUDO_USER")
    return Actor(f"{name} (sudo: {by})" if by and by != name else name, Via.COMMAND)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return str(os.getuid())
