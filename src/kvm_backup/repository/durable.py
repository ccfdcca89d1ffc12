"""Writing so that what was written is still there after a power cut (invariant 1)."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError, NoSpaceError, StorageError
from kvm_backup.domain.phrase import phrase

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


def write_new(path: Path, content: bytes) -> str:
    """Create a file that must not exist yet, fsynced; returns its SHA-256 in hex. Raises StorageError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(error, path) from error
    return hashlib.sha256(content).hexdigest()


def replace_content(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers see the old content or the new one, never a part."""
    beside = path.with_name(f".{path.name}.new-{os.getpid()}")
    beside.unlink(missing_ok=True)
    write_new(beside, content)
    rename(beside, path)


def read_limited(path: Path, limit: int) -> bytes:
    """A regular file's content, at most `limit` + 1 bytes; never follows a symbolic link.

    Raises DamagedPointError when it is missing or no regular file, StorageError when it cannot be read.
    """
    lost = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        # fdopen fails on a folder and leaves it open.
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in lost:
            raise DamagedPointError(
                phrase("{path} is a symbolic link", path=path)
                if error.errno == errno.ELOOP
                else phrase("{path} is missing", path=path),
                hint=phrase("Run 'kvm-backup repository check' to see what else is not as it should be."),
            ) from error
        raise storage_error(error, path) from error


def rename(old: Path, new: Path) -> None:
    """Rename, and make the rename itself durable. Raises StorageError."""
    try:
        old.rename(new)
        sync_folder(new.parent)
    except OSError as error:
        raise storage_error(error, new) from error


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable. Raises StorageError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, folder) from error


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; one that is gone already is fine. Raises StorageError."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, folder) from error


def storage_error(error: OSError, path: Path) -> KvmBackupError:
    """What an OSError on `path` is in our words."""
    if error.errno in _FULL_DISK:
        return NoSpaceError(
            phrase("no space left while writing {path}", path=path),
            hint=phrase(
                "Free space on the file system of {parent}, or use a repository on another one.", parent=path.parent
            ),
        )
    return StorageError(
        f"{error.strerror or error} ({path})",
        hint=phrase("Check that the path exists, is on a healthy file system and can be used by this user."),
    )
