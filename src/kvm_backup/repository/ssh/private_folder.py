"""A folder that nobody else can enter, for the socket of a connection. Its maker holds a lock on it, so that the
folders of those that were killed are told from those in use, and go.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "kvm-backup-link-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def private_folder() -> Iterator[Path]:
    """One that is there while the block lasts. Removes, first, those of this user whose makers are gone."""
    _clear_dead()
    folder, lock = _make()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Until it is locked, another connection may take it for one that was left.
        with suppress(FileNotFoundError):
            lock = os.open(folder, _DIRECTORY)
            if _take(lock) and _is_still(folder, lock):
                return folder, lock
            os.close(lock)


def _clear_dead() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(left, _DIRECTORY)
            try:
                if os.fstat(lock).st_uid == os.geteuid() and _take(lock):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(folder: Path, lock: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(lock))
    except FileNotFoundError:
        return False
