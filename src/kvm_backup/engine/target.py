"""Where a restored disk is written: a sparse raw file, a block device, or an uncompressed qcow2 file.

All are written past the page cache, by several threads at once; `place` and `finish` are called by one.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kvm_backup.domain.errors import StorageError, UnsupportedDiskError
from kvm_backup.domain.phrase import phrase
from kvm_backup.engine.direct_io import ALIGNMENT, DirectFile, aligned_buffer, storage_errors
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE
from kvm_backup.engine.qcow2.writer import Qcow2Writer

_BLKZEROOUT = 0x127F
"""ioctl of linux/fs.h: zero a range of a block device, by the fastest means the device has."""
_ZERO_PIECE = 64 << 20
_TABLE_PIECE = 1 << 20


class Target(Protocol):
    def place(self, cluster: int, count: int) -> int:
        """Where in the file `count` clusters of the disk from `cluster` on go. Ascending, each at most once."""

    def write(self, content: memoryview, offset: int) -> None:
        """Write whole clusters in page-aligned memory at an offset that `place` gave. From any thread."""

    def finish(self) -> None:
        """Complete the file and make it durable."""

    def discard(self) -> None:
        """Close after a failure, and remove what was created."""


def open_target(path: Path, virtual_size: int, target_format: str, check: Callable[[], None]) -> Target:
    """Create `path`, or take it when it is a block device that nobody uses and that is large enough (raw only).

    Raises TargetExistsError, NoSpaceError, StorageError, UnsupportedDiskError.
    """
    with storage_errors(path, "write"):
        is_device = path.exists() and stat.S_ISBLK(path.stat().st_mode)
    if target_format == "qcow2":
        if is_device:
            raise UnsupportedDiskError(
                phrase("{path} is a block device, which takes raw disks only", path=path),
                hint=phrase("Restore to it with format raw."),
            )
        return Qcow2Target(path, virtual_size)
    return DeviceTarget(path, virtual_size, check) if is_device else RawFileTarget(path, virtual_size)


class _RawTarget:
    """A disk as it is: offsets in the file are those of the disk."""

    def __init__(self, path: Path, virtual_size: int, file: DirectFile) -> None:
        self._path = path
        self._virtual_size = virtual_size
        self._file = file

    def place(self, cluster: int, count: int) -> int:  # noqa: ARG002 - other targets need the count
        return cluster * CLUSTER_SIZE

    def write(self, content: memoryview, offset: int) -> None:
        length = min(len(content), self._virtual_size - offset)
        whole = length // ALIGNMENT * ALIGNMENT
        with storage_errors(self._path, "write"):
            self._file.write(content[:whole], offset)
            if whole < length:
                _write_buffered(self._path, bytes(content[whole:length]), offset + whole)

    def finish(self) -> None:
        with storage_errors(self._path, "write"):
            self._file.sync()
            self._file.close()

    def discard(self) -> None:
        self._file.close()


class RawFileTarget(_RawTarget):
    """What is not written is a hole."""

    def __init__(self, path: Path, virtual_size: int) -> None:
        with storage_errors(path, "create"):
            super().__init__(path, virtual_size, DirectFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        try:
            with storage_errors(path, "write"):
                os.ftruncate(self._file.fd, virtual_size)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        super().discard()
        with contextlib.suppress(OSError):
            self._path.unlink()


class DeviceTarget(_RawTarget):
    """A block device: what it holds is not known, so everything that is not written is zeroed."""

    def __init__(self, path: Path, virtual_size: int, check: Callable[[], None]) -> None:
        with storage_errors(path, "write"):
            # On a block device O_EXCL means: not mounted, and in no other exclusive use.
            super().__init__(path, virtual_size, DirectFile(path, os.O_RDWR | os.O_EXCL))
            size = self._file.size
        self._check = check
        self._zeroed_to = 0
        if size < virtual_size:
            self.discard()
            raise StorageError(
                phrase(
                    "{path} has {size} bytes, the disk {virtual_size}",
                    path=path,
                    size=size,
                    virtual_size=virtual_size,
                ),
                hint=phrase("Choose a device that is large enough."),
            )

    def place(self, cluster: int, count: int) -> int:
        offset = cluster * CLUSTER_SIZE
        self._zero(offset)
        self._zeroed_to = offset + count * CLUSTER_SIZE
        return offset

    def finish(self) -> None:
        self._zero(self._virtual_size)
        super().finish()

    def _zero(self, end: int) -> None:
        """Zero from where the last range ended."""
        whole_end = end // ALIGNMENT * ALIGNMENT
        with storage_errors(self._path, "write"):
            while self._zeroed_to < whole_end:
                self._check()
                length = min(_ZERO_PIECE, whole_end - self._zeroed_to)
                fcntl.ioctl(self._file.fd, _BLKZEROOUT, struct.pack("QQ", self._zeroed_to, length))
                self._zeroed_to += length
            if self._zeroed_to < end:
                _write_buffered(self._path, bytes(end - self._zeroed_to), self._zeroed_to)


class Qcow2Target:
    """A qcow2 version 3 file that any QEMU runs a VM on."""

    def __init__(self, path: Path, virtual_size: int) -> None:
        self._path = path
        with storage_errors(path, "create"):
            self._file = DirectFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._writer = Qcow2Writer(_TableSink(path, self._file), virtual_size, compressed=False)

    def place(self, cluster: int, count: int) -> int:
        return self._writer.place_clusters(cluster, count)

    def write(self, content: memoryview, offset: int) -> None:
        with storage_errors(self._path, "write"):
            self._file.write(content, offset)

    def finish(self) -> None:
        head = self._writer.finish()
        _TableSink(self._path, self._file).write(head, 0)
        with storage_errors(self._path, "write"):
            self._file.sync()
            self._file.close()

    def discard(self) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


class _TableSink:
    """Writes tables through page-aligned memory."""

    def __init__(self, path: Path, file: DirectFile) -> None:
        self._path = path
        self._file = file
        self._buffer = aligned_buffer(_TABLE_PIECE)

    def write(self, data: bytes, offset: int) -> None:
        with storage_errors(self._path, "write"):
            for start in range(0, len(data), _TABLE_PIECE):
                piece = data[start : start + _TABLE_PIECE]
                self._buffer[: len(piece)] = piece
                self._file.write(self._buffer[: len(piece)], offset + start)


def _write_buffered(path: Path, data: bytes, offset: int) -> None:
    """Write the few bytes at a disk's end that no page-aligned write covers."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, data, offset) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)
