"""Which points the server does not hold as they were sent, as far as names and sizes tell: nothing is read there."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kvm_backup.repository.durable import storage_error
from kvm_backup.repository.ssh.transfer import Transfer


class SentFile(NamedTuple):
    """A file of a point as it lies there; `bytes` is None where its size is not known."""

    name: str
    bytes: int | None


def incomplete(transfer: Transfer, sent: Mapping[str, Sequence[SentFile]]) -> list[str]:
    """The ids among these points, in order, of which a file is missing there or has another size.

    Raises StorageError, RemoteAccessError when the account may not write, RemoteUnreachableError and its like, and
    what the watch raises.
    """
    names: list[str] = []
    for is_known, option in ((True, "--size-only"), (False, "--ignore-existing")):
        files = {
            point: [one for one in all_of if (one.bytes is not None) is is_known] for point, all_of in sent.items()
        }
        if any(files.values()):
            names += _differing(transfer, files, option)
    return sorted({"/".join(name.split("/")[:2]) for name in names})


def _differing(transfer: Transfer, sent: Mapping[str, Sequence[SentFile]], option: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as made:
        root = Path(made)
        for point, files in sent.items():
            (root / point).mkdir(parents=True)
            for file in files:
                _hole(root / point / file.name, file.bytes or 0)
        return transfer.differing(root, transfer.connection.address.path, option)


def _hole(path: Path, size: int) -> None:
    """A file of that size that takes no room."""
    try:
        path.touch()
        os.truncate(path, size)
    except OSError as error:
        raise storage_error(error, path) from error
