"""Is every file of a repository accounted for? Looks at names, sizes and manifests; reads no disk data."""

import errno
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import BrokenChainError
from kvm_backup.domain.names import PARTIAL_PREFIX, is_stamp
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest
from kvm_backup.repository import durable
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE
from kvm_backup.repository.encryption.staging import stagings
from kvm_backup.repository.local import FILE_SYSTEM_FOLDER, REPOSITORY_FILE, DamagedPoint, LocalRepository
from kvm_backup.services.held_maps import map_files


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something that is not as it should be."""

    path: Path
    problem: str


def check_repository(repository: LocalRepository) -> Iterator[Oddity]:
    """Everything that is missing, damaged, of the wrong size, or not ours. Raises StorageError."""
    known = {folder.name for folder in repository.folders()} | {REPOSITORY_FILE, FILE_SYSTEM_FOLDER}
    for entry in _entries(repository.root):
        if entry.name not in known:
            yield Oddity(entry, phrase("is not part of a repository"))
    for folder in repository.folders():
        encrypted = {staging.folder.name for staging in stagings(folder)}
        for entry in _entries(folder):
            if entry.name.startswith(PARTIAL_PREFIX):
                yield Oddity(
                    entry,
                    phrase("is an unfinished point; 'kvm-backup doctor --clean' removes it if its run is dead"),
                )
            elif entry.name in encrypted:
                continue  # waits to be sent
            elif not is_stamp(entry.name) or entry.is_symlink() or not entry.is_dir():
                yield Oddity(entry, phrase("is not a restore point"))
        for point in repository.points(folder):
            yield from _check_point(repository, point)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise durable.storage_error(error, folder) from error


def _check_point(repository: LocalRepository, point: Manifest | DamagedPoint) -> Iterator[Oddity]:
    if isinstance(point, DamagedPoint):
        yield Oddity(point.path, point.error.message)
        return
    folder = repository.path_of(point.id)
    expected = {stored.name: stored.bytes for stored in point.files}
    images = {disk.file: disk.bytes_stored for disk in point.disks if disk.file}
    names = repository.elsewhere(point.id)
    if names is None:
        expected |= images
    elif not names:
        yield Oddity(folder, phrase("has its images here no longer, and no repository holds them any more"))
    yield from _check_files(folder, expected)
    unnamed = {MANIFEST_FILE, ELSEWHERE_FILE} | map_files(point)
    for entry in _entries(folder):
        if names is not None and entry.name in images:
            yield Oddity(entry, phrase("is in another repository, and goes with the next shipment"))
        elif entry.name not in expected and entry.name not in unnamed:
            yield Oddity(entry, phrase("is not named in the manifest"))
        elif names is None and entry.name == ELSEWHERE_FILE:
            yield Oddity(entry, phrase("cannot be read, so that the images count as missing"))
    try:
        repository.chain(point)
    except BrokenChainError as error:
        yield Oddity(folder, error.message)


def _check_files(folder: Path, expected: Mapping[str, int]) -> Iterator[Oddity]:
    """`expected` are sizes in bytes, by name."""
    for name, size in expected.items():
        path = folder / name
        try:
            status = path.stat(follow_symlinks=False)
        except OSError as error:
            yield Oddity(
                path,
                phrase("is missing")
                if error.errno == errno.ENOENT
                else phrase("cannot be read: {error}", error=error.strerror),
            )
            continue
        if not stat.S_ISREG(status.st_mode):
            yield Oddity(path, phrase("is no regular file"))
        elif status.st_size != size:
            yield Oddity(
                path, phrase("has {bytes} bytes, the manifest says {expected}", bytes=status.st_size, expected=size)
            )
