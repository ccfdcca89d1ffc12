"""What an incremental needs of a parent whose images are elsewhere: a map of the clusters that they hold data in.

Without it nobody would notice that a disk was shrunk and grown again between two backups, and the new point would
show the old data there. It is made before the images go, one file for each disk: `vda.held` for vda.
"""

from dataclasses import dataclass, field
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import DiskMode, Manifest
from kvm_backup.engine.held import HeldClusters, packed_size_max
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.links import links_anywhere

_SUFFIX = ".held"


@dataclass(frozen=True, slots=True)
class Below:
    """What a disk of a new incremental builds on: images, base first, and what they in turn build on elsewhere."""

    images: list[Path] = field(default_factory=list)
    held: HeldClusters | None = None


def disk_below(repository: LocalRepository, chain: list[Manifest], target: str) -> Below:
    """What a disk of the last point of `chain` is made of.

    Raises BrokenChainError; DamagedPointError, DamagedImageError, StorageError for a map that cannot be used.
    """
    links = links_anywhere(repository, chain, target)
    for place in range(len(links) - 1, -1, -1):
        manifest = links[place].manifest
        if repository.elsewhere(manifest.id) is not None:
            return Below([link.path for link in links[place + 1 :]], _read(repository, manifest, target))
    return Below([link.path for link in links])


def keep_maps(repository: LocalRepository, manifest: Manifest) -> None:
    """Write, durably, the maps of a point whose images are here; those that are there already stay.

    Raises BrokenChainError, DamagedPointError, DamagedImageError, StorageError.
    """
    chain = repository.chain(manifest)
    for target in _mapped(manifest):
        if _is_kept(repository, manifest, target):
            continue
        below = disk_below(repository, chain, target)
        held = below.held or HeldClusters()
        for path in below.images:
            with ImageFile.open(path) as image:
                held = held.under(image)
        durable.replace_content(_path(repository, manifest, target), held.pack(manifest.identity, target))


def forget_maps(repository: LocalRepository, manifest: Manifest) -> None:
    """Remove the maps of a point that nothing new is built on. Raises StorageError."""
    for target in _mapped(manifest):
        path = _path(repository, manifest, target)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise durable.storage_error(error, path) from error


def map_files(manifest: Manifest) -> set[str]:
    """The names of the files that the maps of a point have."""
    return {f"{target}{_SUFFIX}" for target in _mapped(manifest)}


def _mapped(manifest: Manifest) -> list[str]:
    """A disk that is saved whole each time has no bitmap to be checked."""
    return [disk.target for disk in manifest.disks if disk.mode in (DiskMode.FULL, DiskMode.INCREMENTAL)]


def _is_kept(repository: LocalRepository, manifest: Manifest, target: str) -> bool:
    try:
        _read(repository, manifest, target)
    except KvmBackupError:
        return False
    return True


def _read(repository: LocalRepository, manifest: Manifest, target: str) -> HeldClusters:
    size = next(disk.virtual_size for disk in manifest.disks if disk.target == target)
    content = durable.read_limited(_path(repository, manifest, target), packed_size_max(size))
    return HeldClusters.unpack(content, manifest.identity, target, size)


def _path(repository: LocalRepository, manifest: Manifest, target: str) -> Path:
    return repository.path_of(manifest.id) / f"{target}{_SUFFIX}"
