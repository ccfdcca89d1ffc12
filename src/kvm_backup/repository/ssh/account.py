"""What an account on the other server allows: a shell, or nothing but rsync."""

from enum import StrEnum

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.repository.ssh.connection import SshConnection
from kvm_backup.repository.ssh.scripts import MARKER, PROBE

_ANSWER_SECONDS = 120.0


class Account(StrEnum):
    SHELL = "shell"
    """Commands run there: digests are computed by sha256sum, and a point appears by one rename."""
    RSYNC = "rsync"
    """rsync alone, as with rrsync or without sha256sum: digests by rsync's checksum, the manifest appears last."""


def account_of(connection: SshConnection) -> Account:
    """Try a harmless command. Raises RemoteUnreachableError and its like."""
    try:
        done = connection.run(PROBE, timeout=_ANSWER_SECONDS)
    except RemoteUnreachableError:
        raise
    return Account.SHELL if done.status == 0 and done.stdout.strip().endswith(MARKER) else Account.RSYNC
