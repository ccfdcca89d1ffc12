"""Reading a repository on another server: its manifests are mirrored, its points fetched.

The mirror is a folder like a repository with nothing but manifests in it, so that LocalRepository lists it. rsync
transfers only what is new since the last time.
"""

from collections.abc import Callable
from pathlib import Path

from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.files import SUFFIX, encrypted_size
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.marker import is_encrypted, plain_identity
from kvm_backup.repository.encryption.reading import (
    ENCRYPTED_FOLDER,
    decrypt_manifests,
    decrypt_point,
    missing_files,
    no_identities,
)
from kvm_backup.repository.local import REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.founding import another_there, identity, identity_file, nothing_there
from kvm_backup.repository.ssh.recovery import undo_cut_replacements
from kvm_backup.repository.ssh.shipment import ENCRYPTED_MANIFEST_FILE
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_RECIPIENTS = 1000
"""More than anybody encrypts for."""
STAMP_GLOB = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"


def mirror_manifests(
    transfer: Transfer, mirror: Path, identities: Callable[[], Identities | None], *, has_shell: bool
) -> Moved:
    """Make `mirror` hold the manifests that the server holds now, and no others; decrypted, where they are encrypted.
    With a shell, points that a replacement has left aside are back in their places before.

    Links and larger files than a manifest can be are not taken. Raises RepositoryNotFoundError when no repository is
    there now, RepositoryFormatError when it is not the one that the mirror was made of (a disk may not be mounted
    there), EncryptionKeyError when there is no private key for it, RemoteAccessError when the account may not read,
    RemoteUnreachableError and its like; the mirror stays as it was then.
    """
    content, there = identity_file(transfer), identity(transfer)
    if content is None or there is None:
        raise nothing_there(transfer)
    if (mirror / REPOSITORY_FILE).exists() and LocalRepository.open("mirror", mirror).id != there:
        raise another_there(transfer)
    if has_shell:
        undo_cut_replacements(transfer)
    if not is_encrypted(content):
        mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _fetch_manifests(transfer, mirror, MANIFEST_FILE)
    encrypted = mirror / ENCRYPTED_FOLDER
    encrypted.mkdir(mode=0o700, parents=True, exist_ok=True)
    moved = _fetch_manifests(transfer, encrypted, ENCRYPTED_MANIFEST_FILE)
    # Asked for only now: a key can be tried on what is here, and a wrong one be asked for again.
    keys = identities()
    if keys is None:
        raise no_identities(transfer.connection.address)
    decrypt_manifests(encrypted, Mirror("mirror", mirror, there), keys)
    durable.replace_content(mirror / REPOSITORY_FILE, plain_identity(content))
    return moved


def _fetch_manifests(transfer: Transfer, folder: Path, name: str) -> Moved:
    return transfer.down(
        transfer.connection.address.path,
        folder,
        "--delete",
        "--prune-empty-dirs",
        f"--max-size={2 * MANIFEST_BYTES_MAX}",
        f"--include=/{REPOSITORY_FILE}",
        "--include=/*--*/",
        f"--include=/*--*/{STAMP_GLOB}/",
        f"--include=/*--*/{STAMP_GLOB}/{name}",
        "--exclude=*",
    )


def fetch_point(transfer: Transfer, manifest: Manifest, folder: Path) -> Moved:
    """Fetch the files of a point into `folder`; after a cut it goes on where it was.

    Nothing is checked: the caller verifies digests as of any point. Nothing larger than its manifest says is taken.
    Raises NoSpaceError, StorageError, RemoteUnreachableError and its like.
    """
    return _fetch(transfer, manifest, folder, [*_data(manifest), MANIFEST_FILE], _largest(manifest))


def fetch_encrypted_point(transfer: Transfer, manifest: Manifest, folder: Path, identities: Identities) -> Moved:
    """The same where the files are encrypted: they lie in a folder below until they are decrypted and checked.

    A damaged one is missing at the end. Raises EncryptionKeyError when no key opens them, else as `fetch_point`.
    """
    fetched = folder / ENCRYPTED_FOLDER
    # What is there now shall come, not be taken for what is here.
    (fetched / ENCRYPTED_MANIFEST_FILE).unlink(missing_ok=True)
    names = [f"{plain.name}{SUFFIX}" for plain in missing_files(manifest, folder)]
    limit = encrypted_size(_largest(manifest), _RECIPIENTS)
    moved = _fetch(transfer, manifest, fetched, [*names, ENCRYPTED_MANIFEST_FILE], limit)
    decrypt_point(manifest, folder, identities, _Checks(transfer.watch.check))
    return moved


def _fetch(transfer: Transfer, manifest: Manifest, folder: Path, names: list[str], limit: int) -> Moved:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return transfer.down(
        transfer.connection.address.below(manifest.id),
        folder,
        "--append",
        f"--max-size={limit}",
        *(f"--include=/{name}" for name in names),
        "--exclude=*",
    )


def _data(manifest: Manifest) -> list[str]:
    images = [disk.file for disk in manifest.disks if disk.file]
    return [*images, *(stored.name for stored in manifest.files)]


def _largest(manifest: Manifest) -> int:
    return max(
        *(disk.bytes_stored for disk in manifest.disks), *(file.bytes for file in manifest.files), MANIFEST_BYTES_MAX
    )


class _Checks:
    """A transfer's watch as the control of what decrypts."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def advance(self, done: int) -> None:
        """What crossed the wire was counted."""
