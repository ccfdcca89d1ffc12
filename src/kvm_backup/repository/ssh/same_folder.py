"""Finds out whether a server's folder is one of this host: by ssh to itself, or a NAS that is mounted here, too.

Removed here, an image would then be gone there, and the other way round. A file with a random name is put here for a
moment, and the server is asked whether its folder shows it, by dry runs of rsync, which every account may make.
Whoever puts it there holds a lock on it, so that those of killed ones are told from those in use, and go.
"""

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kvm_backup.domain.errors import RemoteSetupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.repository.ssh.transfer import Transfer

PREFIX = ".kvm-backup-here-"
_PLAIN = re.compile(r"[A-Za-z0-9._+=@,/-]+")
"""What rsync lists as it is."""
_ABOVE_MAX = 8
"""So many folders above the repository the server's may begin at and be noticed."""


def require_apart(transfer: Transfer, local: Path) -> None:
    """Check that the server's folder is not that of the local repository, nor inside it, nor around it.

    One inside is known by its kvm-backup.json or its path, one around by the names on the way. Raises
    RemoteSetupError, StorageError, NoSpaceError, RemoteUnreachableError and its like.
    """
    inside = [file.parent for file in local.glob(f"*/{REPOSITORY_FILE}")]
    names = Path(transfer.connection.address.path).parts[1:]
    inside += [folder for count in range(len(names)) if (folder := local.joinpath(*names[count:])).is_dir()]
    above = local.resolve().parts[-_ABOVE_MAX:]
    ways = [way for count in range(1, len(above)) if _PLAIN.fullmatch(way := "/".join(above[count:]))]
    shown = _shown(transfer, [local, *inside], transfer.connection.address.path, ways)
    if shown is None:
        return
    if shown == "" and not inside:
        message = phrase(
            "{place} is the very folder of the local repository, {path}",
            place=transfer.connection.address,
            path=local,
        )
    else:
        message = phrase(
            "{place} and the local repository, {path}, are the same folder or one inside the other",
            place=transfer.connection.address,
            path=local,
        )
    raise RemoteSetupError(
        message, hint=phrase("Name a folder of its own on another server: nothing was sent or removed.")
    )


def require_another_point(transfer: Transfer, local: Path, point_id: str) -> None:
    """Check that the server's folder of a point is not that of it here. Raises as `require_apart`."""
    if _shown(transfer, [local], transfer.connection.address.below(point_id), []) is not None:
        raise RemoteSetupError(
            phrase(
                "{place}: {id} is the very folder that it is in here", place=transfer.connection.address, id=point_id
            ),
            hint=phrase("Name a folder of its own on another server: nothing was sent or removed."),
        )


def _shown(transfer: Transfer, folders: Sequence[Path], there: str, ways: Sequence[str]) -> str | None:
    """Where below the server's folder `there`, at it ("") or at one of the `ways`, a file shows that is put into each
    of the folders here; None where it does not."""
    name = f"{PREFIX}{secrets.token_hex(16)}"
    with ExitStack() as marks, tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as wanted:
        for folder in dict.fromkeys(folders):
            marks.enter_context(_marked(folder, name))
        expected = {f"{way}/{name}".lstrip("/"): way for way in ["", *ways]}
        for file in expected:
            path = Path(wanted) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        missing = set(transfer.differing(Path(wanted), there, "--ignore-existing"))
        return next((way for file, way in expected.items() if file not in missing), None)


@contextmanager
def _marked(folder: Path, name: str) -> Iterator[None]:
    """The folder holds an empty file of that name while the block lasts. Raises StorageError, NoSpaceError."""
    mark = folder / name
    _clear_dead(folder)
    try:
        descriptor = _made(mark)
    except OSError as error:
        raise durable.storage_error(error, folder) from error
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink()
        os.close(descriptor)


def _made(mark: Path) -> int:
    while True:
        descriptor = os.open(mark, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Until it is locked, another process may take it for one that was left.
            if _take(descriptor) and mark.exists():
                return descriptor
        except OSError:
            return descriptor  # no locks on that file system: nobody clears anything there either
        os.close(descriptor)


def _clear_dead(folder: Path) -> None:
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _take(descriptor):
                    left.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
