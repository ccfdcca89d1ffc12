"""What a key may do to points that are on the server already. Found out by asking rsync for a dry run alone."""

import tempfile
from pathlib import Path

from kvm_backup.domain.errors import RemoteAccessError
from kvm_backup.repository.ssh.transfer import Transfer


def may_remove(transfer: Transfer) -> bool:
    """Whether the account may remove what lies there. Raises RemoteUnreachableError and its like."""
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as nothing:
        try:
            transfer.differing(Path(nothing), transfer.connection.address.below(".check"), "--delete")
        except RemoteAccessError:
            return False
    return True
