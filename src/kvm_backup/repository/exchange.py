"""Two folders change places in one step, so that a point is never missing while it is replaced."""

import ctypes
import errno
import os
from pathlib import Path

from kvm_backup.domain.names import PARTIAL_PREFIX, is_stamp
from kvm_backup.repository import durable

CONSOLIDATE_PREFIX = f"{PARTIAL_PREFIX}consolidate-"
"""A whole new folder for a point, until it takes the point's place; after that the old one."""
OLD_PREFIX = f"{PARTIAL_PREFIX}old-"
"""The old folder of a point, on file systems that cannot exchange two; see `exchange`."""

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def exchange(new: Path, final: Path) -> Path:
    """Put the folder `new` in the place of the folder `final`, durably; returns where the old one is now.

    On a file system that cannot exchange two names (NFS, some FUSE ones), the old one is first put aside and the
    point is missing for an instant; a death right then is repaired by `recover`. Raises StorageError.
    """
    if final.is_symlink() or not final.is_dir():
        raise durable.storage_error(FileNotFoundError(errno.ENOENT, "there is no such folder"), final)
    try:
        rename_exchange(new, final)
        durable.sync_folder(final.parent)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise durable.storage_error(error, final) from error
    else:
        return new
    old = final.with_name(f"{OLD_PREFIX}{final.name}")
    durable.rename(final, old)
    try:
        durable.rename(new, final)
    except BaseException:
        recover(final.parent)
        raise
    return old


def recover(folder: Path) -> list[str]:
    """Give points that an exchange lost half way their old folder back; returns their times.

    The caller holds the VM's lock. Raises StorageError.
    """
    recovered = []
    try:
        left = sorted(folder.glob(f"{OLD_PREFIX}*"))
    except OSError as error:
        raise durable.storage_error(error, folder) from error
    for old in left:
        stamp = old.name.removeprefix(OLD_PREFIX)
        final = folder / stamp
        if is_stamp(stamp) and old.is_dir() and not old.is_symlink() and not final.exists():
            durable.rename(old, final)
            recovered.append(stamp)
    return recovered


def rename_exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE. Raises OSError; EINVAL or ENOSYS when this file system or host cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28, musl
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
