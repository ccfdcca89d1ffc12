"""Digests of the encrypted files that arrived on a server. They are made anew with other bytes each time, so that
only who remembers these can ask the server whether it still holds them whole.

In the mirror's folder, `.arrived/<VM's folder>/<time>.json`: {"manifest_sha256": of the plain manifest,
"recipients": [public keys], "files": [{"name", "sha256", "bytes"}]}, the manifest's file last.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvm_backup.domain.errors import DamagedPointError
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.files import EncryptedFile

_FOLDER = ".arrived"
_BYTES_MAX = 1 << 20


class ArrivedFiles:
    """In the folder of a mirror."""

    def __init__(self, mirror: Path) -> None:
        self._root = mirror / _FOLDER

    def note(self, point_id: str, manifest: bytes, files: Sequence[EncryptedFile], recipients: Sequence[str]) -> None:
        """Durably: what a point in the state of this plain manifest was sent as, and arrived, and for whom it is
        encrypted. Raises StorageError, NoSpaceError.
        """
        path = self._path(point_id)
        fields = {
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
            "recipients": list(recipients),
            "files": [asdict(file) for file in files],
        }
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(error, path) from error
        durable.replace_content(path, (json.dumps(fields, indent=2) + "\n").encode())

    def known(self, point_id: str, manifest: bytes) -> tuple[EncryptedFile, ...]:
        """Those of a point in that state; none when that is not known. Raises StorageError."""
        try:
            return tuple(EncryptedFile(**each) for each in self._fields(point_id, manifest)["files"])
        except (DamagedPointError, ValueError, TypeError, KeyError, RecursionError):
            return ()

    def recipients(self, point_id: str, manifest: bytes) -> frozenset[str]:
        """Whom a point in that state is encrypted for there; nobody when that is not known. Raises StorageError."""
        try:
            return frozenset(map(str, self._fields(point_id, manifest)["recipients"]))
        except (DamagedPointError, ValueError, TypeError, KeyError, RecursionError):
            return frozenset()

    def forget(self, point_id: str) -> None:
        """One that is not known is no error. Raises StorageError."""
        path = self._path(point_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise durable.storage_error(error, path) from error
        with suppress(OSError):  # other points of the VM are in it
            path.parent.rmdir()

    def _fields(self, point_id: str, manifest: bytes) -> dict[str, Any]:
        """Raises DamagedPointError, StorageError, as json does, and KeyError when it is known in another state."""
        fields: dict[str, Any] = json.loads(durable.read_limited(self._path(point_id), _BYTES_MAX))
        if fields["manifest_sha256"] != hashlib.sha256(manifest).hexdigest():
            raise KeyError(point_id)
        return fields

    def _path(self, point_id: str) -> Path:
        return self._root / f"{point_id}.json"
