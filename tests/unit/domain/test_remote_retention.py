"""Retention at a remote: whatever is known of the points, the newest that is whole there stays there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from kvm_backup.domain.names import stamp
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.remote_retention import Sides
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.domain.shipping import removable
from tests.unit.builders import MOMENT, a_disk, a_manifest

UTC = ZoneInfo("UTC")
LAST_THREE = RetentionRule(last=3, daily=0, weekly=0, monthly=0)


@dataclass(frozen=True)
class State:
    """One point. `parent`: which older one it builds on, by how many before it; 0: it is full. `swapped`: its parent
    is not the one any more that it was made on."""

    here: bool = True
    images: bool = True
    there: bool = False
    parent: int = 0
    swapped: bool = False
    known: str = "own"


HELD = State(there=True)
LOST = State(images=False)
STATES = st.builds(
    State,
    here=st.booleans(),
    images=st.booleans(),
    there=st.booleans(),
    parent=st.integers(0, 3),
    swapped=st.sampled_from([False, False, False, True]),
    known=st.sampled_from(["own", "own", "back", "foreign"]),
)
RULES = st.builds(
    RetentionRule,
    last=st.integers(0, 4),
    daily=st.integers(0, 2),
    weekly=st.integers(0, 2),
    monthly=st.integers(0, 2),
    good=st.integers(0, 2),
)


def manifests(states: Sequence[State]) -> list[Manifest]:
    made: list[Manifest] = []
    for number, state in enumerate(states):
        parent = made[number - state.parent] if 0 < state.parent <= number else None
        made.append(
            a_manifest(
                id=f"web--1a2b3c4d/{stamp(MOMENT + timedelta(days=number))}",
                uuid=f"00000000-0000-4000-8000-{number:012}",
                created=MOMENT + timedelta(days=number),
                finished=MOMENT + timedelta(days=number, seconds=3),
                mode=Mode.INCREMENTAL if parent else Mode.FULL,
                parent=parent.id if parent else None,
                parent_uuid=(f"00000000-0000-4000-9000-{number:012}" if state.swapped else parent.uuid)
                if parent
                else None,
                disks=(a_disk(mode="incremental" if parent else "full"),),
            )
        )
    return made


def restorable(there: Mapping[str, Manifest]) -> list[str]:
    """The ids of what a restore from there would read to its full one, oldest first."""
    found = []
    for point in there.values():
        link: Manifest | None = point
        while link is not None and link.parent is not None:
            below = there.get(link.parent)
            link = below if below is not None and below.uuid == link.parent_uuid else None
        if link is not None:
            found.append(point.id)
    return found


@dataclass
class Case:
    states: Sequence[State]

    def __post_init__(self) -> None:
        self.points = manifests(self.states)
        both = list(zip(self.points, self.states, strict=True))
        self.sides = Sides(
            here={point.id: point for point, state in both if state.here and state.known == "own"},
            there={point.id: point for point, state in both if state.there},
            with_images={point.id for point, state in both if state.images},
        )
        self.own, self.back, self.foreign = (
            {point.id for point, state in both if state.known == known} for known in ("own", "back", "foreign")
        )

    def kept_there(self, rule: RetentionRule) -> set[str]:
        return {one.id for one in self.sides.kept_there(self.own, self.back, rule, UTC) if one.kept}

    def pruned(self, rule: RetentionRule) -> dict[str, Manifest]:
        there = self.sides.there
        gone = removable(there, self.kept_there(rule) | self.foreign)
        return {point: manifest for point, manifest in there.items() if point not in gone}


@given(st.lists(STATES, min_size=1, max_size=9), RULES)
@example([HELD] * 3 + [State()] * 3, LAST_THREE)
@example([HELD] * 3 + [LOST, State(parent=1), State(parent=1), State(parent=1)], LAST_THREE)
@example([State(here=False, there=True, known="back"), LOST, State(parent=1)], RetentionRule(last=1, daily=0))
def test_the_newest_point_that_is_restorable_there_is_so_after_a_prune_whatever_else_is_known(
    states: list[State], rule: RetentionRule
) -> None:
    case = Case(states)
    before, after = restorable(case.sides.there), restorable(case.pruned(rule))
    assert after[-1:] == before[-1:]
    ours = case.own | case.back
    newest = [point for point in before if point in ours][-1:]
    assert newest == [point for point in after if point in ours][-1:]
    assert [point.id for point in case.sides.newest_whole_there(ours)][-1:] == newest


@given(st.lists(STATES, min_size=1, max_size=9), RULES)
def test_what_is_not_there_changes_nothing_of_what_stays_there(states: list[State], rule: RetentionRule) -> None:
    case = Case(states)
    alone = Sides(here={}, there=case.sides.there)
    kept = {one.id for one in alone.kept_there(case.own, case.back, rule, UTC) if one.kept}
    assert case.kept_there(rule) == kept


@given(st.lists(STATES, min_size=1, max_size=9), RULES)
def test_what_came_back_takes_no_own_points_place(states: list[State], rule: RetentionRule) -> None:
    case = Case(states)
    without = {one.id for one in case.sides.kept_there(case.own, set(), rule, UTC) if one.kept}
    assert without <= case.kept_there(rule)


@given(st.lists(st.builds(State, images=st.sampled_from([True]), there=st.booleans()), min_size=1, max_size=9), RULES)
def test_once_all_that_is_wanted_is_there_the_rule_keeps_just_that(states: list[State], rule: RetentionRule) -> None:
    case = Case(states)
    wanted = {one.id for one in case.sides.wanted(case.own, rule, UTC) if one.kept}
    arrived = {point.id: point for point in case.points if point.id in wanted or point.id in case.sides.there}
    later = Sides(here=case.sides.here, there=arrived, with_images=case.own)
    assert {one.id for one in later.kept_there(case.own, set(), rule, UTC) if one.kept} == wanted


def test_a_point_that_cannot_arrive_takes_no_place_of_one_that_can() -> None:
    waits, lost, on_lost = State(), LOST, State(parent=1)
    case = Case([waits, lost, on_lost])
    kept = [one.kept for one in case.sides.wanted(case.own, RetentionRule(last=1, daily=0), UTC)]
    assert kept[0]


def test_points_that_only_wait_do_not_push_out_what_is_there() -> None:
    case = Case([HELD, HELD, HELD, State(), State(), State()])
    assert list(case.pruned(LAST_THREE)) == [point.id for point in case.points[:3]]
