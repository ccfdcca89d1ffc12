"""Checking the files of a point by a shell on the server."""

from kvm_backup.repository.ssh import scripts
from kvm_backup.repository.ssh.connection import patience_for
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import Transfer


def differing(transfer: Transfer, shipment: Shipment, folder: str) -> list[str]:
    """Files in the server's `folder` whose digest is not the manifest's, missing ones included.

    Raises RemoteUnreachableError and its like, and what the watch raises.
    """
    images, files = shipment.images, shipment.files
    pairs = [word for kind, names in (("image", images), ("file", files)) for name in names for word in (kind, name)]
    done = transfer.connection.run(
        scripts.DIGESTS, folder, *pairs, watch=transfer.watch.check, timeout=patience_for(shipment.size)
    )
    found = done.stdout.split()
    expected = {**images, **files}
    if len(found) != len(expected):
        return list(expected)
    return [name for (name, digest), came in zip(expected.items(), found, strict=True) if digest != came]
