"""Which points the server does not hold as they were sent, as far as names and sizes tell: nothing is read there."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvm_backup.repository.durable import storage_error
from kvm_backup.repository.encryption.files import EncryptedFile
from kvm_backup.repository.ssh.transfer import Transfer


def incomplete(transfer: Transfer, sent: Mapping[str, Sequence[EncryptedFile]]) -> list[str]:
    """The ids among these points, in order, of which a file is missing there or has another size.

    Raises StorageError, RemoteAccessError when the account may not write, RemoteUnreachableError and its like, and
    what the watch raises.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as made:
        root = Path(made)
        for point, files in sent.items():
            (root / point).mkdir(parents=True)
            for file in files:
                _hole(root / point / file.name, file.bytes)
        names = transfer.differing(root, transfer.connection.address.path, "--size-only")
    return sorted({"/".join(name.split("/")[:2]) for name in names})


def _hole(path: Path, size: int) -> None:
    """A file of that size that takes no room."""
    try:
        path.touch()
        os.truncate(path, size)
    except OSError as error:
        raise storage_error(error, path) from error
