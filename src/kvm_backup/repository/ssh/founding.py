"""A repository on another server is the copy of one local repository, and bears that one's identity."""

import tempfile
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, RepositoryFormatError, RepositoryNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import read_limited
from kvm_backup.repository.encryption.marker import (
    RECIPIENTS_FILE,
    encrypted_identity,
    is_encrypted,
    plain_identity,
)
from kvm_backup.repository.local import REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.ssh.account import ADD_ONLY
from kvm_backup.repository.ssh.failures import FolderMissingError
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.transfer import Transfer

_ONLY = (f"--include=/{REPOSITORY_FILE}", "--exclude=*")
_FOUNDING = f"{INCOMING_PREFIX}founding"
_BYTES_MAX = 64 << 10


class AnotherRepositoryError(RepositoryFormatError):
    """The folder on the server holds the points of another repository."""


def found(transfer: Transfer, local: Path) -> None:
    """Put the identity of the repository in the folder `local` into the server's folder, unless it is there.

    For an encrypted copy `local` is a folder of encryption.marker.identity_folder. Raises RepositoryFormatError when
    the server's folder is a copy of another repository, RemoteUnreachableError and its like.
    """
    transfer.up(local, transfer.connection.address.path, "--mkpath", "--ignore-existing", *_ONLY)
    check(transfer, local)
    if (local / RECIPIENTS_FILE).exists():
        transfer.up(local, transfer.connection.address.path, f"--include=/{RECIPIENTS_FILE}", "--exclude=*")


def found_by_adding(transfer: Transfer, local: Path) -> None:
    """The same where the key may only add: who it is encrypted for is told once, when the folder is still empty."""
    if _exists(transfer, local):
        check(transfer, local)
        return
    only = [f"--include=/{name}" for name in (REPOSITORY_FILE, RECIPIENTS_FILE)]
    transfer.up(local, transfer.connection.address.below(_FOUNDING), *only, "--exclude=*")
    done = transfer.connection.ask(ADD_ONLY, "found", watch=transfer.watch.check)
    if done.status != 0:
        raise transfer.connection.failure(done)
    check(transfer, local)


def check(transfer: Transfer, local: Path) -> None:
    """Check that the server's folder is the copy of the repository in `local`, also with a key that only adds.

    Raises RepositoryNotFoundError when it is no repository, RepositoryFormatError when it is a copy of another one,
    RemoteUnreachableError and its like.
    """
    if _is_same(transfer, local):
        return
    if not _exists(transfer, local):
        raise nothing_there(transfer)
    content = read_limited(local / REPOSITORY_FILE, _BYTES_MAX)
    wanted = is_encrypted(content)
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
        (Path(folder) / REPOSITORY_FILE).write_bytes(
            plain_identity(content) if wanted else encrypted_identity(content)
        )
        if _is_same(transfer, Path(folder)):
            raise _kept_otherwise(transfer, encrypted=not wanted)
    raise another_there(transfer)


def identity(transfer: Transfer) -> str | None:
    """The id of the repository in the server's folder, None where there is none.

    Raises RepositoryFormatError when its file is not one that we can read, RemoteAccessError when the account may not
    read, RemoteUnreachableError and its like.
    """
    content = identity_file(transfer)
    if content is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
        try:
            plain = plain_identity(content) if is_encrypted(content) else content
            (Path(folder) / REPOSITORY_FILE).write_bytes(plain)
            return LocalRepository.open("remote", Path(folder)).id
        except RepositoryFormatError as error:
            raise RepositoryFormatError(
                phrase("{place} holds a repository that this program cannot read", place=transfer.connection.address),
                hint=error.hint,
            ) from error


def require(transfer: Transfer, repository_id: str) -> None:
    """Raises RepositoryNotFoundError and RepositoryFormatError unless the server's folder is that repository; else
    as `identity`.
    """
    there = identity(transfer)
    if there is None:
        raise nothing_there(transfer)
    if there != repository_id:
        raise another_there(transfer)


def identity_file(transfer: Transfer) -> bytes | None:
    """The very bytes of kvm-backup.json in the server's folder, None where there is none. Raises as `identity`."""
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as folder:
        fetched = Path(folder)
        try:
            transfer.down(transfer.connection.address.path, fetched, f"--max-size={_BYTES_MAX}", *_ONLY)
            return read_limited(fetched / REPOSITORY_FILE, _BYTES_MAX)
        except (FolderMissingError, DamagedPointError):
            return None


def _exists(transfer: Transfer, local: Path) -> bool:
    return not transfer.differing(local, transfer.connection.address.path, "--ignore-existing", *_ONLY)


def _is_same(transfer: Transfer, local: Path) -> bool:
    path = transfer.connection.address.path
    compared = [f"{path.rstrip('/')}/.check", "--checksum", f"--compare-dest={path}"]
    return not transfer.differing(local, *compared, *_ONLY)


def _kept_otherwise(transfer: Transfer, *, encrypted: bool) -> RepositoryFormatError:
    place = transfer.connection.address
    if encrypted:
        message = phrase("the points at {place} are encrypted, and the settings have no recipients", place=place)
    else:
        message = phrase("the points at {place} are not encrypted, and the settings have recipients", place=place)
    return RepositoryFormatError(
        message,
        hint=phrase(
            "Nothing was sent. One folder holds one kind: name another folder there, or correct 'recipients'."
        ),
    )


def nothing_there(transfer: Transfer) -> RepositoryNotFoundError:
    """The error for a folder without a repository."""
    return RepositoryNotFoundError(
        phrase("{place} holds no repository", place=transfer.connection.address),
        hint=phrase(
            "A disk of its own may need mounting there. A new folder: 'kvm-backup repository add' makes it one."
        ),
    )


def another_there(transfer: Transfer) -> AnotherRepositoryError:
    """The error for a folder with the points of another repository."""
    return AnotherRepositoryError(
        phrase("{place} holds the points of another repository", place=transfer.connection.address),
        hint=phrase("Give each repository a folder of its own there; nothing was changed."),
    )
