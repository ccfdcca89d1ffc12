"""Checking the files of a point by their digests, which are computed on the server."""

from collections.abc import Mapping

from kvm_backup.repository.ssh import scripts
from kvm_backup.repository.ssh.account import ADD_ONLY
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
    return _unlike({**images, **files}, done.stdout.split())


def tells_digests(transfer: Transfer) -> bool:
    """Whether the server computes digests for this key, which only adds: its script may be older than that."""
    return transfer.connection.ask(ADD_ONLY, "digests", watch=transfer.watch.check).status == 0


def differing_by_adding(transfer: Transfer, shipment: Shipment) -> list[str]:
    """As `differing`, of an encrypted point, with a key that only adds. Raises RemoteAccessError, too."""
    manifest, expected = shipment.manifest, shipment.files
    words = ("digests", manifest.folder, manifest.stamp, *expected)
    done = transfer.connection.ask(ADD_ONLY, *words, watch=transfer.watch.check, timeout=patience_for(shipment.size))
    if done.status != 0:
        raise transfer.connection.failure(done)
    return _unlike(expected, done.stdout.split())


def _unlike(expected: Mapping[str, str], found: list[str]) -> list[str]:
    if len(found) != len(expected):
        return list(expected)
    return [name for (name, digest), came in zip(expected.items(), found, strict=True) if digest != came]
