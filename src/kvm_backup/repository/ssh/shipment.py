"""What is shipped: one restore point's files, and how rsync is told of exactly them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from kvm_backup.domain.errors import (
    BrokenChainError,
    DamagedPointError,
    KvmBackupError,
    PointChangedError,
    RepositoryFormatError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, parse
from kvm_backup.repository.durable import read_limited, storage_error
from kvm_backup.repository.encryption.files import SUFFIX, EncryptedFile
from kvm_backup.repository.ssh.transfer import Moved

ENCRYPTED_MANIFEST_FILE = f"{MANIFEST_FILE}{SUFFIX}"
_BLOCK_MIN = 8 << 10
_BLOCK_MAX = 128 << 10
_BLOCKS = 1 << 20
_HEAD = 64 << 10
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Shipped:
    """How it went. `already` tells that the point was there, whole; `repaired` which files had to be mended."""

    moved: Moved
    already: bool = False
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shipment:
    """A local point: its folder and manifest.

    With `encrypted` the folder holds these files instead, made from the point (repository/encryption), the
    manifest's last.
    """

    folder: Path
    manifest: Manifest
    encrypted: tuple[EncryptedFile, ...] = ()

    @cached_property
    def images(self) -> dict[str, str]:
        """Digest by file name, of the qcow2 files, whose first cluster is digested last."""
        if self.encrypted:
            return {}
        return {disk.file: disk.image_sha256 or "" for disk in self.manifest.disks if disk.file}

    @cached_property
    def files(self) -> dict[str, str]:
        """Digest by file name, of all other files, the manifest last. Raises as `manifest_content`."""
        if self.encrypted:
            return {file.name: file.sha256 for file in self.encrypted}
        return {**{stored.name: stored.sha256 for stored in self.manifest.files}, MANIFEST_FILE: self.manifest_sha256}

    @property
    def manifest_file(self) -> str:
        return ENCRYPTED_MANIFEST_FILE if self.encrypted else MANIFEST_FILE

    @cached_property
    def manifest_content(self) -> bytes:
        """The very bytes of the manifest's file, read once: it may be replaced meanwhile.

        Raises PointChangedError when it is not that of `manifest` any more, DamagedManifestError, StorageError.
        """
        content = self._read()
        if not self.encrypted and parse(content, f"{self.manifest.id}/{MANIFEST_FILE}") != self.manifest:
            raise self._changed()
        return content

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.manifest_content).hexdigest()

    @property
    def names(self) -> list[str]:
        """All files of the point, the manifest last."""
        return [*self.images, *self.files]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        if self.encrypted:
            return sum(file.bytes for file in self.encrypted)
        return self.manifest.bytes_stored

    @property
    def parent_stamp(self) -> str:
        return self.manifest.parent.split("/")[1] if self.manifest.parent else ""

    def only(self, *names: str) -> list[str]:
        """rsync's options to take these files of the folder and no others; without names, all of the point's."""
        return [*(f"--include=/{name}" for name in names or self.names), "--exclude=*"]

    def as_delta(self) -> list[str]:
        """rsync's options to send files as the difference to what is there, in place, in small blocks, since changes
        are scattered clusters, yet at most a million."""
        largest = max((disk.bytes_stored for disk in self.manifest.disks), default=0)
        size = min(max(_BLOCK_MIN, largest // _BLOCKS), _BLOCK_MAX)
        return ["--inplace", "--ignore-times", "--no-whole-file", f"--block-size={size - size % 8}"]

    @contextmanager
    def manifest_alone(self) -> Iterator[Path]:
        """A folder with nothing but the manifest as it was when the shipment began."""
        with TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
            (Path(folder) / self.manifest_file).write_bytes(self.manifest_content)
            yield Path(folder)

    def check_unchanged(self) -> None:
        """Raises PointChangedError when the point here is not the one any more that the shipment began with."""
        if self._read() != self.manifest_content:
            raise self._changed()

    def check_files(self, check: Callable[[], None]) -> None:
        """Read all files here and compare them with their digests; `check` is called now and then.

        Raises PointChangedError, DamagedPointError when they are damaged, StorageError.
        """
        wrong = [
            name
            for digests, head in ((self.images, _HEAD), (self.files, 0))
            for name, digest in digests.items()
            if _sha256(self.folder / name, head, check) != digest
        ]
        self.check_unchanged()
        if wrong:
            raise DamagedPointError(
                phrase("{id} is damaged here: {names}", id=self.manifest.id, names=", ".join(wrong)),
                hint=phrase("Nothing of it became visible on the other server. Run 'kvm-backup verify' on it."),
                vm=self.manifest.vm_name,
            )

    def damaged(self, place: str, names: list[str], check: Callable[[], None]) -> KvmBackupError:
        """The error for files that arrived otherwise than they should, wherever the cause is."""
        try:
            self.check_files(check)
        except KvmBackupError as error:
            return error
        return DamagedPointError(
            phrase(
                "{id} did not arrive whole at {place}: {names}",
                id=self.manifest.id,
                place=place,
                names=", ".join(names),
            ),
            hint=phrase("It was sent twice, and is whole here. Look at the disks and the memory of that server."),
            vm=self.manifest.vm_name,
        )

    def parent_missing(self, place: str) -> BrokenChainError:
        return BrokenChainError(
            phrase(
                "{id} needs {parent}, which is not at {place}",
                id=self.manifest.id,
                parent=self.manifest.parent,
                place=place,
            ),
            hint=phrase("Ship the older points first; what arrived of this one stays."),
            vm=self.manifest.vm_name,
        )

    def changed_there(self, place: str) -> RepositoryFormatError:
        return RepositoryFormatError(
            phrase("{id} was changed at {place} meanwhile", id=self.manifest.id, place=place),
            hint=phrase("Something else writes to that repository; nothing was replaced."),
            vm=self.manifest.vm_name,
        )

    def _read(self) -> bytes:
        try:
            return read_limited(self.folder / self.manifest_file, 2 * MANIFEST_BYTES_MAX)
        except DamagedPointError as error:
            if self.folder.is_dir():
                raise
            raise self._changed() from error

    def _changed(self) -> PointChangedError:
        return PointChangedError(
            phrase("{id} was changed or removed here while it was being shipped", id=self.manifest.id),
            hint=phrase("What is there now is shipped by the next try; nothing is lost."),
            vm=self.manifest.vm_name,
        )


def _sha256(path: Path, head: int, check: Callable[[], None]) -> str:
    """Of a file's bytes from `head` on, then of its first `head` bytes; empty when it is gone."""
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            first = file.read(head)
            while piece := file.read(_PIECE):
                check()
                hasher.update(piece)
            hasher.update(first)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise storage_error(error, path) from error
    return hasher.hexdigest()
