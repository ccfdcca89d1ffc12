"""A new file that grows at its end, digested and written by a thread of its own in large, reused buffers."""

import contextlib
import errno
import hashlib
import os
import queue
import secrets
import threading
from pathlib import Path
from typing import BinaryIO

from kvm_backup.engine.copy import WAIT_SECONDS, CopyControl
from kvm_backup.engine.digest import HEAD_SIZE
from kvm_backup.engine.direct_io import DirectFile, aligned_buffer, storage_error, storage_errors

_BUFFER_SIZE = 1 << 20
_BUFFERS = 6
"""One being filled, one being written, the others to even out bursts."""


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}


class AppendFile:
    """Bytes are appended after the head (the first 64 KiB), which is written last.

    Created exclusively with mode 0600. Any error of the writing thread is raised by the next call. After `abort`
    the file is gone.
    """

    def __init__(self, path: Path, control: CopyControl, *, unnamed: bool = False) -> None:
        """With `unnamed`, `path` is a folder, and the file in it has no name: it is gone when it is closed.

        Raises TargetExistsError, NoSpaceError, StorageError.
        """
        self._path = path
        self._control = control
        self._unnamed = unnamed
        with storage_errors(path, "create"):
            self._file = _unnamed_in(path) if unnamed else DirectFile(path, _FLAGS)
        self._hasher = hashlib.sha256()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS - 1):
            self._free.put(aligned_buffer(_BUFFER_SIZE))
        self._buffer = aligned_buffer(_BUFFER_SIZE)
        self._filled = 0
        self._buffer_offset = HEAD_SIZE
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write_buffers, name=f"write {path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes, offset: int) -> None:
        """Append; `offset` is where the last call ended (ValueError if not), HEAD_SIZE the first time.

        Raises NoSpaceError, StorageError, and what the control's check raises.
        """
        if offset != self._buffer_offset + self._filled:
            raise ValueError(f"{offset} is not where the file ends")
        length = len(data)
        room = _BUFFER_SIZE - self._filled
        if length < room:
            self._buffer[self._filled : self._filled + length] = data
            self._filled += length
        else:
            view = memoryview(data)
            while len(view) >= room:
                self._buffer[self._filled :] = view[:room]
                view = view[room:]
                self._hand_over(_BUFFER_SIZE)
                room = _BUFFER_SIZE
            self._buffer[: len(view)] = view
            self._filled = len(view)

    def finish(self, head: bytes) -> str:
        """Write what is left, then the head, and make the file durable. Returns the image's digest.

        What was appended must end at a cluster's boundary.
        """
        if self._filled:
            self._hand_over(self._filled)
        self._full.put(None)
        while self._thread.is_alive():
            self._control.check()
            self._thread.join(WAIT_SECONDS)
        self._raise_error()
        self._hasher.update(head)
        first = aligned_buffer(HEAD_SIZE)
        first[:] = head
        with storage_errors(self._path, "write"):
            self._file.write(first, 0)
            self._file.sync()
            self._file.close()
        return self._hasher.hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the file, head included, once all was appended."""
        return self._buffer_offset + self._filled

    def reader(self) -> BinaryIO:
        """The same file, opened once more for reading. Raises StorageError."""
        with storage_errors(self._path, "read"):
            return Path(f"/proc/self/fd/{self._file.fd}").open("rb")

    def abort(self) -> None:
        """Stop writing and remove the file."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._full.get_nowait()
        self._full.put(None)
        self._thread.join()
        self._file.close()
        if not self._unnamed:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _hand_over(self, filled: int) -> None:
        self._full.put((self._buffer, filled, self._buffer_offset))
        self._buffer_offset += filled
        while True:
            self._raise_error()
            with contextlib.suppress(queue.Empty):
                self._buffer = self._free.get(timeout=WAIT_SECONDS)
                break
            self._control.check()
        self._filled = 0

    def _raise_error(self) -> None:
        if self._error is not None:
            raise storage_error(self._path, "write", self._error) from self._error

    def _write_buffers(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, filled, offset = item
            try:
                self._file.write(buffer[:filled], offset)
            except OSError as error:
                self._error = error
                return
            self._hasher.update(buffer[:filled])
            self._free.put(buffer)


def _unnamed_in(folder: Path) -> DirectFile:
    try:
        return DirectFile(folder, os.O_RDWR | os.O_TMPFILE)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    # A file system that knows no files without a name, such as NFS.
    named = folder / f".{secrets.token_hex(8)}"
    file = DirectFile(named, _FLAGS)
    named.unlink()
    return file
