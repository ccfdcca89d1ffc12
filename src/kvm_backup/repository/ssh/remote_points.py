"""Reading a repository on another server: its manifests are mirrored, its points fetched.

The mirror is a folder like a repository with nothing but manifests in it, so that LocalRepository lists it. rsync
transfers only what is new since the last time.
"""

from pathlib import Path

from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_STAMP_GLOB = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"


def mirror_manifests(transfer: Transfer, mirror: Path) -> Moved:
    """Make `mirror` hold the manifests that the server holds now, and no others.

    Links and larger files than a manifest can be are not taken. Raises RemoteAccessError when the account may not
    read, RemoteUnreachableError and its like.
    """
    mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
    return transfer.down(
        transfer.connection.address.path,
        mirror,
        "--delete",
        "--prune-empty-dirs",
        f"--max-size={MANIFEST_BYTES_MAX}",
        f"--include=/{REPOSITORY_FILE}",
        "--include=/*--*/",
        f"--include=/*--*/{_STAMP_GLOB}/",
        f"--include=/*--*/{_STAMP_GLOB}/{MANIFEST_FILE}",
        "--exclude=*",
    )


def fetch_point(transfer: Transfer, shipment: Shipment) -> Moved:
    """Fetch the files of a point into `shipment.folder`; after a cut it goes on where it was.

    Nothing is checked: the caller verifies digests as of any point. Raises RemoteUnreachableError and its like.
    """
    shipment.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = transfer.connection.address.below(shipment.manifest.id)
    names = [*shipment.images, *(stored.name for stored in shipment.manifest.files), MANIFEST_FILE]
    return transfer.down(source, shipment.folder, "--append", *shipment.only(*names))
