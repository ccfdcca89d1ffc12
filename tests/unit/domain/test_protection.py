"""What schedules promise a VM, and how it stands."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_backup.domain.protection import (
    DueTimesAt,
    Judgement,
    Newest,
    Promise,
    Protection,
    judge,
    promises_of,
    usual_time,
)
from kvm_backup.domain.timing import due_times, parse_timing

UTC_ZONE = ZoneInfo("UTC")
NIGHT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
LONG_AGO = NIGHT - timedelta(days=100)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def promise(kind: str = "daily", time: str = "02:00", **changes: object) -> Promise:
    made = Promise("s1", parse_timing(kind, time), "default", snapshot=False, since=LONG_AGO)
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(
    *promises: Promise, data: datetime | None, now: datetime, usual: timedelta = timedelta(), **others: Newest
) -> Judgement:
    newest = {"default": Newest(data, data)} if data else {}
    return judge(promises, newest | others, DueTimesAt(now, UTC_ZONE), now, usual)


def test_a_vm_without_a_schedule_is_unscheduled_whatever_points_it_has() -> None:
    assert judged(data=NIGHT, now=NIGHT) == Judgement(Protection.UNSCHEDULED)


def test_a_point_of_the_last_due_time_protects() -> None:
    found = judged(promise(), data=NIGHT + timedelta(seconds=3), now=NIGHT + 20 * HOUR)
    assert (found.protection, found.missed) == (Protection.PROTECTED, None)
    assert (found.promised, found.next_due) == (NIGHT, NIGHT + DAY)


def test_a_point_made_just_before_the_due_time_does_not_keep_its_promise() -> None:
    found = judged(promise(), data=NIGHT - timedelta(seconds=1), now=NIGHT + 20 * HOUR)
    assert (found.protection, found.missed) == (Protection.OVERDUE, NIGHT)


@pytest.mark.parametrize(
    ("minutes", "protection"),
    [
        (0, Protection.PROTECTED),
        (29, Protection.PROTECTED),
        (30, Protection.LATE),
        (59, Protection.LATE),
        (60, Protection.OVERDUE),
    ],
)
def test_a_backup_may_take_half_an_hour_and_is_overdue_after_an_hour(minutes: int, protection: Protection) -> None:
    assert judged(promise(), data=NIGHT - DAY, now=NIGHT + timedelta(minutes=minutes)).protection is protection


@pytest.mark.parametrize(
    ("hours", "protection"), [(2, Protection.PROTECTED), (4, Protection.LATE), (7, Protection.OVERDUE)]
)
def test_a_vm_whose_backups_take_hours_gets_that_time(hours: int, protection: Protection) -> None:
    found = judged(promise(), data=NIGHT - DAY, now=NIGHT + hours * HOUR, usual=3 * HOUR)
    assert found.protection is protection


def test_an_hourly_schedule_that_fails_each_time_is_overdue_though_the_last_due_time_is_young() -> None:
    now = NIGHT + timedelta(minutes=5)
    found = judged(promise("hourly", "00"), data=NIGHT - 5 * HOUR, now=now)
    assert (found.protection, found.missed) == (Protection.OVERDUE, NIGHT - 4 * HOUR)


def test_the_worst_kept_promise_of_several_decides() -> None:
    hourly, weekly = promise("hourly", "00"), promise("weekly", "saturday:02:00", schedule_id="s2")
    found = judged(hourly, weekly, data=NIGHT - 3 * HOUR, now=NIGHT)
    assert (found.protection, found.missed) == (Protection.OVERDUE, NIGHT - 2 * HOUR)
    assert (found.promised, found.next_due) == (NIGHT, NIGHT + HOUR)


def test_a_schedule_promises_nothing_for_the_time_before_it_applied() -> None:
    young = promise(since=NIGHT - timedelta(minutes=1))
    assert judged(young, data=NIGHT - 30 * DAY, now=NIGHT - timedelta(seconds=1)).protection is Protection.PROTECTED
    assert judged(young, data=NIGHT - 30 * DAY, now=NIGHT + 2 * HOUR).missed == NIGHT


def test_a_promise_made_at_the_very_due_time_counts() -> None:
    assert judged(promise(since=NIGHT), data=NIGHT - DAY, now=NIGHT + 2 * HOUR).missed == NIGHT


@pytest.mark.parametrize(
    ("minutes", "protection"),
    [
        (-1, Protection.PENDING),
        (29, Protection.PENDING),
        (30, Protection.LATE),
        (59, Protection.LATE),
        (60, Protection.NEVER),
    ],
)
def test_a_vm_without_points_is_pending_until_its_first_promise_is_late(minutes: int, protection: Protection) -> None:
    found = judged(promise(since=NIGHT - HOUR), data=None, now=NIGHT + timedelta(minutes=minutes))
    assert (found.protection, found.overdue) == (protection, protection is Protection.NEVER)
    assert found.missed == (None if minutes < 0 else NIGHT)


def test_a_snapshot_is_enough_only_for_a_schedule_of_snapshots() -> None:
    snapshot = {"default": Newest(data=None, any=NIGHT + timedelta(seconds=1))}
    for wanted, protection in ((True, Protection.PROTECTED), (False, Protection.OVERDUE)):
        made = promise(snapshot=wanted)
        now = NIGHT + 3 * HOUR
        assert judge([made], snapshot, DueTimesAt(now, UTC_ZONE), now).protection is protection


def test_a_point_in_another_repository_does_not_keep_the_promise() -> None:
    found = judged(promise(repository="far"), data=NIGHT + HOUR, now=NIGHT + 3 * HOUR)
    assert found.protection is Protection.OVERDUE
    near = judged(promise(repository="far"), data=None, now=NIGHT + 3 * HOUR, far=Newest(NIGHT + HOUR, NIGHT + HOUR))
    assert near.protection is Protection.PROTECTED


def test_the_judgement_says_when_it_will_be_another_one() -> None:
    late, overdue = NIGHT + timedelta(minutes=30), NIGHT + timedelta(minutes=60)
    for now, again in ((NIGHT - HOUR, NIGHT), (NIGHT, late), (late, overdue), (overdue, NIGHT + DAY)):
        assert judged(promise(), data=NIGHT - HOUR * 2, now=now).again == again


@given(
    st.sampled_from([("hourly", "15"), ("daily", "02:00"), ("weekly", "friday:03:30"), ("monthly", "31:04:00")]),
    st.integers(0, 60 * 24 * 40),
    st.integers(0, 60 * 24 * 40),
)
@settings(max_examples=200, deadline=None)
def test_what_was_missed_is_the_first_due_time_after_the_newest_point(
    time: tuple[str, str], made_ago: int, later: int
) -> None:
    paris = ZoneInfo("Europe/Paris")
    timing = parse_timing(*time)
    made = NIGHT - timedelta(minutes=made_ago)
    now = made + timedelta(minutes=later)
    found = judge([promise(timing=timing)], {"default": Newest(made, made)}, DueTimesAt(now, paris), now)
    first = next(due_times(timing, made, paris))
    assert found.missed == (first if first <= now else None)


def test_a_promise_keeps_its_age_until_its_schedule_changes() -> None:
    old = promise(since=LONG_AGO)
    by_name = {"web": [promise(since=NIGHT)]}
    assert promises_of(("web", "uuid"), by_name, [old], NIGHT) == (old,)
    for changed in (
        promise("daily", "03:00"),
        promise(snapshot=True),
        promise(repository="far"),
        promise(schedule_id="another"),
    ):
        [new] = promises_of(("web",), {"web": [changed]}, [old], NIGHT)
        assert new == replace(changed, since=NIGHT)


def test_a_schedule_that_names_a_vm_twice_promises_once() -> None:
    by_name = {"web": [promise()], "uuid": [promise()]}
    assert len(promises_of(("web", "uuid"), by_name, [], NIGHT)) == 1


def test_a_schedule_that_is_gone_or_off_promises_nothing() -> None:
    assert promises_of(("web",), {}, [promise()], NIGHT) == ()


def test_the_usual_time_is_the_longest_of_late_and_fades() -> None:
    usual = usual_time(timedelta(), 2 * HOUR)
    assert usual == 2 * HOUR
    for _ in range(3):
        usual = usual_time(usual, timedelta(minutes=1))
    assert HOUR < usual < 2 * HOUR
    assert usual_time(usual, 5 * HOUR) == 5 * HOUR
