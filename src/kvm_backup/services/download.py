"""One disk of a point as a qcow2 file that needs no other, to be sent away.

A disk that was saved whole is sent as it lies. The chain of an incremental one is made one image first, in a file
that has no name any more when the sending begins: the kernel removes it with the last byte, or with the process.
"""

import os
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from kvm_backup.domain.errors import (
    DamagedImageError,
    DamagedPointError,
    KvmBackupError,
    PointNotFoundError,
    UnsupportedDiskError,
    VmBusyError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.engine.consolidate import consolidate_unnamed, planned_image_bytes
from kvm_backup.engine.qcow2.format import Identity
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.control import RunControl, SpaceWatch
from kvm_backup.services.links import Link, check_link, disk_links

_CHUNK = 1 << 20
_FORGET_EVERY = 32 << 20
_TRIES = 3


class DiskDownload:
    """An open file: `name` to save it as, `size` in bytes. Use it as a context manager, or read its `chunks`."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.size = os.fstat(file.fileno()).st_size
        self._file = file

    def chunks(self) -> Generator[bytes, None, None]:
        """The bytes, some at a time. The file is closed when they have ended, or when nobody asks for more."""
        try:
            done = 0
            while chunk := self._file.read(_CHUNK):
                yield chunk
                done += len(chunk)
                if done % _FORGET_EVERY < len(chunk):
                    # The guests' data stays in the page cache, not ours.
                    os.posix_fadvise(self._file.fileno(), 0, done, os.POSIX_FADV_DONTNEED)
        finally:
            self.close()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class DiskDownloads:
    """Opens disks. `scratch` is the folder for what has to be put together first, `space_reserve` in bytes."""

    scratch: Path
    space_reserve: int
    level: int

    def open(
        self,
        repository: LocalRepository,
        point: str,
        target: str,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> DiskDownload:
        """A disk of a point, by the point's whole id and the disk's target. Every file is checked before the first
        byte is given, which takes as long as reading it.

        Raises PointNotFoundError, UnsupportedDiskError for a snapshot's disk, DamagedPointError, BrokenChainError,
        NoSpaceError, CancelledError, StorageError.
        """
        for _ in range(_TRIES):
            manifest = repository.load(point)
            try:
                return self._open(repository, manifest, target, stop_requested)
            except KvmBackupError:
                # A prune may make another file of it meanwhile, and remove what it was built on.
                if repository.load(point) == manifest:
                    raise
        raise VmBusyError(
            phrase("{point} changes while it is read", point=point),
            hint=phrase("Try again when its prune has ended."),
            vm=manifest.vm_name,
        )

    def _open(
        self, repository: LocalRepository, manifest: Manifest, target: str, stop_requested: Callable[[], bool]
    ) -> DiskDownload:
        disk = manifest.disk(target)
        if disk is None:
            raise PointNotFoundError(
                phrase("{point} holds no disk {target!r}", point=manifest.id, target=target),
                hint=phrase("See its disks: kvm-backup point show {point}", point=manifest.id),
            )
        if disk.file is None:
            raise UnsupportedDiskError(
                phrase("the disks of {point}, a snapshot, are images on the host", point=manifest.id),
                hint=phrase("Restore it to a folder, and take the disk from there: kvm-backup restore --to DIR"),
                vm=manifest.vm_name,
            )
        name = f"{manifest.id.replace('/', '-')}-{disk.file}"
        links = disk_links(repository, repository.chain(manifest), target)
        if len(links) == 1:
            return DiskDownload(name, _checked(links[0], stop_requested))
        return DiskDownload(name, self._consolidated(manifest, links, stop_requested))

    def _consolidated(self, manifest: Manifest, links: list[Link], stop_requested: Callable[[], bool]) -> BinaryIO:
        paths = [link.path for link in links]
        try:
            self.scratch.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(error, self.scratch) from error
        watch = SpaceWatch(phrase("scratch files"), self.scratch, self.space_reserve)
        control = RunControl(stop_requested=stop_requested, watches=(watch,))
        # A damaged table is told by the check, which names the file.
        with suppress(DamagedImageError):
            watch.check(planned_image_bytes(paths, control))
        for link in links:
            check_link(link, control)
        identity = Identity(point=manifest.identity, disk=links[-1].disk.target, parent=None)
        return consolidate_unnamed(paths, self.scratch, identity=identity, control=control, level=self.level)


def _checked(link: Link, stop_requested: Callable[[], bool]) -> BinaryIO:
    """A file, open, that is what its manifest says to its last byte."""
    try:
        file = os.fdopen(os.open(link.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise durable.storage_error(error, link.path) from error
    try:
        check_link(link, RunControl(stop_requested=stop_requested))
        same = link.path.exists() and os.path.samestat(os.fstat(file.fileno()), link.path.stat())
        if not same:
            raise DamagedPointError(
                phrase("{path} was replaced while it was read", path=link.path),
                hint=phrase("Try again; 'kvm-backup verify --all' tells which points are whole."),
                vm=link.manifest.vm_name,
            )
    except BaseException:
        file.close()
        raise
    return file
