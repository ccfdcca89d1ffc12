"""What the decision never does, whatever the points are; and what it does in plain cases."""

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_backup.domain.retention import (
    Keep,
    PointFacts,
    RetentionRule,
    RetentionWish,
    Verdict,
    decide,
    rule_with_wishes,
)

PARIS = ZoneInfo("Europe/Paris")
APIA = ZoneInfo("Pacific/Apia")
START = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
Draw = Callable[[st.SearchStrategy[Any]], Any]
NOTHING = RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0)


def apply(points: Iterable[PointFacts], verdicts: list[Verdict]) -> list[PointFacts]:
    """What is there after the verdicts were carried out."""
    told = {verdict.id: verdict for verdict in verdicts}
    return [
        dataclasses.replace(point, parent=None) if told[point.id].consolidate else point
        for point in points
        if told[point.id].kept
    ]


def chain_length(point: PointFacts, points: list[PointFacts]) -> int:
    by_id = {one.id: one for one in points}
    length = 1
    while point.parent is not None:
        point = by_id[point.parent]
        length += 1
    return length


def sound_points(points: list[PointFacts]) -> set[str]:
    """Independent of the code under test: follow each chain to its end."""
    by_id = {point.id: point for point in points}

    def sound(point: PointFacts) -> bool:
        seen = set()
        while point.good and point.readable and point.id not in seen:
            seen.add(point.id)
            if point.parent is None:
                return True
            if point.parent not in by_id or point.parent >= point.id:
                return False
            point = by_id[point.parent]
        return False

    return {point.id for point in points if sound(point)}


def daily(count: int, *, full_every: int | None = None, hours: int = 24) -> list[PointFacts]:
    """A point each day; with nothing but incrementals after the first when `full_every` is not given."""
    return [
        PointFacts(
            id=f"{number:05}",
            created=START + timedelta(hours=hours * number),
            parent=None if number == 0 or (full_every and number % full_every == 0) else f"{number - 1:05}",
        )
        for number in range(count)
    ]


@st.composite
def histories(draw: Draw) -> list[PointFacts]:
    """Chains with damage, missing points, clocks that jump and equal times."""
    points: list[PointFacts] = []
    moment = START
    for number in range(draw(st.integers(0, 60))):
        moment += timedelta(hours=draw(st.sampled_from([0, 1, 5, 24, 24, 24, 200, -30, -5000])))
        parent = points[-1].id if points and draw(st.integers(0, 9)) else None
        points.append(
            PointFacts(
                id=f"{number:05}",
                created=moment,
                parent=parent,
                good=draw(st.integers(0, 9)) != 0,
                readable=draw(st.integers(0, 29)) != 0,
            )
        )
    missing = draw(st.sets(st.integers(0, 59), max_size=3))
    there = [point for number, point in enumerate(points) if number not in missing]
    return list(draw(st.permutations(there)))


@st.composite
def hostile_points(draw: Draw) -> list[PointFacts]:
    """Any parent at all: itself, a newer one, a circle, one that is not there."""
    ids = [f"{number:05}" for number in range(draw(st.integers(0, 12)))]
    times = st.datetimes(timezones=st.just(UTC))
    return [
        PointFacts(
            one,
            draw(times),
            draw(st.none() | st.sampled_from([*ids, "nowhere"])),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for one in ids
    ]


counts = st.integers(0, 8)
rules = st.builds(
    RetentionRule,
    last=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    good=counts,
    chain=st.integers(1, 12),
)
zones = st.sampled_from([PARIS, APIA, ZoneInfo("UTC"), ZoneInfo("America/New_York")])
anything = st.one_of(histories(), hostile_points())


@given(anything, rules, zones)
def test_what_a_kept_point_needs_is_kept_or_the_point_is_consolidated(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    there = {point.id for point in points}
    after = apply(points, decide(points, rule, zone))
    kept = {point.id for point in after}
    assert all(point.parent is None or point.parent in kept or point.parent not in there for point in after)


@given(anything, rules, zones)
def test_the_newest_good_point_the_newest_point_and_enough_good_ones_are_kept(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    sound = sorted(sound_points(points))
    kept = {verdict.id for verdict in decide(points, rule, zone) if verdict.kept}
    assert set(sound[-max(1, rule.good) :]) <= kept
    assert {point.id for point in points if not point.readable} <= kept
    if points:
        assert max(point.id for point in points) in kept


@given(anything, rules, zones, st.data())
def test_the_newest_points_that_need_no_other_repository_are_kept_in_one_pass(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo, data: st.DataObject
) -> None:
    away = data.draw(st.sets(st.sampled_from([point.id for point in points] or ["none"])))
    points = [dataclasses.replace(point, here=point.id not in away) for point in points]
    here = sorted(sound_points([point for point in points if point.here]))
    on_images_elsewhere = sound_points(points) - set(here)
    verdicts = decide(points, rule, zone, unchangeable=on_images_elsewhere)
    assert set(here[-max(1, rule.good) :]) <= {verdict.id for verdict in verdicts if verdict.kept}
    after = apply(points, verdicts)
    again = decide(after, rule, zone, unchangeable=on_images_elsewhere)
    assert all(verdict.kept and not verdict.consolidate for verdict in again)


@given(anything, rules, zones)
def test_deciding_again_on_what_is_left_changes_nothing(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    after = apply(points, decide(points, rule, zone))
    again = decide(after, rule, zone)
    assert all(verdict.kept and not verdict.consolidate for verdict in again)


@given(anything, rules, zones)
def test_no_chain_of_good_points_is_longer_than_the_rule_tolerates(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    verdicts = decide(points, rule, zone)
    after = apply(points, verdicts)
    sound = sound_points(after)
    # What only a damaged point needs is kept as it is.
    wanted = {verdict.id for verdict in verdicts if {reason.keep for reason in verdict.reasons} - {Keep.NEEDED}}
    assert all(chain_length(point, after) <= rule.chain for point in after if point.id in sound & wanted)


@given(anything, rules, zones)
def test_good_points_stay_good_and_only_good_incrementals_are_consolidated(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    verdicts = decide(points, rule, zone)
    sound = sound_points(points)
    after = apply(points, verdicts)
    assert sound_points(after) == sound & {point.id for point in after}
    parents = {point.id: point.parent for point in points}
    assert all(parents[verdict.id] and verdict.id in sound for verdict in verdicts if verdict.consolidate)


@given(histories(), rules, zones)
def test_a_damaged_point_never_causes_a_good_one_to_go(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> None:
    """The good points that are wanted are those that would be if the others had never been."""
    sound = sound_points(points)
    alone = decide([point for point in points if point.id in sound], rule, zone)
    wanted = {verdict.id for verdict in alone if verdict.kept}
    assert wanted <= {verdict.id for verdict in decide(points, rule, zone) if verdict.kept}


@given(histories(), rules, zones, st.data())
def test_a_point_that_cannot_be_consolidated_keeps_its_whole_chain(
    points: list[PointFacts], rule: RetentionRule, zone: ZoneInfo, data: st.DataObject
) -> None:
    unchangeable = data.draw(st.sets(st.sampled_from([point.id for point in points] or ["none"])))
    verdicts = decide(points, rule, zone, unchangeable=unchangeable)
    assert not unchangeable & {verdict.id for verdict in verdicts if verdict.consolidate}
    there, after = {point.id for point in points}, apply(points, verdicts)
    kept = {point.id for point in after}
    assert all(point.parent in kept for point in after if point.parent in there)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 24), st.integers(2, 40))
def test_incremental_for_ever_stays_bounded_when_it_is_pruned_after_each_point(hours: int, chain: int) -> None:
    rule = RetentionRule(chain=chain)
    points: list[PointFacts] = []
    for number in range(200):
        made = PointFacts(f"{number:05}", START + timedelta(hours=hours * number), points[-1].id if points else None)
        points = [*points, made]
        points = apply(points, decide(points, rule, PARIS))
        assert chain_length(points[-1], points) <= chain
    assert len(points) <= 18 * chain


def test_the_defaults_keep_days_weeks_and_months() -> None:
    points = daily(365, full_every=1)
    verdicts = decide(points, RetentionRule(), PARIS)
    assert sum(Keep.LAST in [reason.keep for reason in verdict.reasons] for verdict in verdicts) == 7
    by_keep = {
        keep: [reason.what for verdict in verdicts for reason in verdict.reasons if reason.keep is keep]
        for keep in Keep
    }
    assert by_keep[Keep.DAILY] == [f"2026-12-{day}" for day in range(25, 32)]
    assert by_keep[Keep.WEEKLY] == ["2026-W50", "2026-W51", "2026-W52", "2026-W53"]
    assert by_keep[Keep.MONTHLY] == [f"2026-{month:02}" for month in range(7, 13)]
    assert by_keep[Keep.NEEDED] == []
    assert sum(verdict.kept for verdict in verdicts) == 7 + 2 + 5


def test_the_day_of_a_point_is_that_of_the_zone() -> None:
    points = [
        PointFacts("1", datetime(2026, 6, 1, 21, 30, tzinfo=UTC), None),
        PointFacts("2", datetime(2026, 6, 1, 22, 30, tzinfo=UTC), None),
        PointFacts("3", datetime(2026, 6, 2, 20, 0, tzinfo=UTC), None),
    ]
    rule = dataclasses.replace(NOTHING, daily=2)
    assert [verdict.kept for verdict in decide(points, rule, PARIS)] == [True, False, True]
    assert [verdict.kept for verdict in decide(points, rule, ZoneInfo("UTC"))] == [False, True, True]


def test_the_oldest_wanted_point_of_a_chain_is_consolidated_and_what_lies_below_goes() -> None:
    verdicts = decide(daily(10), dataclasses.replace(NOTHING, last=3), PARIS)
    assert [verdict.kept for verdict in verdicts] == [False] * 7 + [True] * 3
    assert [verdict.id for verdict in verdicts if verdict.consolidate] == ["00007"]


def test_points_between_wanted_ones_are_needed_and_say_by_which() -> None:
    rule = dataclasses.replace(NOTHING, weekly=2)
    verdicts = decide(daily(12), rule, ZoneInfo("UTC"))
    needed = [verdict for verdict in verdicts if [reason.keep for reason in verdict.reasons] == [Keep.NEEDED]]
    assert [verdict.id for verdict in verdicts if verdict.consolidate] == ["00010"]
    assert needed == []
    verdicts = decide(daily(14), rule, ZoneInfo("UTC"))
    needed = [verdict for verdict in verdicts if [reason.keep for reason in verdict.reasons] == [Keep.NEEDED]]
    assert [verdict.id for verdict in verdicts if verdict.consolidate] == ["00010"]
    assert {verdict.reasons[0].what for verdict in needed} == {"00013"}
    assert [verdict.id for verdict in needed] == ["00011", "00012"]


def test_a_chain_that_was_cut_is_cut_again_where_it_is_too_long_in_the_same_pass() -> None:
    points = daily(40)
    verdicts = decide(points, dataclasses.replace(NOTHING, last=25, chain=10), PARIS)
    assert [verdict.id for verdict in verdicts if verdict.consolidate] == ["00015", "00025", "00035"]


def test_points_made_while_the_clock_was_wrong_take_no_more_than_their_period() -> None:
    """The clock was a year ahead for one point; ids go on from it, times do not."""
    points = [
        PointFacts("1", datetime(2026, 6, 1, tzinfo=UTC), None),
        PointFacts("2", datetime(2027, 6, 1, tzinfo=UTC), "1"),
        PointFacts("3", datetime(2026, 6, 2, tzinfo=UTC), "2"),
        PointFacts("4", datetime(2026, 6, 3, tzinfo=UTC), "3"),
    ]
    verdicts = decide(points, dataclasses.replace(NOTHING, daily=3), PARIS)
    assert [(verdict.kept, verdict.consolidate) for verdict in verdicts] == [
        (False, False),
        (True, True),
        (True, False),
        (True, False),
    ]


def test_above_a_damaged_link_all_stays_and_below_it_the_newest_good_point_does() -> None:
    points = [dataclasses.replace(point, good=point.id != "00002") for point in daily(5)]
    verdicts = decide(points, NOTHING, PARIS)
    assert [verdict.kept for verdict in verdicts] == [False, True, True, True, True]
    assert [verdict.id for verdict in verdicts if verdict.consolidate] == ["00001"]
    assert {reason.keep for reason in verdicts[1].reasons} == {Keep.LAST, Keep.GOOD}


def test_damaged_points_go_when_newer_good_ones_have_taken_their_place() -> None:
    points = [dataclasses.replace(point, good=point.id != "00001") for point in daily(6, full_every=1)]
    assert [verdict.kept for verdict in decide(points, NOTHING, PARIS)] == [False] * 5 + [True]


def test_without_any_good_point_everything_stays() -> None:
    points = [dataclasses.replace(point, good=False) for point in daily(20)]
    verdicts = decide(points, NOTHING, PARIS)
    assert all(verdict.kept for verdict in verdicts)
    assert {verdict.reasons[-1].keep for verdict in verdicts} == {Keep.DAMAGED}


@pytest.mark.parametrize("parent", ["00000", "00001", "nowhere"])
def test_a_point_that_is_its_own_ancestor_or_whose_parent_is_missing_is_no_good_one(parent: str) -> None:
    circle = [
        PointFacts("00000", START, "00001" if parent == "00001" else parent),
        PointFacts("00001", START, "00000"),
        PointFacts("00002", START, None),
        PointFacts("00003", START, "00003"),
    ]
    verdicts = decide(circle, NOTHING, PARIS)
    assert {reason.keep for reason in verdicts[2].reasons} == {Keep.LAST, Keep.GOOD}
    assert not any(verdict.consolidate for verdict in verdicts)


def test_ten_thousand_points_are_decided() -> None:
    verdicts = decide(daily(10_000, hours=1), RetentionRule(), PARIS)
    assert sum(verdict.kept for verdict in verdicts) < 18 * 30


wishes = st.builds(
    RetentionWish,
    last=st.none() | counts,
    daily=st.none() | counts,
    weekly=st.none() | counts,
    monthly=st.none() | counts,
    yearly=st.none() | counts,
)
KINDS = ("last", "daily", "weekly", "monthly", "yearly")


@given(rules, st.lists(wishes, min_size=1, max_size=5))
def test_a_rule_keeps_of_each_kind_what_the_most_demanding_schedule_wants_and_no_more(
    rule: RetentionRule, asked: list[RetentionWish]
) -> None:
    made = rule_with_wishes(rule, asked)
    for kind in KINDS:
        wanted = [getattr(rule if getattr(wish, kind) is None else wish, kind) for wish in asked]
        assert all(getattr(made, kind) >= number for number in wanted)
        assert getattr(made, kind) in wanted
    assert (made.good, made.chain) == (rule.good, rule.chain)


@settings(max_examples=200)
@given(histories(), rules, st.lists(wishes, min_size=1, max_size=4))
def test_no_point_goes_that_one_of_the_schedules_alone_would_keep_for_its_own_sake(
    points: list[PointFacts], rule: RetentionRule, asked: list[RetentionWish]
) -> None:
    kept = {verdict.id for verdict in decide(points, rule_with_wishes(rule, asked), PARIS) if verdict.kept}
    for wish in asked:
        for verdict in decide(points, rule_with_wishes(rule, [wish]), PARIS):
            if any(reason.keep is not Keep.NEEDED for reason in verdict.reasons):
                assert verdict.id in kept


@given(rules, wishes, st.lists(wishes, min_size=1, max_size=4))
def test_another_schedule_takes_nothing_away(
    rule: RetentionRule, new: RetentionWish, old: list[RetentionWish]
) -> None:
    before, after = rule_with_wishes(rule, old), rule_with_wishes(rule, [new, *old])
    assert all(getattr(after, kind) >= getattr(before, kind) for kind in KINDS)


def test_without_schedules_the_rule_stays_and_one_schedule_may_ask_for_less() -> None:
    rule = RetentionRule(daily=7, weekly=4)
    assert rule_with_wishes(rule, []) == rule
    assert rule_with_wishes(rule, [RetentionWish(daily=2)]) == RetentionRule(daily=2, weekly=4)
