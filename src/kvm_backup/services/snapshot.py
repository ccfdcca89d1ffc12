"""Mode snapshot: external libvirt snapshots that stay on the host, kept to a number, deleted by live merge."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError, VmNotFoundError
from kvm_backup.domain.names import STAMP_LENGTH, is_checkpoint_of, without_snapshot_name
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Consistency, DiskMode, LeftOutDisk, Manifest, Mode, StoredDisk
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guard import Guard
from kvm_backup.hypervisor.guest_agent import Freeze
from kvm_backup.hypervisor.image import backing
from kvm_backup.hypervisor.snapshots import Snapshot, create_snapshot, delete_snapshot, list_snapshots
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.plan import saved_disks
from kvm_backup.services.session import frozen_file_systems

_HEADER = struct.Struct(">4sIQ56xQ")
"""Of a qcow2 file: magic, version, offset of the backing file's name, incompatible features (QEMU's qcow2.txt)."""
_EXTERNAL_DATA = 1 << 2


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was made."""

    name: str
    consistency: Consistency
    disks: tuple[StoredDisk, ...]
    left_out: tuple[LeftOutDisk, ...]


def take_snapshot(
    hypervisor: Hypervisor,
    vm: Vm,
    guard: Guard,
    *,
    name: str,
    excluded: frozenset[str],
    freeze_timeout: float | None,
    notice: Callable[[str], None],
) -> Taken:
    """Snapshot all disks of a VM at one instant; each overlay lies beside its disk.

    Raises UnsupportedDiskError (a disk that cannot have one), TargetExistsError, HypervisorError.
    """
    saved, left_out = saved_disks(vm, excluded)
    overlays = {disk.target: overlay_path(Path(disk.path or ""), name) for disk in saved}
    if not vm.has_qemu:
        create_snapshot(hypervisor, vm, name, overlays)
        consistency = Consistency.FILESYSTEM if vm.clean_shutdown else Consistency.CRASH
    else:
        with frozen_file_systems(hypervisor, vm, guard, freeze_timeout, notice) as frozen:
            create_snapshot(hypervisor, vm, name, overlays)
        held = frozen.result is Freeze.FROZEN and frozen.count > 0
        consistency = Consistency.FILESYSTEM if held else Consistency.CRASH
    disks = tuple(
        StoredDisk(
            target=disk.target,
            mode=DiskMode.HOST,
            virtual_size=disk.virtual_size or 0,
            source_format=disk.format,
            source_path=disk.path,
            host_path=disk.path,
        )
        for disk in saved
    )
    return Taken(name, consistency, disks, left_out)


def overlay_path(disk: Path, snapshot: str) -> Path:
    """Where a snapshot's overlay goes: beside the disk, named after it and the snapshot.

    A disk that is an overlay of ours itself lends only its first part, so that names do not grow with each snapshot.
    """
    return disk.with_name(f"{without_snapshot_name(disk.name)}.{snapshot}")


def frozen_image(hypervisor: Hypervisor, point: Manifest, disk: StoredDisk) -> tuple[Path, str] | None:
    """The file that holds a snapshot's state of a disk now, and its format; None when it is not on this host.

    Each merge of an older snapshot moves the state into the image below, so the snapshot's own overlay is asked what
    it lies on. Where the overlay is gone the snapshot was merged, and the image that once held its state has
    changed. An overlay that lies on nothing was replaced by a restore in place, which leaves the images below alone.
    """
    try:
        vm = hypervisor.vm(point.vm_uuid)
        listed = list_snapshots(hypervisor, vm.uuid)
    except VmNotFoundError:
        return None
    overlay = own_overlay(point, disk, vm, listed)
    if overlay is None or not overlay.exists():
        return None
    below = backing(str(overlay))
    if below is not None:
        return (Path(below[0]), below[1]) if Path(below[0]).exists() else None
    image = Path(disk.host_path or "")
    # The manifest alone says this path and format: it must be the same disk's, and must not lead to another file.
    own = image.parent == overlay.parent and overlay_path(image, point.snapshot or "") == overlay != image
    if not own or disk.source_format not in ("qcow2", "raw") or not image.is_file():
        return None
    if disk.source_format == "qcow2" and not _can_be_read_alone(image):
        return None
    return image, disk.source_format


def own_overlay(point: Manifest, disk: StoredDisk, vm: Vm, listed: Iterable[Snapshot]) -> Path | None:
    """A snapshot's overlay of a disk by what libvirt says of the VM, and not by any path of the manifest.

    A restore in place makes libvirt forget the snapshots; the overlay's path then follows from the disk's.
    """
    if vm.uuid.lower() != point.vm_uuid or point.snapshot is None:
        return None
    for snapshot in listed:
        if snapshot.name == point.snapshot:
            return next((Path(one.overlay) for one in snapshot.disks if one.target == disk.target), None)
    held = next((one for one in vm.disks if one.target == disk.target), None)
    if held is None or held.path is None or not is_checkpoint_of(point.snapshot, point.repository):
        return None
    return overlay_path(Path(held.path), point.snapshot)


def _can_be_read_alone(image: Path) -> bool:
    """Whether a qcow2 header leads nowhere else. A guest writes any header it likes into a raw image.

    An overlay of an older snapshot is none of the guest's: QEMU made its header.
    """
    if without_snapshot_name(image.name) != image.name:
        return True
    with image.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return False
    _magic, _version, backing_offset, incompatible = _HEADER.unpack(header)
    return bool(backing_offset == 0 and incompatible & _EXTERNAL_DATA == 0)


def prune_snapshots(
    hypervisor: Hypervisor, repository: LocalRepository, vm: Vm, *, keep: int, notice: Callable[[str], None]
) -> None:
    """Merge this repository's oldest snapshots of a VM until `keep` are left, and drop their points."""
    folder = repository.folder_of(vm.uuid)
    points = [] if folder is None else [point for point in repository.points(folder) if isinstance(point, Manifest)]
    points = [point for point in points if point.mode is Mode.SNAPSHOT]
    listed = {snapshot.name for snapshot in list_snapshots(hypervisor, vm.uuid)}
    for point in points[: max(0, len(points) - keep)]:
        # The point goes first: once the merge has begun, its image no longer holds the state that it promises.
        repository.withdraw(point.id)
        try:
            if point.snapshot in listed:
                delete_snapshot(hypervisor, vm.uuid, point.snapshot or "")
        except KvmBackupError as error:
            notice(
                phrase(
                    "the old snapshot {snapshot} could not be merged, the next run tries again: {cause}",
                    snapshot=point.snapshot,
                    cause=error.message,
                )
            )
            return


def merge_unpublished_snapshots(
    hypervisor: Hypervisor, repository: LocalRepository, vm: Vm, *, notice: Callable[[str], None]
) -> None:
    """Merge the snapshots that have no point; what cannot be merged is told and left for the next run."""
    for name in orphaned_snapshots(hypervisor, repository, vm):
        try:
            delete_snapshot(hypervisor, vm.uuid, name)
            notice(phrase("merged a snapshot that has no restore point: {name}", name=name))
        except KvmBackupError as error:
            notice(
                phrase(
                    "the snapshot {name}, which has no restore point, could not be merged: {cause}",
                    name=name,
                    cause=error.message,
                )
            )


def orphaned_snapshots(hypervisor: Hypervisor, repository: LocalRepository, vm: Vm) -> list[str]:
    """Names of snapshots that a dead run of this repository made and never published; merging them loses nothing."""
    folder = repository.folder_of(vm.uuid)
    published = set() if folder is None else set(repository.stamps(folder))
    return [
        snapshot.name
        for snapshot in list_snapshots(hypervisor, vm.uuid)
        if is_checkpoint_of(snapshot.name, repository.id) and snapshot.name[-STAMP_LENGTH:] not in published
    ]
