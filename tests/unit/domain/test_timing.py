"""When schedules are due, compared with an oracle of another make (dateutil), over years and zones."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from dateutil import rrule, tz  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.timing import due_times, next_due, parse_timing

ZONES = [
    "Europe/Paris",
    "America/New_York",
    "Africa/Kinshasa",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "UTC",
]
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
PARIS = ZoneInfo("Europe/Paris")

zones = st.sampled_from(ZONES)
# dateutil knows the rules of a zone up to 2037.
moments = st.datetimes(datetime.fromisoformat("1990-01-01"), datetime.fromisoformat("2036-01-01")).map(
    lambda naive: naive.replace(tzinfo=UTC)
)
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(schedule_type: str, time: str, after: datetime, zone: ZoneInfo, count: int) -> list[datetime]:
    return list(islice(due_times(parse_timing(schedule_type, time), after, zone), count))


def oracle(rule: rrule.rrule, after: datetime, zone: str, count: int) -> list[datetime]:
    """Wall-clock times of a rule as instants: in a gap the next minute that exists, of two the first, each once."""
    place = tz.UTC if zone == "UTC" else tz.gettz(zone)
    instants: set[datetime] = set()
    for wall in rule:
        shown = wall.replace(tzinfo=place, fold=0)
        while not tz.datetime_exists(shown):
            shown += timedelta(minutes=1)
        if (instant := shown.astimezone(UTC)) > after:
            instants.add(instant)
        if len(instants) > count:  # one more, since two times may fall on one instant
            break
    return sorted(instants)[:count]


def beginning(after: datetime) -> datetime:
    return (after - timedelta(days=40)).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)


@given(zones, moments, clocks)
@example("Pacific/Apia", utc("2011-12-28T12:00"), (2, 30))
@example("Pacific/Apia", utc("2011-12-28T12:00"), (0, 0))
@example("Australia/Lord_Howe", utc("2026-10-02T00:00"), (2, 15))
@example("Australia/Lord_Howe", utc("2026-04-03T00:00"), (1, 45))
@example("Europe/Paris", utc("2026-03-28T00:00"), (2, 30))
@example("Europe/Paris", utc("2026-10-24T00:00"), (2, 30))
@example("America/New_York", utc("2007-03-10T00:00"), (2, 0))
@settings(max_examples=200, deadline=None)
def test_daily_times_are_those_of_the_oracle(zone: str, after: datetime, clock: tuple[int, int]) -> None:
    hour, minute = clock
    rule = rrule.rrule(rrule.DAILY, beginning(after), byhour=hour, byminute=minute)
    assert due("daily", f"{hour:02}:{minute:02}", after, ZoneInfo(zone), 5) == oracle(rule, after, zone, 5)


@given(zones, moments, clocks, st.integers(0, 6))
@example("Pacific/Apia", utc("2011-12-20T12:00"), (2, 30), 4)
@example("Europe/Paris", utc("2026-03-20T00:00"), (2, 30), 6)
@settings(max_examples=200, deadline=None)
def test_weekly_times_are_those_of_the_oracle(zone: str, after: datetime, clock: tuple[int, int], day: int) -> None:
    hour, minute = clock
    rule = rrule.rrule(rrule.WEEKLY, beginning(after), byweekday=day, byhour=hour, byminute=minute)
    time = f"{WEEKDAYS[day]}:{hour:02}:{minute:02}"
    assert due("weekly", time, after, ZoneInfo(zone), 5) == oracle(rule, after, zone, 5)


@given(zones, moments, clocks, st.integers(1, 31))
@example("UTC", utc("2028-01-31T12:00"), (4, 0), 31)
@example("UTC", utc("2027-01-31T12:00"), (4, 0), 29)
@example("Pacific/Apia", utc("2011-12-20T12:00"), (2, 30), 30)
@settings(max_examples=200, deadline=None)
def test_monthly_times_are_those_of_the_oracle(zone: str, after: datetime, clock: tuple[int, int], day: int) -> None:
    hour, minute = clock
    days = range(min(day, 28), day + 1)
    rule = rrule.rrule(
        rrule.MONTHLY, beginning(after), bymonthday=days, bysetpos=-1, byhour=hour, byminute=minute, bysecond=0
    )
    assert due("monthly", f"{day}:{hour:02}:{minute:02}", after, ZoneInfo(zone), 13) == oracle(rule, after, zone, 13)


@given(zones, moments, st.integers(0, 59))
@example("Europe/Paris", utc("2026-10-24T23:00"), 30)
@example("Europe/Paris", utc("2026-03-28T23:00"), 30)
@example("Australia/Lord_Howe", utc("2026-04-04T12:00"), 45)
@example("Australia/Lord_Howe", utc("2026-10-03T12:00"), 15)
@settings(max_examples=60, deadline=None)
def test_hourly_is_due_whenever_the_clock_shows_the_minute(zone: str, after: datetime, minute: int) -> None:
    place = tz.UTC if zone == "UTC" else tz.gettz(zone)
    start = after.replace(second=0, microsecond=0)
    every_minute = (start + timedelta(minutes=step) for step in range(1, 8 * 60))
    expected = [moment for moment in every_minute if moment.astimezone(place).minute == minute]
    assert due("hourly", f"{minute:02}", after, ZoneInfo(zone), 6) == expected[:6]


@given(
    moments,
    st.sets(st.integers(0, 59), min_size=1, max_size=3),
    st.sets(st.integers(0, 23), min_size=1, max_size=3),
    st.sets(st.integers(0, 6), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_cron_times_are_those_of_the_oracle(
    after: datetime, minutes: set[int], hours: set[int], weekdays: set[int]
) -> None:
    fields = [",".join(map(str, sorted(values))) for values in (minutes, hours, {(day + 1) % 7 for day in weekdays})]
    rule = rrule.rrule(rrule.DAILY, beginning(after), byminute=minutes, byhour=hours, byweekday=weekdays, bysecond=0)
    expression = f"{fields[0]} {fields[1]} * * {fields[2]}"
    assert due("cron", expression, after, ZoneInfo("UTC"), 5) == oracle(rule, after, "UTC", 5)


@given(zones, moments, st.sampled_from([("daily", "02:30"), ("weekly", "sunday:02:30"), ("monthly", "31:02:30")]))
@settings(max_examples=100, deadline=None)
def test_asking_again_after_each_time_gives_the_same_times(
    zone: str, after: datetime, written: tuple[str, str]
) -> None:
    timing, place = parse_timing(*written), ZoneInfo(zone)
    asked = [next_due(timing, after, place)]
    while len(asked) < 4:
        asked.append(next_due(timing, asked[-1], place))
    assert asked == list(islice(due_times(timing, after, place), 4))


@pytest.mark.parametrize(
    ("schedule_type", "time", "now", "expected"),
    [
        ("daily", "02:00", "2026-11-22T00:59:59", "2026-11-22T01:00"),  # Paris is one hour ahead of UTC in winter
        ("daily", "02:00", "2026-11-22T01:00:00", "2026-11-23T01:00"),
        ("weekly", "sunday:03:00", "2026-11-22T01:30:00", "2026-11-22T02:00"),  # today, later
        ("weekly", "dimanche:03:00", "2026-11-22T02:30:00", "2026-11-29T02:00"),
        ("monthly", "31:04:00", "2026-02-01T00:00:00", "2026-02-28T03:00"),
        ("monthly", "31:04:00", "2028-02-01T00:00:00", "2028-02-29T03:00"),
        ("monthly", "31:04:00", "2026-04-30T01:00:00", "2026-04-30T02:00"),
        ("monthly", "1:04:00", "2026-11-01T02:00:00", "2026-11-01T03:00"),
        ("daily", "02:30", "2026-03-28T12:00:00", "2026-03-29T01:00"),  # 02:30 is skipped: at 03:00 summer time
        ("daily", "02:30", "2026-10-25T00:30:00", "2026-10-26T01:30"),  # 02:30 comes twice: the first has been
        ("hourly", "15", "2026-11-22T10:15:00", "2026-11-22T11:15"),
        ("cron", "30 2 * * 1-5", "2026-11-22T00:00:00", "2026-11-23T01:30"),
    ],
)
def test_known_times_in_paris(schedule_type: str, time: str, now: str, expected: str) -> None:
    assert next_due(parse_timing(schedule_type, time), utc(now), PARIS) == utc(expected)


def test_a_skipped_day_is_made_up_for_when_the_next_begins() -> None:
    # Apia had no 30 December 2011: clocks went from the end of the 29th to the 31st.
    times = due("daily", "02:30", utc("2011-12-29T13:00"), ZoneInfo("Pacific/Apia"), 2)
    assert times == [utc("2011-12-30T10:00"), utc("2011-12-30T12:30")]


@pytest.mark.parametrize("name", ["sunday", "Sunday", "SUNDAY", "dimanche", "Dimanche"])
def test_days_are_english_or_french(name: str) -> None:
    assert parse_timing("weekly", f"{name}:03:00").weekday == 6


@pytest.mark.parametrize(
    ("schedule_type", "time"),
    [
        ("yearly", "02:00"),
        ("", "02:00"),
        ("daily", "25:00"),
        ("daily", "24:00"),
        ("daily", "02:60"),
        ("daily", "2"),
        ("daily", ""),
        ("daily", "٠٢:٠٠"),
        ("daily", "02:00\n03:00"),
        ("weekly", "sunday"),
        ("weekly", "sunday:25:00"),
        ("weekly", "someday:03:00"),
        ("weekly", "03:00"),
        ("monthly", "32:04:00"),
        ("monthly", "0:04:00"),
        ("monthly", "-1:04:00"),
        ("monthly", "04:00"),
        ("hourly", "60"),
        ("hourly", "x"),
        ("cron", "30 2 * *"),
        ("cron", "30 2 * * * *"),
        ("cron", "61 2 * * *"),
        ("cron", "0 0 30 2 *"),
        ("cron", "@daily"),
    ],
)
def test_a_time_that_cannot_be_used_names_field_value_and_expectation(schedule_type: str, time: str) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        parse_timing(schedule_type, time)
    error = caught.value
    known = schedule_type in ("daily", "weekly", "monthly", "hourly", "cron")
    assert error.field == ("schedule_time" if known else "schedule_type")
    assert error.came == (time if known else schedule_type)
    assert error.expected in error.hint
    assert repr(error.came) in error.message


def test_a_cron_time_that_no_date_has_is_said_to_come_never() -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        parse_timing("cron", "0 0 30 2 *")
    assert "this time never comes" in str(caught.value.hint)
    for wrong in ("0 0 32 2 *", "0 0 30 13 *", "61 0 30 2 *"):
        with pytest.raises(InvalidScheduleError, match="cannot be used") as caught:
            parse_timing("cron", wrong)
        assert "five fields" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("schedule_type", "time", "field"),
    [
        ("cron", "0 2 * * " + ",".join(["1"] * 20_000), "schedule_time"),
        ("daily", "02:00" + " " * 251, "schedule_time"),
        ("d" * 40_000, "02:00", "schedule_type"),
    ],
)
def test_what_is_too_long_is_refused_in_a_short_message(schedule_type: str, time: str, field: str) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        parse_timing(schedule_type, time)
    assert caught.value.field == field
    assert len(caught.value.message) < 200


def test_a_cron_expression_may_have_255_characters() -> None:
    assert parse_timing("cron", "0 2 * * " + "1," * 123 + "1").expression


@given(st.sampled_from(["daily", "weekly", "monthly", "hourly", "cron"]), st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_either_understood_or_refused(schedule_type: str, time: str) -> None:
    try:
        timing = parse_timing(schedule_type, time)
    except InvalidScheduleError:
        return
    after = utc("2026-11-22T10:00")
    assert next_due(timing, after, PARIS) > after
