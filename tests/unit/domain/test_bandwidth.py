"""Limits by the time of day."""

from datetime import datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.bandwidth import BandwidthPlan, Hours


@pytest.mark.parametrize(
    ("clock", "limit"),
    [
        ("07:59:59", None),
        ("08:00:00", 1000),
        ("17:59:59", 1000),
        ("18:00:00", None),
        ("23:00:00", 7),
        ("05:59:59", 7),
    ],
)
def test_a_limit_holds_from_its_start_until_just_before_its_end_also_past_midnight(
    clock: str, limit: int | None
) -> None:
    plan = BandwidthPlan(None, (Hours(time(8), time(18), 1000), Hours(time(22), time(6), 7)))
    assert plan.limit_at(at(clock)) == limit


def test_the_first_window_that_holds_counts_and_no_limit_is_one_too() -> None:
    plan = BandwidthPlan(5, (Hours(time(1), time(2), None), Hours(time(0), time(3), 9)))
    assert plan.limit_at(at("01:30")) is None
    assert plan.limit_at(at("02:30")) == 9
    assert plan.limit_at(at("04:00")) == 5


@given(st.times(), st.times(), st.times())
def test_a_window_and_the_one_turned_round_share_no_moment_and_leave_none_out(
    start: time, end: time, moment: time
) -> None:
    if start != end:
        assert Hours(start, end, 1).holds(moment) != Hours(end, start, 1).holds(moment)
    else:
        assert Hours(start, end, 1).holds(moment)


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-22T{clock}")
