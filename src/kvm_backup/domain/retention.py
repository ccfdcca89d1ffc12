"""Which restore points are kept, and why. A pure function over the points of one VM in one repository.

Invariant 6: pruning never removes what a kept point needs, and never the last good point. A point that nobody wants
but that a kept incremental builds on is *needed*; when the oldest wanted point of a chain is itself incremental, it
can be consolidated into a full one, after which what lies below it is free to go.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How many points to keep: the newest ones, and the newest of each of the last days, weeks, months, years.

    `good` good points stay in any case. `chain` is the longest chain that is tolerated, in links.
    """

    last: int = 1
    daily: int = 7
    weekly: int = 4
    monthly: int = 6
    yearly: int = 0
    good: int = 1
    chain: int = 30


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What the decision needs of a point. `good` is false for one that is known to be damaged."""

    id: str
    created: datetime
    parent: str | None
    good: bool = True


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """One point: `reasons` empty means that it goes. `consolidate`: it becomes a full one first."""

    id: str
    reasons: tuple[Keep, ...]
    consolidate: bool = False

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


def decide(points: Iterable[PointFacts], rule: RetentionRule, zone: ZoneInfo) -> list[Verdict]:
    """A verdict for each point, oldest first. Days, weeks, months and years are those of `zone`."""
    ordered = sorted(points, key=lambda point: (point.created, point.id))
    reasons: dict[str, list[Keep]] = {point.id: [] for point in ordered}
    good = [point for point in reversed(ordered) if point.good]
    for keep, point in _wanted(good, rule, zone):
        reasons[point.id].append(keep)
    by_id = {point.id: point for point in ordered}
    consolidated = _consolidations(ordered, by_id, reasons, rule)
    for point in ordered:
        if reasons[point.id]:
            for below in _needs(point, by_id, consolidated):
                if not reasons[below.id]:
                    reasons[below.id].append(Keep.NEEDED)
    return [Verdict(point.id, tuple(reasons[point.id]), point.id in consolidated) for point in ordered]


def _wanted(
    newest_first: Sequence[PointFacts], rule: RetentionRule, zone: ZoneInfo
) -> Iterator[tuple[Keep, PointFacts]]:
    for keep, count in ((Keep.LAST, rule.last), (Keep.GOOD, rule.good)):
        for point in newest_first[:count]:
            yield keep, point
    periods = (
        (Keep.DAILY, rule.daily, "%Y-%m-%d"),
        (Keep.WEEKLY, rule.weekly, "%G-%V"),
        (Keep.MONTHLY, rule.monthly, "%Y-%m"),
        (Keep.YEARLY, rule.yearly, "%Y"),
    )
    for keep, count, period_format in periods:
        seen: set[str] = set()
        for point in newest_first:
            period = point.created.astimezone(zone).strftime(period_format)
            if period not in seen and len(seen) < count:
                seen.add(period)
                yield keep, point


def _consolidations(
    ordered: Sequence[PointFacts],
    by_id: dict[str, PointFacts],
    reasons: dict[str, list[Keep]],
    rule: RetentionRule,
) -> frozenset[str]:
    """Incremental points that become full ones, so that what lies below them, and nobody wants, can go.

    In each chain it is the oldest wanted point, and one more wherever a chain would still be longer than tolerated.
    Below a point that is not good nothing is freed: it may be all that is left.
    """
    chosen: set[str] = set()
    for point in ordered:
        if point.parent is None or not reasons[point.id] or not point.good:
            continue
        below = list(_needs(point, by_id, frozenset(chosen)))
        intact = all(link.good for link in below) and bool(below) and below[-1].parent is None
        wanted_below = any(reasons[link.id] for link in below)
        if intact and below and (not wanted_below or len(below) >= rule.chain):
            chosen.add(point.id)
    return frozenset(chosen)


def _needs(point: PointFacts, by_id: dict[str, PointFacts], consolidated: frozenset[str]) -> Iterator[PointFacts]:
    """The points below one, nearest first, as far as they are there and no consolidated point cuts the chain."""
    seen = {point.id}
    while point.parent is not None and point.id not in consolidated:
        parent = by_id.get(point.parent)
        if parent is None or parent.id in seen:
            return
        seen.add(parent.id)
        yield parent
        point = parent
