"""Read models: what the front ends show, as plain dicts with the documented keys (docs/cli.md)."""

from collections.abc import Iterable
from typing import Any

from kvm_backup.domain.disk import why_left_out
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.vm import Vm
from kvm_backup.services.stores.store import Store


def point_summary(
    store: Store, point: Manifest, elsewhere: tuple[str, ...] | None, *, foreign: bool
) -> dict[str, Any]:
    """One row of `point list`. Times are ISO 8601 in UTC, sizes in bytes.

    `elsewhere` are the repositories that hold the point's images when this one does not; `foreign` whether it is one
    of the store's foreign points, which whoever lists many has looked up once.
    """
    return {
        "id": point.id,
        "vm": point.vm_name,
        "vm_uuid": point.vm_uuid,
        "mode": point.mode.value,
        "requested_mode": point.requested_mode.value,
        "created": point.created.isoformat(),
        "parent": point.parent,
        "path": store.place_of(point.id),
        "repository": store.view.name,
        "consistency": point.consistency.value,
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
        "disks": [disk.target for disk in point.disks],
        "elsewhere": None if elsewhere is None else list(elsewhere),
        "foreign": foreign,
    }


def point_details(store: Store, point: Manifest) -> dict[str, Any]:
    """All that is known of a point. Raises StorageError."""
    whole = point.model_dump(mode="json")
    return point_summary(store, point, store.view.elsewhere(point.id), foreign=point.id in store.foreign) | {
        "uuid": point.uuid,
        "finished": point.finished.isoformat(),
        "reason": point.demotion.reason.value if point.demotion else None,
        "detail": point.demotion.detail if point.demotion else None,
        "checkpoint": point.checkpoint,
        "snapshot": point.snapshot,
        "disks": whole["disks"],
        "left_out": whole["left_out"],
        "files": whole["files"],
        "notices": whole["notices"],
        "tool_version": point.tool_version,
    }


def vm_summary(vm: Vm, excluded: frozenset[str], points: Iterable[Manifest]) -> dict[str, Any]:
    """One row of `vm list`; `points` are those of this VM, oldest first."""
    newest = max(points, key=lambda point: point.created, default=None)
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "state": vm.state.value,
        "disks": [
            {
                "target": disk.target,
                "format": disk.format,
                "source": disk.path,
                "virtual_size": disk.virtual_size,
                "left_out": reason.value if (reason := why_left_out(disk, excluded)) else None,
            }
            for disk in vm.disks
        ],
        "last_point": newest.id if newest else None,
        "last_point_created": newest.created.isoformat() if newest else None,
    }
