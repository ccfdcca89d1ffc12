"""Scratch files of a backup job: made before libvirt and QEMU hear of them.

libvirt would make them itself, by QEMU's blockdev-create. While that job opens the new file, QEMU 7.2 answers a
question about its block nodes (query-named-block-nodes, which libvirt asks for virDomainGetBlockInfo and for block
statistics, so any monitoring causes it) with `qcow2_get_specific_info: Assertion 'false' failed`, and the guest is
dead. Tried with libvirt 9.0, another thread asking for statistics: guests died in the 7th and the 13th backup job;
with files that existed when the job began one lived through 500 jobs and 2,600 questions. (The overlays of a
snapshot need no such care: libvirt lets nobody ask while it makes them.)
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError, StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import run

_CREATE_TIMEOUT = 60.0
"""Seconds; it takes a hundredth of one unless the storage hangs."""


def create_all(sizes: Mapping[Path, int], owner: tuple[int, int]) -> bool:
    """Make empty qcow2 files, each for a disk of that many bytes, or none of them and return False.

    They are for `owner` alone, QEMU's uid and gid (mode 0600).

    False means that libvirt has to make them after all: where root may write nothing (NFS that squashes root), on
    a file system without O_TMPFILE, and where a path is taken, which libvirt then says. What lies at a path is
    never followed nor replaced: QEMU may write to the folder, and a guest may have taken QEMU over.
    """
    made = list[Path]()
    try:
        for path, size in sizes.items():
            _create(path, size, owner)
            made.append(path)
    except KvmBackupError:
        remove_all(made)
        return False
    return True


def remove_all(paths: Iterable[Path]) -> None:
    """Remove scratch files that no job uses any more. Never raises OSError."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _create(path: Path, size: int, owner: tuple[int, int]) -> None:
    with _appearing_whole(path) as descriptor:
        # By the open file, which has no name yet: one that dies here leaves nothing.
        opened = f"/proc/{os.getpid()}/fd/{descriptor}"
        run(["qemu-img", "create", "-q", "-f", "qcow2", opened, str(size)], timeout=_CREATE_TIMEOUT)
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)


@contextmanager
def _appearing_whole(path: Path) -> Iterator[int]:
    """A file that gets its name when the block ends well. Raises StorageError."""
    try:
        with ExitStack() as opened:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
            opened.callback(os.close, descriptor)
            yield descriptor
            # dst_dir_fd makes Python follow the link to the open file (linkat with AT_SYMLINK_FOLLOW, open(2)).
            os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder)
    except OSError as error:
        raise StorageError(
            phrase("{path} cannot be made: {error}", path=path, error=error.strerror),
            hint=phrase("Check that the folder exists, and that its file system has room and is mounted read-write."),
        ) from error
