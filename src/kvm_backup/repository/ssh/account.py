"""What an account on the other server allows: a shell, or nothing but rsync."""

from collections.abc import Callable
from enum import StrEnum

from kvm_backup.repository.ssh.connection import SshConnection
from kvm_backup.repository.ssh.scripts import MARKER, PROBE

_ANSWER_SECONDS = 120.0


class Account(StrEnum):
    SHELL = "shell"
    """Commands run there: digests are computed by sha256sum, and a point appears by one rename."""
    RSYNC = "rsync"
    """rsync alone, as with rrsync or without sha256sum: digests by rsync's checksum, the manifest appears last."""


def account_of(connection: SshConnection, watch: Callable[[], None] = lambda: None) -> Account:
    """Try a harmless command. Raises RemoteUnreachableError and its like, and what `watch` raises."""
    done = connection.run(PROBE, watch=watch, timeout=_ANSWER_SECONDS)
    return Account.SHELL if done.status == 0 and done.stdout.strip().endswith(MARKER) else Account.RSYNC
