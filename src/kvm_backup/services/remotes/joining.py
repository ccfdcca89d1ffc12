"""Making a folder on another server the copy of a repository here; or finding that it is one to read from."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import (
    RemoteAccessError,
    RemoteSetupError,
    RepositoryFormatError,
    RepositoryNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.encryption.marker import identity_folder
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.founding import AnotherRepositoryError
from kvm_backup.repository.ssh.remote import Remote


@dataclass(frozen=True, slots=True)
class Joined:
    """What a folder on a server is now.

    `of` names the local repository that it copies, None: it is only read. `repository_id` is its id. `readable` tells
    whether an account of it may read, `only_adds` whether the one that ships can do no harm, None of one that is only
    read. `made` tells that it was empty before.
    """

    of: str | None
    repository_id: str
    readable: bool
    only_adds: bool | None = None
    made: bool = False


@dataclass(frozen=True, slots=True)
class Locals:
    """The repositories of this host. `open` makes the default one where none was yet; `known_id` makes nothing, and
    gives None then."""

    default: str
    open: Callable[[str], LocalRepository]
    known_id: Callable[[str], str | None]


def join_as_copy(remote: Remote, here: Locals, of: str | None, recipients: Sequence[str] = ()) -> Joined:
    """Make it the copy of the local repository `of`. None is the default one, unless the folder holds the points of
    another repository: then it is only read, and nothing is changed there.

    Raises RepositoryFormatError when the folder holds others' points, and `of` is given or the key may not read,
    RemoteSetupError when the two accounts see different folders or it is the folder of the local repository, and what
    `Remote` raises.
    """
    there, readable = _look(remote)
    if of is None and there is not None and there != here.known_id(here.default):
        return Joined(None, there, readable)
    local = here.open(of or here.default)
    remote.require_apart(local.root)
    with _identity_of(local, recipients) as root:
        try:
            remote.found(root)
        except AnotherRepositoryError as error:
            raise error if readable else _unreadable(remote.address) from error
    remote.require_apart(local.root)  # one inside it is known by what it holds now
    if readable and remote.identity() != local.id:
        raise another_folder(remote.address)
    return Joined(local.name, local.id, readable, remote.only_adds, made=readable and there is None)


def join_to_read(remote: Remote) -> Joined:
    """Look at a repository of another host; nothing is changed there.

    Raises RepositoryNotFoundError when there is none, and what `Remote` raises.
    """
    there = remote.identity()
    if there is None:
        raise RepositoryNotFoundError(
            phrase("{place} holds no repository", place=remote.address),
            hint=phrase("Correct the address; a disk of its own may need mounting there."),
        )
    return Joined(None, there, readable=True)


def another_folder(place: object) -> RemoteSetupError:
    """The error for two accounts that see different folders."""
    return RemoteSetupError(
        phrase("{place}: the account that prunes sees another folder", place=place),
        hint=phrase("Both addresses must lead to the same folder; a path that rrsync locks in begins at /."),
    )


def _unreadable(place: object) -> RepositoryFormatError:
    """The error for the points of another host, as a key that only adds meets them."""
    return RepositoryFormatError(
        phrase("{place} holds the points of another repository, and this key cannot read them", place=place),
        hint=phrase(
            "To restore them, name in the URL the account that the old host had in its prune_url: that one may read. "
            "For the points of this host, name a folder of its own. Nothing was changed."
        ),
    )


def _identity_of(local: LocalRepository, recipients: Sequence[str]) -> AbstractContextManager[Path]:
    """A folder with the kvm-backup.json that the copy of a repository has."""
    return identity_folder(local.root, recipients) if recipients else nullcontext(local.root)


def _look(remote: Remote) -> tuple[str | None, bool]:
    try:
        return remote.identity(), True
    except RemoteAccessError:
        # Logging in has worked: this key may write there and not read.
        return None, False
