"""Full or incremental: one decision over what is known, with its reasons as values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kvm_backup.domain.phrase import phrase


class FullReason(StrEnum):
    """Why a run that could have been incremental is a full one."""

    REQUESTED = "requested"
    NO_POINT = "no-point"
    POINT_DAMAGED = "point-damaged"
    CHAIN_BROKEN = "chain-broken"
    CHAIN_CLOSED = "chain-closed"
    CHAIN_ELSEWHERE = "chain-elsewhere"
    CHAIN_UNNAMED = "chain-unnamed"
    CHAIN_UNSHIPPABLE = "chain-unshippable"
    NO_CHECKPOINT = "no-checkpoint"
    CHECKPOINT_MISSING = "checkpoint-missing"
    DISK_ADDED = "disk-added"
    DISK_REMOVED = "disk-removed"
    DISK_SHRUNK = "disk-shrunk"
    DISK_EXCHANGED = "disk-exchanged"
    DISK_FORMAT_CHANGED = "disk-format-changed"
    BITMAP_MISSING = "bitmap-missing"
    BITMAP_INCONSISTENT = "bitmap-inconsistent"
    BITMAP_NOT_RECORDING = "bitmap-not-recording"
    BITMAP_SPLIT = "bitmap-split"
    BITMAP_INCOMPLETE = "bitmap-incomplete"
    NO_DISK_WITH_BITMAP = "no-disk-with-bitmap"
    REFUSED_BY_LIBVIRT = "refused-by-libvirt"


NOTHING_AMISS = frozenset({FullReason.REQUESTED, FullReason.NO_POINT})
"""Why a full point is made where all is as it should be."""


def is_amiss(reason: str | None) -> bool:
    """Whether an incremental was to be expected; `reason` is a value of FullReason, or None without a full point."""
    return reason is not None and reason not in NOTHING_AMISS


_EXPLAINED: Mapping[FullReason, str] = {
    FullReason.REQUESTED: phrase("a full backup was asked for"),
    FullReason.NO_POINT: phrase("the repository holds no earlier point of this VM"),
    FullReason.POINT_DAMAGED: phrase("the newest point in the repository is damaged"),
    FullReason.CHAIN_BROKEN: phrase("a file of the newest point's chain is missing or has another size"),
    FullReason.CHAIN_CLOSED: phrase(
        "a repository holds the newest point, or what it builds on, encrypted for none of today's recipients"
    ),
    FullReason.CHAIN_ELSEWHERE: phrase(
        "the chain is as long as the retention tolerates, and cannot be consolidated: its images are elsewhere"
    ),
    FullReason.CHAIN_UNNAMED: phrase(
        "images of the newest point's chain are only in repositories that the settings do not name"
    ),
    FullReason.CHAIN_UNSHIPPABLE: phrase(
        "the newest point cannot be shipped to a repository: what it builds on is neither there nor here with its"
        " images"
    ),
    FullReason.NO_CHECKPOINT: phrase("the newest point has no checkpoint to start from"),
    FullReason.CHECKPOINT_MISSING: phrase("libvirt no longer knows the newest point's checkpoint"),
    FullReason.DISK_ADDED: phrase("the VM has a disk that the newest point does not hold"),
    FullReason.DISK_REMOVED: phrase("the newest point holds a disk that the VM no longer has"),
    FullReason.DISK_SHRUNK: phrase("the disk is smaller than in the newest point"),
    FullReason.DISK_EXCHANGED: phrase("the disk is in another image file than the newest point's"),
    FullReason.DISK_FORMAT_CHANGED: phrase("the disk's image format changed"),
    FullReason.BITMAP_MISSING: phrase("the disk's dirty bitmap is gone"),
    FullReason.BITMAP_INCONSISTENT: phrase("the disk's dirty bitmap was not saved when QEMU ended"),
    FullReason.BITMAP_NOT_RECORDING: phrase("the disk's dirty bitmap does not record"),
    FullReason.BITMAP_SPLIT: phrase("the disk's dirty bitmap is spread over several image layers"),
    FullReason.BITMAP_INCOMPLETE: phrase(
        "the disk lost data that its dirty bitmap does not tell of, as by a shrinking"
    ),
    FullReason.NO_DISK_WITH_BITMAP: phrase("no disk of this VM is in a format that has dirty bitmaps"),
    FullReason.REFUSED_BY_LIBVIRT: phrase("libvirt refused to start from the newest point's checkpoint"),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and the disk it is about when it is about one."""

    kind: FullReason
    target: str | None = None

    @property
    def text(self) -> str:
        """The reason as a clause for people."""
        explained = _EXPLAINED[self.kind]
        return phrase("{reason} ({disk})", reason=explained, disk=self.target) if self.target else explained


class BitmapCondition(StrEnum):
    """The state of the dirty bitmap that belongs to the newest point's checkpoint, on one disk."""

    USABLE = "usable"
    MISSING = "missing"
    INCONSISTENT = "inconsistent"
    NOT_RECORDING = "not-recording"
    SPLIT = "split"


_BITMAP_REASONS: Mapping[BitmapCondition, FullReason] = {
    BitmapCondition.MISSING: FullReason.BITMAP_MISSING,
    BitmapCondition.INCONSISTENT: FullReason.BITMAP_INCONSISTENT,
    BitmapCondition.NOT_RECORDING: FullReason.BITMAP_NOT_RECORDING,
    BitmapCondition.SPLIT: FullReason.BITMAP_SPLIT,
}


@dataclass(frozen=True, slots=True)
class PointDisk:
    """A disk as the newest point holds it; `whole` when it was saved without a bitmap."""

    target: str
    virtual_size: int
    whole: bool
    images: tuple[str, ...] = ()
    """What it was made of on the host; empty when not known."""


@dataclass(frozen=True, slots=True)
class NewestPoint:
    """What the repository says. `chain_intact`: every file that it needs is there, of the size it should have, or in
    another repository; `chain_elsewhere`: some of them are there; `chain_unnamed`: some are only where the settings
    name no repository any more; `chain_unshippable`: a remote that the point goes to cannot get it; `chain_closed`:
    one holds it, or what it builds on, encrypted for none of today's recipients. `links` counts it and the
    points it builds on."""

    checkpoint: str | None
    disks: tuple[PointDisk, ...]
    chain_intact: bool = True
    chain_elsewhere: bool = False
    chain_unnamed: bool = False
    chain_unshippable: bool = False
    chain_closed: bool = False
    links: int = 1


@dataclass(frozen=True, slots=True)
class DiskNow:
    """A disk of the VM that is to be saved. `bitmap` is None where its format has none."""

    target: str
    virtual_size: int
    bitmap: BitmapCondition | None
    image: str | None = None
    """The lowest of its images that holds the bitmap; None when not known."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`incremental` with no reasons, or full with at least one."""

    incremental: bool
    reasons: tuple[Reason, ...]


def decide(
    *,
    full_requested: bool,
    newest: NewestPoint | None,
    newest_damaged: bool,
    checkpoint_known: bool,
    disks: Iterable[DiskNow],
    longest_chain: int | None = None,
) -> Decision:
    """Decide between an incremental and a full backup (invariant 3).

    Incremental only when the repository's newest point, libvirt's checkpoint and every disk's bitmap agree;
    in every other case full, with all reasons that hold. A chain that no prune can make shorter, because images of it
    are elsewhere, ends with `longest_chain` points. It never raises.
    """
    if full_requested:
        return _full(Reason(FullReason.REQUESTED))
    if newest_damaged:
        return _full(Reason(FullReason.POINT_DAMAGED))
    if newest is None:
        return _full(Reason(FullReason.NO_POINT))
    now = tuple(disks)
    if all(disk.bitmap is None for disk in now):
        return _full(Reason(FullReason.NO_DISK_WITH_BITMAP))
    reasons: list[Reason] = []
    if not newest.chain_intact:
        reasons.append(Reason(FullReason.CHAIN_BROKEN))
    if newest.chain_unnamed:
        reasons.append(Reason(FullReason.CHAIN_UNNAMED))
    if newest.chain_unshippable:
        reasons.append(Reason(FullReason.CHAIN_UNSHIPPABLE))
    if newest.chain_closed:
        reasons.append(Reason(FullReason.CHAIN_CLOSED))
    if newest.chain_elsewhere and longest_chain is not None and newest.links >= longest_chain:
        reasons.append(Reason(FullReason.CHAIN_ELSEWHERE))
    if newest.checkpoint is None:
        reasons.append(Reason(FullReason.NO_CHECKPOINT))
    elif not checkpoint_known:
        reasons.append(Reason(FullReason.CHECKPOINT_MISSING))
    reasons += _disk_reasons(newest, now)
    return Decision(incremental=not reasons, reasons=tuple(reasons))


def _disk_reasons(newest: NewestPoint, now: tuple[DiskNow, ...]) -> list[Reason]:
    before = {disk.target: disk for disk in newest.disks}
    # All disks' bitmaps have the same name, so in a VM of several the name does not tell whose bitmap it is.
    several = sum(not disk.whole for disk in newest.disks) > 1
    reasons: list[Reason] = []
    for disk in now:
        old = before.pop(disk.target, None)
        if old is None:
            reasons.append(Reason(FullReason.DISK_ADDED, disk.target))
        elif old.whole != (disk.bitmap is None):
            reasons.append(Reason(FullReason.DISK_FORMAT_CHANGED, disk.target))
        elif disk.bitmap is None:
            continue
        elif disk.bitmap is not BitmapCondition.USABLE:
            reasons.append(Reason(_BITMAP_REASONS[disk.bitmap], disk.target))
        elif disk.virtual_size < old.virtual_size:
            reasons.append(Reason(FullReason.DISK_SHRUNK, disk.target))
        elif several and old.images and disk.image is not None and disk.image not in old.images:
            reasons.append(Reason(FullReason.DISK_EXCHANGED, disk.target))
    reasons += [Reason(FullReason.DISK_REMOVED, target) for target in before]
    return reasons


def _full(reason: Reason) -> Decision:
    return Decision(incremental=False, reasons=(reason,))
