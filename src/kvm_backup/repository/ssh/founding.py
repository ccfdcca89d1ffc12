"""A repository on another server is the copy of one local repository, and bears that one's identity."""

import tempfile
from pathlib import Path

from kvm_backup.domain.errors import RepositoryFormatError, RepositoryNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.local import REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.ssh.failures import FolderMissingError
from kvm_backup.repository.ssh.transfer import Transfer

_ONLY = (f"--include=/{REPOSITORY_FILE}", "--exclude=*")
_BYTES_MAX = 64 << 10


def found(transfer: Transfer, local: Path) -> None:
    """Put the identity of the repository in the folder `local` into the server's folder, unless it is there.

    Raises RepositoryFormatError when the server's folder is a copy of another repository, RemoteUnreachableError and
    its like.
    """
    transfer.up(local, transfer.connection.address.path, "--mkpath", "--ignore-existing", *_ONLY)
    check(transfer, local)


def check(transfer: Transfer, local: Path) -> None:
    """Check that the server's folder is the copy of the repository in `local`, also with a key that only adds.

    Raises RepositoryNotFoundError when it is no repository, RepositoryFormatError when it is a copy of another one,
    RemoteUnreachableError and its like.
    """
    path = transfer.connection.address.path
    compared = [f"{path.rstrip('/')}/.check", "--checksum", f"--compare-dest={path}"]
    if not transfer.differing(local, *compared, *_ONLY):
        return
    if transfer.differing(local, path, "--ignore-existing", *_ONLY):
        raise nothing_there(transfer)
    raise another_there(transfer)


def identity(transfer: Transfer) -> str | None:
    """The id of the repository in the server's folder, None where there is none.

    Raises RepositoryFormatError when its file is not one that LocalRepository can open, RemoteAccessError when the
    account may not read, RemoteUnreachableError and its like.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
        fetched = Path(folder)
        path = transfer.connection.address.path
        try:
            transfer.down(path, fetched, f"--max-size={_BYTES_MAX}", *_ONLY)
        except FolderMissingError:
            return None
        try:
            return LocalRepository.open("remote", fetched).id
        except RepositoryNotFoundError:
            return None
        except RepositoryFormatError as error:
            raise RepositoryFormatError(
                phrase("{place} holds a repository that this program cannot read", place=transfer.connection.address),
                hint=error.hint,
            ) from error


def nothing_there(transfer: Transfer) -> RepositoryNotFoundError:
    """The error for a folder without a repository."""
    return RepositoryNotFoundError(
        phrase("{place} holds no repository", place=transfer.connection.address),
        hint=phrase(
            "A disk of its own may need mounting there. A new folder: 'kvm-backup repository add' makes it one."
        ),
    )


def another_there(transfer: Transfer) -> RepositoryFormatError:
    """The error for a folder with the points of another repository."""
    return RepositoryFormatError(
        phrase("{place} holds the points of another repository", place=transfer.connection.address),
        hint=phrase("Give each repository a folder of its own there; nothing was changed."),
    )
