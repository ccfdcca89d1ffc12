"""The last due time and the days that are due, compared with the due times themselves."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvm_backup.domain.timing import due_days, due_times, last_due, next_due, parse_timing

ZONES = ["Europe/Paris", "America/New_York", "Africa/Kinshasa", "Pacific/Apia", "Australia/Lord_Howe", "UTC"]
PARIS = ZoneInfo("Europe/Paris")

zones = st.sampled_from(ZONES).map(ZoneInfo)
moments = st.datetimes(datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2035-01-01")).map(
    lambda naive: naive.replace(tzinfo=UTC)
)
times = st.one_of(
    st.tuples(st.just("hourly"), st.integers(0, 59).map(str)),
    st.tuples(st.just("daily"), st.times().map(lambda time: f"{time.hour}:{time.minute:02}")),
    st.tuples(st.just("weekly"), st.times().map(lambda time: f"friday:{time.hour}:{time.minute:02}")),
    st.tuples(st.just("monthly"), st.tuples(st.integers(1, 31), st.times()).map(lambda t: f"{t[0]}:{t[1]:%H:%M}")),
    st.tuples(
        st.just("cron"), st.sampled_from(["*/5 * * * *", "30 2 * * 1-5", "0 4 1 * *", "15 3 * 6 2", "0 0 29 2 *"])
    ),
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(times, moments, zones)
@example(("daily", "2:30"), utc("2026-03-29T01:00"), PARIS)
@example(("daily", "2:30"), utc("2026-10-25T01:30"), PARIS)
@example(("hourly", "15"), utc("2026-10-04T00:10"), ZoneInfo("Australia/Lord_Howe"))
@example(("weekly", "friday:2:30"), utc("2011-12-31T00:00"), ZoneInfo("Pacific/Apia"))
@settings(max_examples=300, deadline=None)
def test_between_the_last_and_the_next_due_time_lies_no_other(
    time: tuple[str, str], moment: datetime, zone: ZoneInfo
) -> None:
    timing = parse_timing(*time)
    last = last_due(timing, moment, zone)
    assert last is not None
    assert last <= moment
    # Seen from the last one, the next is the first after the moment: none was passed over.
    assert next_due(timing, last, zone) == next_due(timing, moment, zone) > moment
    assert next_due(timing, last - timedelta(microseconds=1), zone) == last


def test_a_due_time_is_the_last_one_at_that_very_instant() -> None:
    timing = parse_timing("daily", "02:00")
    due = utc("2026-11-22T01:00")
    assert last_due(timing, due, PARIS) == due
    assert last_due(timing, due - timedelta(microseconds=1), PARIS) == due - timedelta(days=1)


@pytest.mark.parametrize(("moment", "expected"), [("2103-02-01", utc("2096-02-29")), ("2103-12-31", None)])
def test_a_time_that_did_not_come_for_years_is_looked_for_seven_years_back(
    moment: str, expected: datetime | None
) -> None:
    assert last_due(parse_timing("cron", "0 0 29 2 *"), utc(moment), ZoneInfo("UTC")) == expected


@given(times, moments, zones, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_the_days_that_are_due_are_those_of_the_due_times(
    time: tuple[str, str], moment: datetime, zone: ZoneInfo, length: int
) -> None:
    timing = parse_timing(*time)
    first = moment.date()
    last = first + timedelta(days=length)
    before = datetime(first.year, first.month, first.day, tzinfo=UTC) - timedelta(days=2)
    days = (due.astimezone(zone).date() for due in due_times(timing, before, zone))
    expected = {day for day in takewhile(lambda day: day <= last, days) if day >= first}
    assert due_days(timing, first, last, zone) == expected


def test_a_day_that_a_zone_never_had_is_not_due() -> None:
    apia = ZoneInfo("Pacific/Apia")
    days = due_days(parse_timing("daily", "12:00"), date(2011, 12, 28), date(2012, 1, 1), apia)
    assert sorted(day.day for day in islice(days, 5)) == [1, 28, 29, 31]
