"""Points that a remote holds encrypted for nobody who is a recipient today: nothing new may build on them there."""

from collections.abc import Collection

from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror


def closed_points(local: LocalRepository, mirror: Mirror, recipients: Collection[str], folder: str) -> frozenset[str]:
    """The ids of a VM's points that the remote holds as they are here, and that none of `recipients` is known to open
    there: the key of one who is none any more may be lost. None where nothing is encrypted.

    One of which nobody knows for whom it was encrypted counts as open. Raises StorageError.
    """
    if not recipients:
        return frozenset()
    return frozenset(
        point.id
        for point in local.points(local.root / folder)
        if isinstance(point, Manifest) and _is_closed(mirror, point, recipients)
    )


def _is_closed(mirror: Mirror, point: Manifest, recipients: Collection[str]) -> bool:
    content = serialize(point)
    if not mirror.holds(point.id, content):
        return False
    opened_by = mirror.arrived.recipients(point.id, content)
    return bool(opened_by) and opened_by.isdisjoint(recipients)
