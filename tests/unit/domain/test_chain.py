"""Full or incremental: incremental only when all agree, and each disagreement has its reason."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.chain import (
    BitmapCondition,
    Decision,
    DiskNow,
    FullReason,
    NewestPoint,
    PointDisk,
    Reason,
    decide,
)

GIB = 1024**3
LONGEST = 4
POINT = NewestPoint(
    checkpoint="kvm-backup-1", disks=(PointDisk("vda", GIB, whole=False), PointDisk("vdb", GIB, whole=True))
)
AGREEING: dict[str, Any] = {
    "full_requested": False,
    "newest": POINT,
    "newest_damaged": False,
    "checkpoint_known": True,
    "disks": (DiskNow("vda", GIB, BitmapCondition.USABLE), DiskNow("vdb", GIB, None)),
    "longest_chain": LONGEST,
}


def _disks(*disks: DiskNow) -> dict[str, Any]:
    return {"disks": disks}


def _point(**changes: Any) -> dict[str, Any]:
    return {"newest": replace(POINT, **changes)}


VDA, VDB = AGREEING["disks"]

DISAGREEMENTS: dict[str, tuple[dict[str, Any], Reason]] = {
    "full was asked for": ({"full_requested": True}, Reason(FullReason.REQUESTED)),
    "no point": ({"newest": None}, Reason(FullReason.NO_POINT)),
    "damaged point": ({"newest": None, "newest_damaged": True}, Reason(FullReason.POINT_DAMAGED)),
    "broken chain": (_point(chain_intact=False), Reason(FullReason.CHAIN_BROKEN)),
    "chain elsewhere is as long as may be": (
        _point(chain_elsewhere=True, links=LONGEST),
        Reason(FullReason.CHAIN_ELSEWHERE),
    ),
    "chain where the settings name nobody": (_point(chain_unnamed=True), Reason(FullReason.CHAIN_UNNAMED)),
    "chain that a remote cannot get": (_point(chain_unshippable=True), Reason(FullReason.CHAIN_UNSHIPPABLE)),
    "chain that nobody opens any more": (_point(chain_closed=True), Reason(FullReason.CHAIN_CLOSED)),
    "point without checkpoint": (_point(checkpoint=None), Reason(FullReason.NO_CHECKPOINT)),
    "checkpoint gone": ({"checkpoint_known": False}, Reason(FullReason.CHECKPOINT_MISSING)),
    "disk added": (
        _disks(VDA, VDB, DiskNow("vdc", GIB, BitmapCondition.USABLE)),
        Reason(FullReason.DISK_ADDED, "vdc"),
    ),
    "whole disk added": (_disks(VDA, VDB, DiskNow("vdc", GIB, None)), Reason(FullReason.DISK_ADDED, "vdc")),
    "disk removed": (_disks(VDA), Reason(FullReason.DISK_REMOVED, "vdb")),
    "disk shrunk": (_disks(replace(VDA, virtual_size=GIB - 1), VDB), Reason(FullReason.DISK_SHRUNK, "vda")),
    "disk in another image": (
        {
            "newest": replace(
                POINT,
                disks=(PointDisk("vda", GIB, whole=False, images=("inode:1",)), PointDisk("vdc", GIB, whole=False)),
            ),
            **_disks(replace(VDA, image="inode:2"), DiskNow("vdc", GIB, BitmapCondition.USABLE)),
        },
        Reason(FullReason.DISK_EXCHANGED, "vda"),
    ),
    "disk became qcow2": (
        _disks(VDA, replace(VDB, bitmap=BitmapCondition.USABLE)),
        Reason(FullReason.DISK_FORMAT_CHANGED, "vdb"),
    ),
    "bitmap missing": (
        _disks(replace(VDA, bitmap=BitmapCondition.MISSING), VDB),
        Reason(FullReason.BITMAP_MISSING, "vda"),
    ),
    "bitmap inconsistent": (
        _disks(replace(VDA, bitmap=BitmapCondition.INCONSISTENT), VDB),
        Reason(FullReason.BITMAP_INCONSISTENT, "vda"),
    ),
    "bitmap does not record": (
        _disks(replace(VDA, bitmap=BitmapCondition.NOT_RECORDING), VDB),
        Reason(FullReason.BITMAP_NOT_RECORDING, "vda"),
    ),
    "bitmap in several layers": (
        _disks(replace(VDA, bitmap=BitmapCondition.SPLIT), VDB),
        Reason(FullReason.BITMAP_SPLIT, "vda"),
    ),
    "only disks without bitmaps": (_disks(replace(VDA, bitmap=None), VDB), Reason(FullReason.NO_DISK_WITH_BITMAP)),
    "no disks": (_disks(), Reason(FullReason.NO_DISK_WITH_BITMAP)),
}


def test_incremental_when_all_agree() -> None:
    assert decide(**AGREEING) == Decision(incremental=True, reasons=())


def test_a_disk_that_grew_stays_incremental() -> None:
    assert decide(**AGREEING | _disks(replace(VDA, virtual_size=2 * GIB), VDB)).incremental


def test_a_disk_that_is_saved_whole_may_shrink() -> None:
    assert decide(**AGREEING | _disks(VDA, replace(VDB, virtual_size=1))).incremental


def test_a_long_chain_that_a_prune_can_shorten_goes_on() -> None:
    assert decide(**AGREEING | _point(links=LONGEST + 1)).incremental


def test_a_chain_elsewhere_goes_on_until_it_is_as_long_as_may_be() -> None:
    assert decide(**AGREEING | _point(chain_elsewhere=True, links=LONGEST - 1)).incremental


def test_the_order_of_disks_does_not_matter() -> None:
    assert decide(**AGREEING | _disks(VDB, VDA)).incremental


@pytest.mark.parametrize(("change", "reason"), DISAGREEMENTS.values(), ids=DISAGREEMENTS)
def test_each_disagreement_alone_gives_a_full_backup_with_its_reason(change: dict[str, Any], reason: Reason) -> None:
    decision = decide(**AGREEING | change)
    assert decision == Decision(incremental=False, reasons=(reason,))


def test_several_disagreements_are_all_told() -> None:
    change = _point(chain_intact=False) | {"checkpoint_known": False} | _disks(replace(VDA, virtual_size=1))
    assert {reason.kind for reason in decide(**AGREEING | change).reasons} == {
        FullReason.CHAIN_BROKEN,
        FullReason.CHECKPOINT_MISSING,
        FullReason.DISK_SHRUNK,
        FullReason.DISK_REMOVED,
    }


def test_every_reason_can_be_a_decision_but_those_that_only_show_when_it_is_carried_out() -> None:
    shown = {reason.kind for _, reason in DISAGREEMENTS.values()}
    assert set(FullReason) - shown == {FullReason.REFUSED_BY_LIBVIRT, FullReason.BITMAP_INCOMPLETE}


@pytest.mark.parametrize("kind", FullReason)
def test_every_reason_is_explained_in_a_clause_of_its_own_that_names_the_disk(kind: FullReason) -> None:
    text = Reason(kind).text
    assert text[0].islower()
    assert not text.endswith(".")
    assert [other for other in FullReason if Reason(other).text == text] == [kind]
    assert Reason(kind, "vdx").text == f"{text} (vdx)"


targets = st.sampled_from(["vda", "vdb", "vdc", ""])
sizes = st.integers(-1, 4)
now = st.lists(st.builds(DiskNow, targets, sizes, st.none() | st.sampled_from(BitmapCondition)), max_size=4)
points = st.builds(
    NewestPoint,
    st.none() | st.just("c"),
    st.lists(st.builds(PointDisk, targets, sizes, st.booleans()), max_size=4, unique_by=lambda disk: disk.target).map(
        tuple
    ),
    st.booleans(),
)


@given(st.booleans(), st.none() | points, st.booleans(), st.booleans(), now)
def test_it_never_raises_and_is_incremental_exactly_when_everything_agrees(
    full: bool,
    newest: NewestPoint | None,
    damaged: bool,
    known: bool,
    disks: list[DiskNow],
) -> None:
    decision = decide(
        full_requested=full, newest=newest, newest_damaged=damaged, checkpoint_known=known, disks=iter(disks)
    )
    agree = (
        not full
        and not damaged
        and known
        and newest is not None
        and newest.chain_intact
        and newest.checkpoint is not None
        and sorted(disk.target for disk in disks) == sorted(disk.target for disk in newest.disks)
        and any(disk.bitmap for disk in disks)
        and all(_fits(disk, newest) for disk in disks)
    )
    assert decision.incremental == agree
    assert bool(decision.reasons) != decision.incremental


def _fits(disk: DiskNow, point: NewestPoint) -> bool:
    old = next(old for old in point.disks if old.target == disk.target)
    if disk.bitmap is None:
        return old.whole
    return not old.whole and disk.bitmap is BitmapCondition.USABLE and disk.virtual_size >= old.virtual_size
