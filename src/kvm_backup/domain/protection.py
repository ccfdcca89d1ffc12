"""Is a VM protected? What its schedules promise, compared with the points that there are. Pure; times in UTC.

A schedule promises a point at each of its due times, from when it first applied to the VM. The first promise that no
point has kept decides. A backup takes its time, so that is no matter for as long as the VM's runs usually take, half
an hour at least; then the VM is late, and after twice that time, an hour at least, it is overdue.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from kvm_backup.domain.timing import Timing, last_due, next_due

USUAL_MIN = timedelta(minutes=30)
"""What a run may take before anybody wonders, whatever the runs before it took."""
_FADING = 0.9


class Protection(StrEnum):
    """How well a VM is protected, the worst first."""

    OVERDUE = "overdue"
    """The last good point is older than its schedules promise."""
    NEVER = "never"
    """There is no point, and its first promise is long past."""
    LATE = "late"
    """A point should have been made by now; it is not overdue yet."""
    UNSCHEDULED = "unscheduled"
    """No schedule that is enabled names it."""
    PROTECTED = "protected"
    PENDING = "pending"
    """There is no point, and none is late yet: its first backup is still to come."""

    @property
    def rank(self) -> int:
        """0 for the worst; what lists are sorted by. Databases hold it, so one that is new comes last."""
        return list(Protection).index(self)


@dataclass(frozen=True, slots=True)
class Promise:
    """What one schedule promises a VM: from `since` on, a point in `repository` at each due time.

    A snapshot is enough only where the schedule's mode is that.
    """

    schedule_id: str
    timing: Timing
    repository: str
    snapshot: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class Newest:
    """When the newest good points of a VM in one repository were made: one that holds data, and one of any mode."""

    data: datetime | None = None
    any: datetime | None = None

    def for_promise(self, promise: Promise) -> datetime | None:
        return self.any if promise.snapshot else self.data


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a VM stands. `overdue` is true of one that never had a point, too."""

    protection: Protection
    overdue: bool = False
    promised: datetime | None = None
    """The last due time that should have given a point."""
    missed: datetime | None = None
    """The first due time since the newest point; None when none has passed."""
    next_due: datetime | None = None
    again: datetime | None = None
    """When the judgement may change though nothing else does; None for never."""


class DueTimes(Protocol):
    """When schedules were and are due, as seen from one moment."""

    def last(self, timing: Timing) -> datetime | None: ...

    def next(self, timing: Timing) -> datetime: ...

    def first_after(self, timing: Timing, moment: datetime) -> datetime: ...


class DueTimesAt:
    """The due times around `now`; each is computed once, however many VMs share a timing."""

    def __init__(self, now: datetime, zone: ZoneInfo) -> None:
        self._now = now
        self._zone = zone
        self._last: dict[Timing, datetime | None] = {}
        self._next: dict[Timing, datetime] = {}

    def last(self, timing: Timing) -> datetime | None:
        """The last one at or before now."""
        if timing not in self._last:
            self._last[timing] = last_due(timing, self._now, self._zone)
        return self._last[timing]

    def next(self, timing: Timing) -> datetime:
        """The first one later than now."""
        if timing not in self._next:
            self._next[timing] = next_due(timing, self._now, self._zone)
        return self._next[timing]

    def first_after(self, timing: Timing, moment: datetime) -> datetime:
        """The first one later than a moment."""
        return next_due(timing, moment, self._zone)


def judge(
    promises: Iterable[Promise],
    newest: Mapping[str, Newest],
    due: DueTimes,
    now: datetime,
    usual: timedelta = timedelta(),
) -> Judgement:
    """How a VM stands at `now`, which `due` was made for.

    `newest` is by repository; `usual` is how long the VM's runs take (`usual_time`), 0 when that is not known.
    """
    promises = list(promises)
    if not promises:
        return Judgement(Protection.UNSCHEDULED)
    promised = max(filter(None, (_promised(promise, due) for promise in promises)), default=None)
    missed = min(
        filter(None, (_missed(promise, newest.get(promise.repository), due) for promise in promises)), default=None
    )
    coming = min(due.next(promise.timing) for promise in promises)
    usual = max(usual, USUAL_MIN)
    late, overdue = (False, False) if missed is None else (now >= missed + usual, now >= missed + 2 * usual)
    has_points = any(made.any for made in newest.values())
    if overdue:
        protection = Protection.OVERDUE if has_points else Protection.NEVER
    elif late:
        protection = Protection.LATE
    else:
        protection = Protection.PROTECTED if has_points else Protection.PENDING
    turns = [coming] if missed is None else [coming, missed + usual, missed + 2 * usual]
    return Judgement(protection, overdue, promised, missed, coming, min(turn for turn in turns if turn > now))


def usual_time(before: timedelta, took: timedelta) -> timedelta:
    """The longest that runs took, where each newer one lets the older ones count a tenth less."""
    return max(took, before * _FADING)


def promises_of(
    names: Iterable[str], by_name: Mapping[str, Iterable[Promise]], before: Iterable[Promise], now: datetime
) -> tuple[Promise, ...]:
    """What a VM is promised under any of its names (its name, its UUID), each by one schedule once.

    A promise that it had `before` is as old as it was; one that is new, or whose time, mode or repository changed,
    counts from `now` on, as does one of a time that is still to come: the clock was set back since.
    """
    known = {_without_age(promise): promise for promise in before if promise.since <= now}
    made = {promise.schedule_id: promise for name in names for promise in by_name.get(name, ())}
    return tuple(known.get(_without_age(made[id_])) or replace(made[id_], since=now) for id_ in sorted(made))


def _promised(promise: Promise, due: DueTimes) -> datetime | None:
    last = due.last(promise.timing)
    return last if last is not None and last >= promise.since else None


def _missed(promise: Promise, newest: Newest | None, due: DueTimes) -> datetime | None:
    """The first due time that should have given a point and did not."""
    last = _promised(promise, due)
    made = newest.for_promise(promise) if newest is not None else None
    if last is None or (made is not None and made >= last):
        return None
    just_before = promise.since - timedelta(microseconds=1)
    return due.first_after(promise.timing, just_before if made is None else max(made, just_before))


def _without_age(promise: Promise) -> tuple[str, Timing, str, bool]:
    return promise.schedule_id, promise.timing, promise.repository, promise.snapshot
