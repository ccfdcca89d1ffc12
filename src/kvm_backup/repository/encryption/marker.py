"""kvm-backup.json where the points are encrypted: format 2, which programs that cannot decrypt them refuse to open.

Whom they are encrypted for is in a file of its own, for people and for `age -R`: recipients may change, and an
account that only adds files could not change the other one.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kvm_backup.domain.errors import RepositoryFormatError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.local import ENCRYPTED_FORMAT_VERSION, FORMAT_VERSION, REPOSITORY_FILE

RECIPIENTS_FILE = "kvm-backup.recipients"
_BYTES_MAX = 65536
_SCHEME = {"scheme": "age"}


def encrypted_identity(content: bytes) -> bytes:
    """A local repository's kvm-backup.json for where its points are encrypted. Raises RepositoryFormatError."""
    return _written({**_fields(content), "format": ENCRYPTED_FORMAT_VERSION, "encrypted": _SCHEME})


def plain_identity(content: bytes) -> bytes:
    """The way back, for a mirror whose manifests are decrypted. Raises RepositoryFormatError."""
    fields = _fields(content)
    del fields["encrypted"]
    return _written({**fields, "format": FORMAT_VERSION})


def is_encrypted(content: bytes) -> bool:
    """Whether this kvm-backup.json says that the points beside it are encrypted in the way that we know."""
    try:
        fields = _fields(content)
    except RepositoryFormatError:
        return False
    return fields.get("format") == ENCRYPTED_FORMAT_VERSION and fields.get("encrypted") == _SCHEME


@contextmanager
def identity_folder(local_root: Path, recipients: Sequence[str]) -> Iterator[Path]:
    """A folder with what an encrypted copy of that local repository has at its root.

    Raises RepositoryFormatError, DamagedPointError when there is no repository, StorageError.
    """
    content = encrypted_identity(durable.read_limited(local_root / REPOSITORY_FILE, _BYTES_MAX))
    with TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
        (Path(folder) / REPOSITORY_FILE).write_bytes(content)
        (Path(folder) / RECIPIENTS_FILE).write_text("".join(f"{each}\n" for each in recipients), encoding="ascii")
        yield Path(folder)


def _fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content[: _BYTES_MAX + 1])
    except (ValueError, RecursionError) as error:
        raise _unreadable(str(error)) from error
    if not isinstance(fields, dict):
        raise _unreadable("it is no object")
    return fields


def _written(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _unreadable(cause: str) -> RepositoryFormatError:
    return RepositoryFormatError(
        phrase("{file} cannot be read: {error}", file=REPOSITORY_FILE, error=cause),
        hint=phrase("It was left as it is. The points beside it are plain files; qemu-img can still restore them."),
    )
