"""What this host has done to a remote: the points that it shipped there, and those that its rule removed there.

A mirror tells what the server holds, and follows it; this file is written by this host alone, so that whoever may
write on the server cannot change what it says. One JSON object a line, {"shipped": ID} or {"removed": ID}: of what is
said of a point the last line counts. It only grows, by two short lines for each point.
"""

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from kvm_backup.repository.durable import storage_error, sync_folder

LEDGER_FILE = ".ledger"
"""In the mirror's folder; rsync leaves it there when the mirror is read anew, since its filters do not name it."""
_BYTES_MAX = 64 << 20
"""A million lines."""
_SHIPPED, _REMOVED = "shipped", "removed"


class Ledger:
    """In the folder of a mirror. Several processes may write at once; each line is one write."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LEDGER_FILE

    def note_shipped(self, point_ids: Iterable[str]) -> None:
        """Durably. Raises StorageError, NoSpaceError."""
        self._append(_SHIPPED, point_ids)

    def note_removed(self, point_ids: Iterable[str]) -> None:
        """Durably. Raises StorageError, NoSpaceError."""
        self._append(_REMOVED, point_ids)

    def shipped(self) -> frozenset[str]:
        """The ids of what was shipped and not removed by the rule since. Raises StorageError."""
        return self._said()[0]

    def removed(self) -> frozenset[str]:
        """The ids of what the rule removed, and was not shipped again since. Raises StorageError."""
        return self._said()[1]

    def _append(self, what: str, point_ids: Iterable[str]) -> None:
        text = "".join(json.dumps({what: point_id}) + "\n" for point_id in point_ids).encode()
        if not text:
            return
        try:
            is_new = not self._file.exists()
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._file, flags, 0o600), "ab") as file:
                if _ends_in_a_torn_line(file.fileno()):
                    text = b"\n" + text
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self._file) from error
        if is_new:
            sync_folder(self._file.parent)

    def _said(self) -> tuple[frozenset[str], frozenset[str]]:
        try:
            now = self._file.lstat()
            if not stat.S_ISREG(now.st_mode) or now.st_size > _BYTES_MAX:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(self._file))
            return _read(self._file, (now.st_ino, now.st_size, now.st_mtime_ns))
        except FileNotFoundError:
            return frozenset(), frozenset()
        except OSError as error:
            raise storage_error(error, self._file) from error


@lru_cache(maxsize=32)
def _read(file: Path, _state: tuple[int, int, int]) -> tuple[frozenset[str], frozenset[str]]:
    """`_state` differs once the file does: every VM's points are compared with it."""
    last = {point_id: what for what, point_id in _lines(_content(file))}
    return (
        frozenset(point_id for point_id, what in last.items() if what == _SHIPPED),
        frozenset(point_id for point_id, what in last.items() if what == _REMOVED),
    )


def _content(file: Path) -> bytes:
    """Of a plain file; a pipe that took its place meanwhile is not waited for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(file, flags), "rb") as opened:
        return opened.read(_BYTES_MAX)


def _lines(content: bytes) -> Iterator[tuple[str, str]]:
    """What each whole line says; a power cut may have left a torn one."""
    for line in content.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            for what in (_SHIPPED, _REMOVED):
                if isinstance(said.get(what), str):
                    yield what, said[what]


def _ends_in_a_torn_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
