"""When a schedule is due. Wall-clock times of a zone become instants; pure.

The rules: a time that a clock change skips is due at the next minute that exists; a time that it repeats is due once,
the first time; day 31 is the last day of a shorter month. An hourly schedule follows real time: whenever the clock
shows its minute, so a repeated hour counts twice and a skipped one not at all. Cron expressions behave as Debian's
cron does (the library cronsim).
"""

import calendar
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.phrase import phrase


class ScheduleType(StrEnum):
    """How often; the value is what users write and what the schedules' file holds."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    CRON = "cron"


EXPECTED = {
    ScheduleType.HOURLY: phrase("MM, the minute of each hour, such as 15"),
    ScheduleType.DAILY: phrase("HH:MM, such as 02:00"),
    ScheduleType.WEEKLY: phrase("DAY:HH:MM with an English or French day, such as sunday:03:00 or dimanche:03:00"),
    ScheduleType.MONTHLY: phrase("D:HH:MM with a day from 1 to 31, such as 1:04:00"),
    ScheduleType.CRON: phrase("five fields (minute hour day month weekday), such as '30 2 * * 1-5'"),
}
"""What the time of each type looks like, for error messages."""

TEXT_MAX = 255
"""Characters of a type or time; cron's own lines are shorter."""
_CAME_SHOWN = 100

_WEEKDAYS = {
    name: number
    for names in (
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
        ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"),
    )
    for number, name in enumerate(names)
}


@dataclass(frozen=True, slots=True)
class Timing:
    """A type and its parsed time. `weekday` is 0 for Monday; fields that a type does not use are 0."""

    type: ScheduleType
    minute: int = 0
    hour: int = 0
    weekday: int = 0
    day: int = 0
    expression: str = ""


_REACH = {
    ScheduleType.HOURLY: timedelta(hours=3),
    ScheduleType.DAILY: timedelta(days=3),
    ScheduleType.WEEKLY: timedelta(days=9),
    ScheduleType.MONTHLY: timedelta(days=63),
    ScheduleType.CRON: timedelta(hours=2),
}
"""How far back the last due time is looked for at first: a little more than lies between two of them."""
_REACH_MAX = timedelta(days=3650)


@lru_cache(maxsize=4096)
def parse_timing(schedule_type: str, schedule_time: str) -> Timing:
    """Parse what a user wrote. Raises InvalidScheduleError naming the field, what came and what is expected."""
    try:
        kind = ScheduleType(schedule_type.strip().lower())
    except ValueError:
        raise InvalidScheduleError(
            "schedule_type", _short(schedule_type), phrase("one of {choices}", choices=", ".join(ScheduleType))
        ) from None
    timing = _PARSERS[kind](schedule_time.strip()) if len(schedule_time) <= TEXT_MAX else None
    if timing is None:
        expected = phrase("{format} for a {type} schedule", format=EXPECTED[kind], type=kind.value)
        raise InvalidScheduleError("schedule_time", _short(schedule_time), expected)
    return timing


def _short(text: str) -> str:
    return text if len(text) <= _CAME_SHOWN else f"{text[:_CAME_SHOWN]}…"


def next_due(timing: Timing, after: datetime, zone: ZoneInfo) -> datetime:
    """The first due instant later than `after`, both in UTC."""
    return next(due_times(timing, after, zone))


def last_due(timing: Timing, moment: datetime, zone: ZoneInfo) -> datetime | None:
    """The last due instant at or before `moment`, both in UTC; None when there was none in the seven years before."""
    reach = _REACH[timing.type]
    while reach <= _REACH_MAX:
        last = None
        for due in due_times(timing, moment - reach, zone):
            if due > moment:
                break
            last = due
        if last is not None:
            return last
        reach *= 8
    return None


def due_days(timing: Timing, first: date, last: date, zone: ZoneInfo) -> set[date]:
    """The days of `zone`, from the first to the last, on which it is due at least once."""
    days: set[date] = set()
    after = _before_midnight(first, zone)
    while (day := next_due(timing, after, zone).astimezone(zone).date()) <= last:
        days.add(day)
        after = _before_midnight(day + timedelta(days=1), zone)
    return days


def _before_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The last instant of the day before."""
    return instant(datetime.combine(day, time()), zone) - timedelta(microseconds=1)


def due_times(timing: Timing, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """All due instants later than `after`, in UTC, each once, in ascending order, without end."""
    if timing.type is ScheduleType.HOURLY:
        yield from _hourly(timing.minute, after, zone)
        return
    if timing.type is ScheduleType.CRON:
        for moment in CronSim(timing.expression, after.astimezone(zone)):
            yield moment.astimezone(UTC)
        return
    last = after
    for day in _days(timing, after.astimezone(zone).date() - timedelta(days=2)):
        moment = instant(datetime.combine(day, time(timing.hour, timing.minute)), zone)
        if moment > last:
            last = moment
            yield moment


def instant(wall_clock: datetime, zone: ZoneInfo) -> datetime:
    """The instant in UTC at which clocks in `zone` show a time (naive): the first one when they show it twice, the
    next minute that exists when they never do."""
    early = wall_clock.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if early.astimezone(zone).replace(tzinfo=None) == wall_clock:
        return early
    # In a gap fold 0 counts with the offset before it and fold 1 with the one after: the change lies in between.
    before = int(wall_clock.replace(tzinfo=zone, fold=1).timestamp())
    behind = int(early.timestamp())
    offset = datetime.fromtimestamp(before, zone).utcoffset()
    while behind - before > 1:
        middle = (before + behind) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            before = middle
        else:
            behind = middle
    return datetime.fromtimestamp(-(-behind // 60) * 60, UTC)


def _days(timing: Timing, first: date) -> Iterator[date]:
    day = first
    while True:
        if timing.type is ScheduleType.MONTHLY:
            length = calendar.monthrange(day.year, day.month)[1]
            chosen = day.replace(day=min(timing.day, length))
            if chosen >= first:
                yield chosen
            day = day.replace(day=1) + timedelta(days=length)
        else:
            if timing.type is ScheduleType.DAILY or day.weekday() == timing.weekday:
                yield day
            day += timedelta(days=1)


def _hourly(minute: int, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    moment = after.replace(second=0, microsecond=0)
    while True:
        moment += timedelta(minutes=1)
        if moment.astimezone(zone).minute == minute:
            yield moment


def _clock(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _parse_hourly(text: str) -> Timing | None:
    match = re.fullmatch(r":?([0-5]?\d)", text, re.ASCII)
    return Timing(ScheduleType.HOURLY, minute=int(match[1])) if match else None


def _parse_daily(text: str) -> Timing | None:
    clock = _clock(text)
    return Timing(ScheduleType.DAILY, hour=clock[0], minute=clock[1]) if clock else None


def _parse_weekly(text: str) -> Timing | None:
    name, _, rest = text.partition(":")
    weekday, clock = _WEEKDAYS.get(name.strip().lower()), _clock(rest)
    if weekday is None or clock is None:
        return None
    return Timing(ScheduleType.WEEKLY, weekday=weekday, hour=clock[0], minute=clock[1])


def _parse_monthly(text: str) -> Timing | None:
    day, _, rest = text.partition(":")
    clock = _clock(rest)
    if clock is None or not re.fullmatch(r"0?[1-9]|[12]\d|3[01]", day, re.ASCII):
        return None
    return Timing(ScheduleType.MONTHLY, day=int(day), hour=clock[0], minute=clock[1])


def _parse_cron(text: str) -> Timing | None:
    fields = text.split()
    if len(fields) != 5:
        return None
    if _is_cron(fields):
        return Timing(ScheduleType.CRON, expression=" ".join(fields))
    minute, hour, day, month, weekday = fields
    # The library refuses 30 February as if its day were none; by themselves day and month are good.
    if _is_cron([minute, hour, day, "*", weekday]) and _is_cron([minute, hour, "*", month, weekday]):
        raise InvalidScheduleError("schedule_time", text, phrase("a date that there is: this time never comes"))
    return None


def _is_cron(fields: Sequence[str]) -> bool:
    """Whether it can be understood, and comes."""
    try:
        return any(True for _ in islice(CronSim(" ".join(fields), datetime(2024, 1, 1, tzinfo=UTC)), 1))
    except CronSimError:
        return False


_PARSERS = {
    ScheduleType.HOURLY: _parse_hourly,
    ScheduleType.DAILY: _parse_daily,
    ScheduleType.WEEKLY: _parse_weekly,
    ScheduleType.MONTHLY: _parse_monthly,
    ScheduleType.CRON: _parse_cron,
}
