"""Reading a repository on another server: its manifests are mirrored, its points fetched.

The mirror is a folder like a repository with nothing but manifests in it, so that LocalRepository lists it. rsync
transfers only what is new since the last time.
"""

from pathlib import Path

from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from kvm_backup.repository.encryption.files import SUFFIX, encrypted_size
from kvm_backup.repository.local import REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.ssh.founding import another_there, identity, nothing_there
from kvm_backup.repository.ssh.shipment import ENCRYPTED_MANIFEST_FILE
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_RECIPIENTS = 1000
"""More than anybody encrypts for."""
STAMP_GLOB = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"


def mirror_manifests(transfer: Transfer, mirror: Path) -> Moved:
    """Make `mirror` hold the manifests that the server holds now, and no others.

    Links and larger files than a manifest can be are not taken. Raises RepositoryNotFoundError when no repository is
    there now, RepositoryFormatError when it is not the one that the mirror was made of (a disk may not be mounted
    there; the mirror stays as it was), RemoteAccessError when the account may not read, RemoteUnreachableError and
    its like.
    """
    there = identity(transfer)
    if there is None:
        raise nothing_there(transfer)
    mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (mirror / REPOSITORY_FILE).exists() and LocalRepository.open("mirror", mirror).id != there:
        raise another_there(transfer)
    return transfer.down(
        transfer.connection.address.path,
        mirror,
        "--delete",
        "--prune-empty-dirs",
        f"--max-size={2 * MANIFEST_BYTES_MAX}",
        f"--include=/{REPOSITORY_FILE}",
        "--include=/*--*/",
        f"--include=/*--*/{STAMP_GLOB}/",
        *(f"--include=/*--*/{STAMP_GLOB}/{name}" for name in (MANIFEST_FILE, ENCRYPTED_MANIFEST_FILE)),
        "--exclude=*",
    )


def fetch_point(transfer: Transfer, manifest: Manifest, folder: Path, *, encrypted: bool = False) -> Moved:
    """Fetch the files of a point into `folder`; after a cut it goes on where it was.

    Nothing is checked: the caller verifies digests as of any point. Nothing larger than its manifest says is taken.
    Raises NoSpaceError, StorageError, RemoteUnreachableError and its like.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    suffix = SUFFIX if encrypted else ""
    images = [disk.file for disk in manifest.disks if disk.file]
    names = [*images, *(stored.name for stored in manifest.files), MANIFEST_FILE]
    largest = max(*(disk.bytes_stored for disk in manifest.disks), *(file.bytes for file in manifest.files), 0)
    limit = max(largest, MANIFEST_BYTES_MAX)
    return transfer.down(
        transfer.connection.address.below(manifest.id),
        folder,
        "--append",
        f"--max-size={encrypted_size(limit, _RECIPIENTS) if encrypted else limit}",
        *(f"--include=/{name}{suffix}" for name in names),
        "--exclude=*",
    )
