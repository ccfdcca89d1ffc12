"""Which restore points are kept, and why. A pure function over the points of one VM in one repository.

Invariant 6: pruning never removes what a kept point needs, and never the last good point; nor the last one that needs
no other repository, since that may be away or lost. A point that nobody wants
but that a kept incremental builds on is *needed*; when the oldest wanted point of a chain is itself incremental, it
is consolidated into a full one, after which what lies below it is free to go.

Points are ordered by their ids, not by the clock's time: a clock that was set back makes no point older than its
parent. Their times only say to which day, week, month and year they belong.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How many points to keep: the newest ones, and the newest of each of the last days, weeks, months, years.

    Periods without a point do not count. `good` good points stay in any case. `chain` is the longest chain that is
    tolerated, in points. At least one point, and one good one, stay even when a rule says 0.

    `last` is as large as `daily`: several points made on one day are not gone at the next one, and a schedule that
    runs each day keeps no more for it.
    """

    last: int = 7
    daily: int = 7
    weekly: int = 4
    monthly: int = 6
    yearly: int = 0
    good: int = 1
    chain: int = 30


@dataclass(frozen=True, slots=True)
class RetentionWish:
    """How many points a schedule asks to keep; None: as many as the rule around it says."""

    last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None


def rule_with_wishes(rule: RetentionRule, wishes: Iterable[RetentionWish]) -> RetentionRule:
    """The rule for a VM that schedules with these wishes cover: of each kind the largest number that one wants.

    A schedule that does not say wants what `rule` says, so that a second schedule takes nothing away that the first
    one relies on. Without schedules `rule` holds.
    """
    held = list(wishes)
    if not held:
        return rule
    return replace(
        rule,
        **{
            kind.name: max(
                getattr(rule, kind.name) if asked is None else asked
                for asked in (getattr(wish, kind.name) for wish in held)
            )
            for kind in fields(RetentionWish)
        },
    )


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What the decision needs of a point. `good` is false for one whose own files are known to be damaged, `here` for
    one whose images are in another repository.

    One whose manifest cannot be read is not `readable`; its parent is then the caller's best guess.
    """

    id: str
    created: datetime
    parent: str | None
    good: bool = True
    readable: bool = True
    here: bool = True


class Keep(StrEnum):
    """Why a point stays."""

    LAST = "last"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    GOOD = "good"
    NEEDED = "needed"
    """Only because a point that stays builds on it."""
    DAMAGED = "damaged"
    """It is damaged, and no newer point is good: it may be all that is left."""
    WAITING = "waiting"
    """It has not been shipped yet."""
    UNREADABLE = "unreadable"
    """Its manifest cannot be read; such a point is reported and left alone."""


@dataclass(frozen=True, slots=True)
class Reason:
    """`what` is the period (2026-11-21, 2026-W47, 2026-11, 2026), the id of the point that needs this one, or the
    remotes that it waits for."""

    keep: Keep
    what: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One point: `reasons` empty means that it goes. `consolidate`: it becomes a full one first."""

    id: str
    reasons: tuple[Reason, ...]
    consolidate: bool = False

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


def decide(
    points: Iterable[PointFacts],
    rule: RetentionRule,
    zone: ZoneInfo,
    *,
    unchangeable: Collection[str] = (),
    waiting: Mapping[str, str] = MappingProxyType({}),
) -> list[Verdict]:
    """A verdict for each point, oldest first. Days, weeks, months and years are those of `zone`.

    Points in `unchangeable` are not consolidated; what they build on stays. Those in `waiting` stay as they are until
    they have been shipped to the remotes that it names. Points that break the rules (parents that are missing, newer,
    or in a circle) count as damaged.
    """
    by_id = {point.id: point for point in points}
    ordered = sorted(by_id.values(), key=lambda point: point.id)
    sound = _sound(ordered)
    reasons: dict[str, list[Reason]] = {point.id: [] for point in ordered}
    for point_id, reason in _wanted(ordered, sound, rule, zone):
        if reason not in reasons[point_id]:
            reasons[point_id].append(reason)
    for point in ordered:
        if point.id in waiting:
            reasons[point.id].append(Reason(Keep.WAITING, waiting[point.id]))
    consolidated: set[str] = set()
    for point in ordered:
        if reasons[point.id] and point.id in sound and point.id not in unchangeable and point.id not in waiting:
            below = list(_needs(point, by_id, consolidated))
            # In each chain the oldest wanted point, and one more wherever a chain would still be too long.
            if below and (not any(reasons[link.id] for link in below) or len(below) >= max(1, rule.chain)):
                consolidated.add(point.id)
    for point in [point for point in ordered if reasons[point.id]]:
        for link in _needs(point, by_id, consolidated):
            if not reasons[link.id]:
                reasons[link.id].append(Reason(Keep.NEEDED, point.id))
    return [Verdict(point.id, tuple(reasons[point.id]), point.id in consolidated) for point in ordered]


def _sound(ordered: Sequence[PointFacts]) -> set[str]:
    """The points that are good down to the full one; a parent is always older, so a circle is never sound."""
    sound: set[str] = set()
    for point in ordered:
        if point.good and point.readable and (point.parent is None or point.parent in sound):
            sound.add(point.id)
    return sound


def _wanted(
    ordered: Sequence[PointFacts], sound: set[str], rule: RetentionRule, zone: ZoneInfo
) -> Iterator[tuple[str, Reason]]:
    """What the rule wants among the good points; a damaged one, too, as long as it would if it were good.

    So a damaged point takes no good one's place, and goes when its time has come.
    """
    newest_first = list(reversed(ordered))
    good = [point for point in newest_first if point.id in sound]
    for chosen in (good, newest_first):
        for point in chosen[: max(1, rule.last)]:
            yield point.id, Reason(Keep.LAST)
        yield from _newest_of_periods(chosen, rule, zone)
    here = _sound([replace(point, good=point.good and point.here) for point in ordered])
    for chosen in (good, [point for point in good if point.id in here]):
        for point in chosen[: max(1, rule.good)]:
            yield point.id, Reason(Keep.GOOD)
    for point in newest_first:
        if point.id in sound:
            break
        yield point.id, Reason(Keep.DAMAGED)
    for point in newest_first:
        if not point.readable:
            yield point.id, Reason(Keep.UNREADABLE)


def _newest_of_periods(
    newest_first: Sequence[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> Iterator[tuple[str, Reason]]:
    for keep, count, period_format in (
        (Keep.DAILY, rule.daily, "%Y-%m-%d"),
        (Keep.WEEKLY, rule.weekly, "%G-W%V"),
        (Keep.MONTHLY, rule.monthly, "%Y-%m"),
        (Keep.YEARLY, rule.yearly, "%Y"),
    ):
        seen: set[str] = set()
        for point in newest_first:
            if len(seen) >= count:
                break
            period = _local(point.created, zone).strftime(period_format)
            if period not in seen:
                seen.add(period)
                yield point.id, Reason(keep, period)


def _local(moment: datetime, zone: ZoneInfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment  # in the first or last hours that a calendar has


def _needs(point: PointFacts, by_id: dict[str, PointFacts], consolidated: set[str]) -> Iterator[PointFacts]:
    """The points below one, nearest first, as far as they are there and no consolidated point cuts the chain."""
    seen = {point.id}
    while point.parent is not None and point.id not in consolidated:
        parent = by_id.get(point.parent)
        if parent is None or parent.id in seen:
            return
        seen.add(parent.id)
        yield parent
        point = parent
