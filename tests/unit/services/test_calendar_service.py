"""The calendar of the last weeks."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.database.statistics import Statistics
from kvm_backup.domain.calendar import Cell, CellState
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Promise
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.timing import parse_timing
from kvm_backup.services.calendar import CalendarService

PARIS = ZoneInfo("Europe/Paris")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TODAY = date(2026, 11, 22)
WEB = VmRecord("1a2b3c4d-0000-4000-8000-000000000001", "web")
DAILY = Promise("s1", parse_timing("daily", "02:00"), "default", snapshot=False, since=NOW - timedelta(days=90))
Ended = Callable[..., None]
NOTHING = RunResult()


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Database.open(sqlite_url(tmp_path / "kvm-backup.db")), lambda: NOW, PARIS)


@pytest.fixture
def calendar(tmp_path: Path, history: History) -> CalendarService:
    statistics = Statistics(Database.open(sqlite_url(tmp_path / "kvm-backup.db")), "alpha", PARIS)
    return CalendarService(statistics, history, "alpha", PARIS, lambda: NOW)


@pytest.fixture
def ended(history: History) -> Ended:
    count = 0

    def end(ago: float, state: RunState | None, result: RunResult = NOTHING, **changes: Any) -> None:
        nonlocal count
        count += 1
        run = Run(
            id=f"r{count}",
            vm_name="web",
            vm_uuid=WEB.uuid,
            kind=RunKind.BACKUP,
            trigger=Trigger.SCHEDULE,
            host="alpha",
            repository="default",
            requested_mode=Mode.INCREMENTAL,
            state=RunState.QUEUED,
            created=NOW - timedelta(days=ago),
        )
        run = history.create(replace(run, **changes))
        history.start(run.id)
        if state is not None:
            history.finish(run.id, state, result)

    return end


def cells(calendar: CalendarService, vm: VmRecord = WEB) -> list[Cell]:
    return calendar.of([vm])[vm.uuid]


def test_five_weeks_end_today_in_the_zone(calendar: CalendarService) -> None:
    days = [cell.day for cell in cells(calendar)]
    assert days == [TODAY - timedelta(days=ago) for ago in range(34, -1, -1)]
    late = replace(calendar, clock=lambda: NOW.replace(hour=23, minute=30))
    assert cells(late)[-1].day == TODAY + timedelta(days=1)


def test_a_day_without_runs_or_schedules_is_empty(calendar: CalendarService) -> None:
    assert {cell.state for cell in cells(calendar)} == {CellState.NONE}


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (RunState.SUCCEEDED, None, CellState.OK),
        (RunState.SUCCEEDED, "disk-added", CellState.DEMOTED),
        (RunState.FAILED, None, CellState.FAILED),
        (RunState.INTERRUPTED, None, CellState.FAILED),
        (RunState.CANCELLED, None, CellState.CANCELLED),
    ],
)
def test_a_day_shows_how_its_backup_ended(
    calendar: CalendarService, ended: Ended, state: RunState, reason: str | None, expected: CellState
) -> None:
    ended(1, state, RunResult(reason=reason))
    assert [cell.state for cell in cells(calendar)[-2:]] == [expected, CellState.NONE]


def test_a_failure_that_was_made_good_the_same_day_is_counted_but_not_shown(
    calendar: CalendarService, ended: Ended
) -> None:
    ended(1, RunState.FAILED)
    ended(0.9, RunState.SUCCEEDED)
    assert cells(calendar)[-2] == Cell(TODAY - timedelta(days=1), CellState.OK, runs=2, failed=1)


def test_what_goes_on_is_shown_today(calendar: CalendarService, ended: Ended) -> None:
    ended(0.1, RunState.FAILED)
    ended(0.01, None)
    assert [cell.state for cell in cells(calendar)[-2:]] == [CellState.NONE, CellState.RUNNING]


def test_a_run_under_the_vms_name_counts_as_well(calendar: CalendarService, ended: Ended) -> None:
    ended(1, RunState.FAILED, vm_uuid=None)
    ended(1, RunState.FAILED)
    assert cells(calendar)[-2].failed == 2


def test_the_runs_of_another_vm_or_kind_are_not_shown(calendar: CalendarService, ended: Ended) -> None:
    ended(1, RunState.FAILED, vm_uuid="1a2b3c4d-0000-4000-8000-000000000002", vm_name="db")
    ended(1, RunState.FAILED, kind=RunKind.PRUNE)
    assert cells(calendar)[-2].state is CellState.NONE


def test_a_day_on_which_a_schedule_was_due_and_nothing_ran_was_missed(
    calendar: CalendarService, ended: Ended
) -> None:
    ended(2, RunState.SUCCEEDED)
    found = [cell.state for cell in cells(calendar, replace(WEB, promises=(DAILY,)))]
    assert found[-4:] == [CellState.MISSED, CellState.OK, CellState.MISSED, CellState.NONE]
    weekly = replace(DAILY, timing=parse_timing("weekly", "friday:02:00"))
    found = [cell.state for cell in cells(calendar, replace(WEB, promises=(weekly,)))]
    assert [number for number, state in enumerate(found) if state is CellState.MISSED] == [4, 11, 18, 25]


def test_days_before_the_schedule_applied_were_not_missed(calendar: CalendarService) -> None:
    young = replace(DAILY, since=NOW - timedelta(days=3))
    found = [cell.state for cell in cells(calendar, replace(WEB, promises=(young,)))]
    assert found.count(CellState.MISSED) == 2


@pytest.mark.parametrize(("minutes", "expected"), [(29, CellState.NONE), (30, CellState.MISSED)])
def test_today_is_missed_half_an_hour_after_the_time_that_gave_no_point(
    calendar: CalendarService, minutes: int, expected: CellState
) -> None:
    late = replace(WEB, promises=(DAILY,), missed=NOW - timedelta(minutes=minutes))
    assert cells(calendar, late)[-1].state is expected
