"""A clock that was wrong, and set back, lets no old point pass for a new one."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from kvm_backup.domain.point import Mode
from kvm_backup.domain.point_facts import PointSummary, facts_of
from kvm_backup.domain.protection import DueTimesAt, Promise, Protection, judge, promises_of
from kvm_backup.domain.timing import parse_timing

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def promise(since: datetime) -> Promise:
    return Promise("s1", parse_timing("daily", "02:00"), "default", snapshot=False, since=since)


def point(created: datetime) -> PointSummary:
    id_ = f"web--1a2b3c4d/{created:%Y%m%dT%H%M%SZ}"
    return PointSummary(id_, "web", "1a2b3c4d", id_, created, Mode.FULL, None, None, 100)


def protection(*points: PointSummary, since: datetime = NOW - 30 * DAY) -> Protection:
    newest = facts_of({"default": points}, now=NOW).newest
    return judge([promise(since)], newest, DueTimesAt(NOW, ZoneInfo("UTC")), NOW).protection


def test_a_point_of_a_time_that_is_still_to_come_keeps_no_promise() -> None:
    assert protection(point(NOW + 400 * DAY)) is Protection.OVERDUE


def test_points_that_are_made_after_the_clock_was_set_right_count_again() -> None:
    facts = facts_of({"default": [point(NOW + 400 * DAY), point(NOW - DAY / 4)]}, now=NOW)
    assert facts.last_point_at == NOW - DAY / 4
    assert protection(point(NOW + 400 * DAY), point(NOW - DAY / 4)) is Protection.PROTECTED


def test_a_point_of_a_clock_that_is_a_little_ahead_is_a_good_one() -> None:
    assert protection(point(NOW + timedelta(minutes=1))) is Protection.PROTECTED


def test_a_promise_that_was_made_in_the_future_counts_from_now() -> None:
    later = promise(NOW + 400 * DAY)
    earlier = promise(NOW - DAY)
    assert promises_of(["web"], {"web": [promise(NOW)]}, [later], NOW) == (promise(NOW),)
    assert promises_of(["web"], {"web": [promise(NOW)]}, [earlier], NOW) == (earlier,)
