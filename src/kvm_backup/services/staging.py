"""New files that become visible only when all of them are whole.

They are written in a hidden folder beside their place, then each gets its name there by a hard link, which never
replaces what stands in the way. The hidden folder stays until the caller is done: so files that a killed restore had
just put in place are known as its own, and a repeated restore can begin anew.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kvm_backup.domain.errors import TargetExistsError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable

HIDDEN_PREFIX = ".kvm-backup-restore"

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Staging:
    """The hidden folder below `folder`, which exists, for files of these final names; use it as a context manager.

    `key` tells apart restores that share a folder. When the block fails, what was published is withdrawn.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        self._folder = folder
        self._hidden = hidden_folder(folder, key)
        self._published: list[Path] = []
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self._hidden.mkdir(mode=0o700)
            self._lock = _locked(self._hidden)
        except OSError as error:
            raise durable.storage_error(error, self._hidden) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                for path in self._published:
                    path.unlink(missing_ok=True)
            durable.remove_tree(self._hidden)
        finally:
            os.close(self._lock)

    def path_for(self, final: Path) -> Path:
        """Where to write what will become `final`."""
        return self._hidden / final.name

    def publish(self, finals: Sequence[Path]) -> None:
        """Give the files their names, durably. Raises TargetExistsError, StorageError."""
        try:
            for final in finals:
                _link(self.path_for(final), final)
                self._published.append(final)
            durable.sync_folder(self._folder)
        except FileExistsError as error:
            raise TargetExistsError(
                phrase("{path} appeared meanwhile", path=error.filename2 or error.filename),
                hint=phrase("Nothing was left behind. Give another place, or move that file away."),
            ) from error
        except OSError as error:
            raise durable.storage_error(error, self._folder) from error


def hidden_folder(folder: Path, key: str = "") -> Path:
    """The hidden folder below `folder` of the restores of one `key`."""
    return folder / (f"{HIDDEN_PREFIX}-{key}" if key else HIDDEN_PREFIX)


def reclaim(folder: Path, key: str = "") -> bool:
    """Remove what a killed restore left in `folder`; whether there was anything.

    Raises TargetExistsError when that restore is alive, StorageError.
    """
    hidden = hidden_folder(folder, key)
    if hidden.is_symlink() or not hidden.is_dir():
        return False
    try:
        lock = _locked(hidden)
    except BlockingIOError as error:
        raise TargetExistsError(
            phrase("another restore writes to {folder} right now", folder=folder),
            hint=phrase("Wait until it has ended, or give another place."),
        ) from error
    except OSError as error:
        raise durable.storage_error(error, hidden) from error
    try:
        for written in hidden.iterdir():
            final = folder / written.name
            if final.exists() and final.samefile(written):
                final.unlink()
        durable.remove_tree(hidden)
    except OSError as error:
        raise durable.storage_error(error, hidden) from error
    finally:
        os.close(lock)
    return True


def _locked(hidden: Path) -> int:
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _link(written: Path, final: Path) -> None:
    try:
        os.link(written, final, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links, such as exFAT.
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        written.rename(final)
