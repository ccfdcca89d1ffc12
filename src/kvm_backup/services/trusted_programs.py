"""Which programs of users the service may run with its own rights: those that nobody else can change or replace."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

_WRITABLE_BY_OTHERS = 0o022
_LINKS_MAX = 40
"""As many as Linux follows itself."""


def open_to_others(program: str) -> Path | None:
    """What others could change or replace and so decide what runs: the file, a link to it, or a folder above.

    None when there is nothing, or when there is no such program. The file and all folders above must belong to root
    or to the user of this process. A folder in which everybody may make files, but none remove those of others, such
    as /tmp, will do.
    """
    found = shutil.which(program)
    if found is None:
        return None
    try:
        return next((path for path in _on_the_way(Path(found).absolute()) if _is_open(path)), None)
    except OSError:
        return None  # it is gone meanwhile, which starting it tells


def _on_the_way(path: Path) -> Iterator[Path]:
    """The file, each link that leads to it, and the folders above all of them."""
    for _ in range(_LINKS_MAX):
        yield path
        yield from path.parents
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    real = path.resolve()
    yield real
    yield from real.parents


def _is_open(path: Path) -> bool:
    status = path.lstat()
    if status.st_uid not in (0, os.geteuid()):
        return True
    if stat.S_ISLNK(status.st_mode):
        return False  # its own mode means nothing
    sticky = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
    return bool(status.st_mode & _WRITABLE_BY_OTHERS) and not sticky
