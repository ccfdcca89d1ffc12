"""What is shipped: one restore point's files, and how rsync is told of exactly them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from kvm_backup.repository.durable import read_limited
from kvm_backup.repository.ssh.transfer import Moved

_BLOCK_MIN = 8 << 10
_BLOCK_MAX = 128 << 10
_BLOCKS = 1 << 20


@dataclass(frozen=True, slots=True)
class Shipped:
    """How it went. `already` tells that the point was there, whole; `repaired` which files had to be mended."""

    moved: Moved
    already: bool = False
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shipment:
    """A local point: its folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def images(self) -> dict[str, str]:
        """Digest by file name, of the qcow2 files."""
        return {disk.file: disk.image_sha256 or "" for disk in self.manifest.disks if disk.file}

    @property
    def files(self) -> dict[str, str]:
        """Digest by file name, of all other files, the manifest among them."""
        return {**{stored.name: stored.sha256 for stored in self.manifest.files}, MANIFEST_FILE: self.manifest_sha256}

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest's very bytes. Raises DamagedPointError, StorageError."""
        return hashlib.sha256(read_limited(self.folder / MANIFEST_FILE, MANIFEST_BYTES_MAX)).hexdigest()

    @property
    def names(self) -> list[str]:
        """All files of the point, the manifest last."""
        return [*self.images, *self.files]

    @property
    def size(self) -> int:
        return self.manifest.bytes_stored

    @property
    def parent_stamp(self) -> str:
        return self.manifest.parent.split("/")[1] if self.manifest.parent else ""

    def only(self, *names: str) -> list[str]:
        """rsync's options to take these files of the folder and no others; without names, all of the point's."""
        return [*(f"--include=/{name}" for name in names or self.names), "--exclude=*"]

    def block_size(self) -> str:
        """rsync's option for a delta: small blocks, since changes are scattered clusters, yet at most a million."""
        largest = max((disk.bytes_stored for disk in self.manifest.disks), default=0)
        size = min(max(_BLOCK_MIN, largest // _BLOCKS), _BLOCK_MAX)
        return f"--block-size={size - size % 8}"

    def damaged(self, place: str, names: list[str]) -> DamagedPointError:
        return DamagedPointError(
            phrase(
                "{id} did not arrive whole at {place}: {names}",
                id=self.manifest.id,
                place=place,
                names=", ".join(names),
            ),
            hint=phrase(
                "It was sent twice and differs. Verify the point here; then look at the disks of that server."
            ),
            vm=self.manifest.vm_name,
        )
