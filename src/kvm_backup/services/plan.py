"""What one backup will do: which disks, from which parent, and why full where it is full."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from kvm_backup.domain.chain import BitmapCondition, Decision, DiskNow, NewestPoint, PointDisk, decide
from kvm_backup.domain.disk import Disk, SourceKind, why_left_out
from kvm_backup.domain.errors import BrokenChainError, UnsupportedDiskError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DiskMode, LeftOutDisk, Manifest, Mode
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.bitmaps import BitmapFault, BitmapState, bitmaps, source_images
from kvm_backup.hypervisor.checkpoints import list_checkpoints
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services.links import is_unnamed, seem_intact

_CONDITIONS = {
    BitmapFault.INCONSISTENT: BitmapCondition.INCONSISTENT,
    BitmapFault.NOT_RECORDING: BitmapCondition.NOT_RECORDING,
    BitmapFault.NOT_PERSISTENT: BitmapCondition.NOT_RECORDING,
    BitmapFault.NOT_IN_TOP_LAYER: BitmapCondition.SPLIT,
    BitmapFault.INTERRUPTED: BitmapCondition.SPLIT,
}


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk that will be captured, and how."""

    disk: Disk
    mode: DiskMode
    images: tuple[str, ...] = ()
    """What it is made of on this host, top first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One capture. `parent` is there exactly when the decision is incremental."""

    vm: Vm
    disks: tuple[PlannedDisk, ...]
    left_out: tuple[LeftOutDisk, ...]
    decision: Decision
    parent: Manifest | None

    @property
    def mode(self) -> Mode:
        return Mode.INCREMENTAL if self.parent is not None else Mode.FULL

    @property
    def base_checkpoint(self) -> str | None:
        return self.parent.checkpoint if self.parent is not None else None

    @property
    def targets_with_bitmap(self) -> list[str]:
        """Where the new checkpoint records what changes from now on."""
        return [planned.disk.target for planned in self.disks if planned.disk.can_have_bitmap]


def saved_disks(vm: Vm, excluded: frozenset[str]) -> tuple[tuple[Disk, ...], tuple[LeftOutDisk, ...]]:
    """The disks that belong in a point, and those that do not. Raises UnsupportedDiskError when none is left."""
    reasons = {disk.target: why_left_out(disk, excluded) for disk in vm.disks}
    saved = tuple(disk for disk in vm.disks if reasons[disk.target] is None)
    left_out = tuple(LeftOutDisk(target=target, reason=reason) for target, reason in reasons.items() if reason)
    if not saved:
        listed = ", ".join(f"{disk.target}: {disk.reason}" for disk in left_out) or "it has no disks"
        raise UnsupportedDiskError(
            phrase("the VM {vm} has no disk to save ({listed})", vm=vm.name, listed=listed),
            hint=phrase("See 'kvm-backup vm list'; vm.exclude_disks in the settings leaves disks out."),
            vm=vm.name,
        )
    return saved, left_out


def make_plan(
    hypervisor: Hypervisor,
    repository: LocalRepository,
    vm: Vm,
    *,
    full_requested: bool,
    excluded: frozenset[str],
    longest_chain: int,
    remotes: Container[str],
    unshippable: Container[str],
    closed: Container[str],
) -> Plan:
    """Look at the repository, libvirt and the bitmaps, and decide. Raises UnsupportedDiskError.

    `longest_chain` is in points, for chains that cannot be consolidated here. `remotes` are the names of those that
    the settings know: nothing is built on images that are only at others, nor on a point that is `unshippable` (ids),
    nor on one that a remote holds `closed` (ids).
    """
    saved, left_out = saved_disks(vm, excluded)
    if not vm.has_qemu:
        _refuse_unreadable(vm, saved)
    newest = newest_point(repository, vm.uuid)
    parent = newest if isinstance(newest, Manifest) else None
    checkpoint = parent.checkpoint if parent is not None else None
    known = any(found.name == checkpoint for found in list_checkpoints(hypervisor, vm.uuid)) if checkpoint else False
    states = bitmaps(hypervisor, vm)
    images = source_images(hypervisor, vm)
    decision = decide(
        full_requested=full_requested,
        newest=_known_point(repository, parent, remotes, unshippable, closed) if parent is not None else None,
        newest_damaged=isinstance(newest, DamagedPoint),
        checkpoint_known=known,
        disks=[
            DiskNow(
                target=disk.target,
                virtual_size=disk.virtual_size or 0,
                bitmap=_condition(states.get(disk.target, {}).get(checkpoint or ""), vm)
                if disk.can_have_bitmap
                else None,
                image=_holder(states.get(disk.target, {}).get(checkpoint or ""), images.get(disk.target, ())),
            )
            for disk in saved
        ],
        longest_chain=longest_chain,
    )
    return plan_for(vm, saved, left_out, decision, parent, images)


def plan_for(
    vm: Vm,
    saved: tuple[Disk, ...],
    left_out: tuple[LeftOutDisk, ...],
    decision: Decision,
    parent: Manifest | None,
    images: Mapping[str, tuple[str, ...]],
) -> Plan:
    """The plan that follows from a decision. Pure."""

    def mode(disk: Disk) -> DiskMode:
        if not disk.can_have_bitmap:
            return DiskMode.WHOLE
        return DiskMode.INCREMENTAL if decision.incremental else DiskMode.FULL

    planned = tuple(PlannedDisk(disk, mode(disk), images.get(disk.target, ())) for disk in saved)
    return Plan(vm, planned, left_out, decision, parent if decision.incremental else None)


def newest_point(repository: LocalRepository, vm_uuid: str) -> Manifest | DamagedPoint | None:
    """The newest point of a VM that holds data, readable or not."""
    folder = repository.folder_of(vm_uuid)
    return None if folder is None else repository.newest(folder)


def _known_point(
    repository: LocalRepository,
    point: Manifest,
    remotes: Container[str],
    unshippable: Container[str],
    closed: Container[str],
) -> NewestPoint:
    chain = [point]
    try:
        chain = repository.chain(point)
        intact = seem_intact(repository, chain)
    except BrokenChainError:
        intact = False
    disks = tuple(
        PointDisk(disk.target, disk.virtual_size, disk.mode is DiskMode.WHOLE, disk.source_images)
        for disk in point.disks
    )
    marks = [repository.elsewhere(link.id) for link in chain]
    return NewestPoint(
        checkpoint=point.checkpoint,
        disks=disks,
        chain_intact=intact,
        chain_elsewhere=any(names is not None for names in marks),
        chain_unnamed=any(is_unnamed(names, remotes) for names in marks),
        chain_unshippable=point.id in unshippable,
        chain_closed=any(link.id in closed for link in chain),
        links=len(chain),
    )


def _holder(state: BitmapState | None, images: tuple[str, ...]) -> str | None:
    """The lowest layer that holds a bitmap: those above it were made later, by snapshots."""
    return images[state.layers[-1]] if state is not None and state.layers[-1] < len(images) else None


def _condition(state: BitmapState | None, vm: Vm) -> BitmapCondition:
    if state is None:
        return BitmapCondition.MISSING
    if state.fault is not None:
        return _CONDITIONS[state.fault]
    if not vm.has_qemu and not state.only_in_top_layer:
        return BitmapCondition.SPLIT
    return BitmapCondition.USABLE


def _refuse_unreadable(vm: Vm, saved: tuple[Disk, ...]) -> None:
    for disk in saved:
        hint = phrase(
            'Start the VM, or leave the disk out: [vm."{vm}"] exclude_disks = ["{target}"].',
            vm=vm.name,
            target=disk.target,
        )
        if disk.encrypted:
            raise UnsupportedDiskError(
                phrase(
                    "disk {target} of {vm} is encrypted, and only a running QEMU has its key",
                    target=disk.target,
                    vm=vm.name,
                ),
                hint=hint,
                vm=vm.name,
            )
        if disk.kind is SourceKind.OTHER:
            raise UnsupportedDiskError(
                phrase(
                    "disk {target} of {vm} is on network storage, which can only be read while the VM runs",
                    target=disk.target,
                    vm=vm.name,
                ),
                hint=hint,
                vm=vm.name,
            )
