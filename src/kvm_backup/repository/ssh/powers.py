"""What a key may do to points that are on the server already. Found out by asking rsync for dry runs alone."""

import tempfile
from pathlib import Path

from kvm_backup.domain.errors import RemoteAccessError
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.transfer import Transfer


def only_adds(transfer: Transfer, founded: Path) -> bool:
    """Whether the account can neither change nor remove what lies there, as with rrsync -no-del -no-overwrite.

    `founded` holds the kvm-backup.json that is there. Raises RemoteUnreachableError and its like.
    """
    if account_of(transfer.connection, transfer.watch.check) is Account.SHELL:
        return False
    return not _overwrites(transfer, founded) and not may_remove(transfer)


def _overwrites(transfer: Transfer, founded: Path) -> bool:
    # A server that overwrites nothing skips what exists, whatever it holds, and so names no file.
    only = (f"--include=/{REPOSITORY_FILE}", "--exclude=*")
    return bool(transfer.differing(founded, transfer.connection.address.path, "--ignore-times", *only))


def may_remove(transfer: Transfer) -> bool:
    """Whether the account may remove what lies there. Raises RemoteUnreachableError and its like."""
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as nothing:
        try:
            transfer.differing(Path(nothing), transfer.connection.address.below(".check"), "--delete")
        except RemoteAccessError:
            return False
    return True
