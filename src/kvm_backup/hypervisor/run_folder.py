"""Folders in which QEMU, running as its own user, creates a run's socket and opens scratch files.

A run's folder holds `n` (the NBD socket), `<target>.scratch`, and nothing else; its name is short because the path
of a unix socket has at most 107 bytes.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kvm_backup.domain.errors import BadArgumentError, StorageError
from kvm_backup.domain.phrase import phrase

MAX_SOCKET_PATH = 107
"""Bytes of sun_path on Linux, less the closing zero."""

SCRATCH_SUFFIX = ".scratch"


def prepare_run_folder(folder: Path, owner: tuple[int, int]) -> Path:
    """Create `folder` so that QEMU, and nobody but QEMU's group and us, can create files in it: its socket.

    `owner` is QEMU's uid and gid (Hypervisor.qemu_owner). The folder becomes ours with QEMU's group, mode 0770;
    missing parents are made with 0711. Raises StorageError when it cannot be made or QEMU could not reach it.
    """
    return _prepare(folder, owner, 0o770)


def prepare_scratch_folder(folder: Path, owner: tuple[int, int]) -> Path:
    """The same with mode 0710: QEMU opens files there and neither makes, renames nor removes any.

    libvirt hands a scratch file over to QEMU by its name, so a guest that took its QEMU over must not be able to put
    a link to another file there.
    """
    return _prepare(folder, owner, 0o710)


def _prepare(folder: Path, owner: tuple[int, int], mode: int) -> Path:
    uid, gid = owner
    try:
        for parent in reversed(folder.parents):
            if not parent.exists():
                parent.mkdir(mode=0o711, exist_ok=True)
                parent.chmod(0o711)
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, os.geteuid(), gid)
        folder.chmod(mode)
        for parent in folder.resolve().parents:
            if not _may_enter(parent, uid, gid):
                raise StorageError(
                    phrase(
                        "QEMU (uid {uid}) may not enter {parent}, so it cannot create files in {folder}",
                        uid=uid,
                        parent=parent,
                        folder=folder,
                    ),
                    hint=phrase(
                        "Allow it: chmod o+x '{parent}'; or choose another folder in the settings.", parent=parent
                    ),
                )
    except OSError as error:
        raise StorageError(
            phrase("the folder {folder} cannot be prepared: {error}", folder=folder, error=error.strerror),
            hint=phrase("Run as root, and check that the file system is mounted read-write."),
        ) from error
    return folder


def socket_path(folder: Path) -> Path:
    """The NBD socket of a run. Raises BadArgumentError when its path is too long for a unix socket."""
    path = folder / "n"
    check_socket_path(path)
    return path


def check_socket_path(path: Path) -> None:
    """Raises BadArgumentError when the path does not fit a unix socket's address."""
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise BadArgumentError(
            phrase(
                "the socket path {path} has {size} bytes, at most {max_socket_path} are possible",
                path=path,
                size=size,
                max_socket_path=MAX_SOCKET_PATH,
            ),
            hint=phrase("Choose a shorter runtime folder in the settings."),
        )


def scratch_path(folder: Path, target: str) -> Path:
    """The scratch file of one disk. Raises BadArgumentError for a target that is not a plain name."""
    if not target or "/" in target or "\0" in target or target.startswith("."):
        raise BadArgumentError(
            phrase("the disk name {target!r} cannot be part of a file name", target=target),
            hint=phrase("Rename the disk's target in the VM."),
        )
    return folder / f"{target}{SCRATCH_SUFFIX}"


def remains(folder: Path) -> Iterator[Path]:
    """Sockets and scratch files in a run's folder; other files are not ours to judge."""
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError):
                mode = path.lstat().st_mode
                if stat.S_ISSOCK(mode) or (stat.S_ISREG(mode) and path.name.endswith(SCRATCH_SUFFIX)):
                    yield path


def clear(folder: Path) -> None:
    """Remove a run's sockets and scratch files, then the folder when it is empty. Never raises OSError."""
    for path in remains(folder):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _may_enter(folder: Path, uid: int, gid: int) -> bool:
    status = folder.stat()
    if uid in (0, status.st_uid):
        return uid == 0 or bool(status.st_mode & stat.S_IXUSR)
    if gid == status.st_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
