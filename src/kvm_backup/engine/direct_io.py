"""Files read and written past the page cache, so that a backup does not push the guests' hot data out of it."""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from kvm_backup.domain.errors import KvmBackupError, NoSpaceError, StorageError, TargetExistsError
from kvm_backup.domain.phrase import phrase

ALIGNMENT = 4096
"""Of offsets, lengths and memory; enough for every logical block size that Linux has for disks."""
_FORGET_EVERY = 32 << 20


def aligned_buffer(size: int) -> memoryview:
    """Zeroed memory of whole pages, `size` bytes."""
    return memoryview(mmap.mmap(-1, size))


@contextlib.contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into the error a user is told; `doing` is 'read', 'write' or 'create'."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, doing, error) from error


def storage_error(path: Path, doing: str, error: OSError) -> KvmBackupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(
            phrase("no space left for {path}", path=path),
            hint=phrase("Free some space there, or choose another place, and start again."),
        )
    if error.errno == errno.EEXIST:
        return TargetExistsError(
            phrase("{path} exists", path=path), hint=phrase("Choose another name, or move the file away.")
        )
    return StorageError(
        phrase("cannot {doing} {path}: {error}", doing=doing, path=path, error=error.strerror or error),
        hint=phrase("Look at the permissions and, for an input/output error, at the kernel's log."),
    )


class DirectFile:
    """A file opened with O_DIRECT where its file system can, else buffered with its pages dropped soon after use.

    Offsets, lengths and buffers of `read_into` and `write` are multiples of ALIGNMENT (the end of the file may cut
    a read short). Both may be called from several threads. Methods raise OSError; callers wrap with storage_errors.
    """

    def __init__(self, path: Path, flags: int, mode: int = 0o600) -> None:
        self.path = path
        # O_NONBLOCK: a FIFO in the place of a file must not make us wait for its writer.
        flags |= os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self.fd = os.open(path, flags | os.O_DIRECT, mode)
            self._direct = True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A file system that refuses O_DIRECT (tmpfs) does so after it created the file.
            self.fd = os.open(path, flags & ~os.O_EXCL, mode)
            self._direct = False
        self._unforgotten = 0

    @property
    def size(self) -> int:
        """Bytes of the file or block device."""
        info = os.fstat(self.fd)
        return os.lseek(self.fd, 0, os.SEEK_END) if stat.S_ISBLK(info.st_mode) else info.st_size

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view`; returns fewer bytes than it has only at the end of the file."""
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self.fd, [view[done:]], offset + done)
            except OSError as error:
                self._leave_direct(error)
                continue
            if not count:
                break
            done += count
            if count % ALIGNMENT and self._direct:
                break
        if not self._direct:
            os.posix_fadvise(self.fd, offset, done, os.POSIX_FADV_DONTNEED)
        return done

    def write(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self.fd, view[done:], offset + done)
            except OSError as error:
                self._leave_direct(error)
        if not self._direct:
            self._forget(len(view))

    def _leave_direct(self, error: OSError) -> None:
        # Some file systems accept O_DIRECT at open and refuse the transfer, or want a larger alignment.
        if error.errno != errno.EINVAL or not self._direct:
            raise error
        self._direct = False
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) & ~os.O_DIRECT)

    def _forget(self, written: int) -> None:
        self._unforgotten += written
        if self._unforgotten >= _FORGET_EVERY:
            self._unforgotten = 0
            os.fdatasync(self.fd)  # only clean pages can be dropped
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        os.fsync(self.fd)
        if not self._direct:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
