"""The mirror of a remote, made anew from what the server holds."""

from pathlib import Path

from kvm_backup.domain.errors import RepositoryFormatError, RepositoryNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.repository.mirror import Mirror, mirror_path
from kvm_backup.repository.ssh.remote import Remote

_UNREADABLE = ""
"""In place of the id of a mirror that does not say whose it is."""


def reread(remote: Remote, name: str, url: str, state_dir: Path, expected: str | None) -> Mirror:
    """Make the mirror hold what is there now. `expected` is the id of the repository that it copies, None: any.

    A mirror of another repository begins anew. Raises RepositoryNotFoundError when there is none,
    RepositoryFormatError when it is another than expected, and what `Remote` raises: the mirror is as it was then.
    """
    there = remote.identity()
    if there is None:
        raise RepositoryNotFoundError(
            phrase("{place} holds no repository now", place=remote.address),
            hint=phrase("A disk of its own may need mounting there. What was known of it stays."),
        )
    if expected is not None and there != expected:
        raise RepositoryFormatError(
            phrase("{place} holds the points of another repository", place=remote.address),
            hint=phrase("Look at what is mounted there, or correct the address. What was known of it stays."),
        )
    root = mirror_path(state_dir, name, url)
    if (known := _id_of(name, url, state_dir)) not in (there, None, _UNREADABLE):
        durable.remove_tree(root)
    if known == _UNREADABLE:
        # The ledger beside it is nowhere else.
        (root / REPOSITORY_FILE).unlink()
    remote.refresh(root)
    mirror = Mirror.open_existing(name, url, state_dir)
    mirror.note_read()
    return mirror


def _id_of(name: str, url: str, state_dir: Path) -> str | None:
    try:
        return Mirror.open_existing(name, url, state_dir).repository.id
    except RepositoryNotFoundError:
        return None
    except RepositoryFormatError:
        return _UNREADABLE
