"""What an account on the other server allows: a shell, adding points, or nothing but rsync."""

from collections.abc import Callable
from enum import StrEnum

from kvm_backup.repository.ssh.connection import SshConnection
from kvm_backup.repository.ssh.scripts import MARKER, PROBE

_ANSWER_SECONDS = 120.0

ADD_ONLY = "kvm-backup-add-only"
"""The forced command of a key that only adds (scripts/kvm-backup-add-only): the first word of what is asked of it,
and its answer to `probe`."""


class Account(StrEnum):
    SHELL = "shell"
    """Commands run there: digests are computed by sha256sum, and a point appears by one rename."""
    ADDING = "adding"
    """Points can be added and compared: digests by rsync's checksum, and a point appears by one rename."""
    RSYNC = "rsync"
    """rsync alone, as with rrsync or without sha256sum: digests by rsync's checksum, the manifest appears last."""


def account_of(connection: SshConnection, watch: Callable[[], None] = lambda: None) -> Account:
    """Try harmless commands. Raises RemoteUnreachableError and its like, and what `watch` raises."""
    done = connection.run(PROBE, watch=watch, timeout=_ANSWER_SECONDS)
    if done.status == 0 and done.stdout.strip().endswith(MARKER):
        return Account.SHELL
    done = connection.ask(ADD_ONLY, "probe", watch=watch, timeout=_ANSWER_SECONDS)
    return Account.ADDING if done.status == 0 and done.stdout.strip() == ADD_ONLY else Account.RSYNC
