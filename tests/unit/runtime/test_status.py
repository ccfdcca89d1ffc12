"""The status of a schedule, from its runs, newest first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.runtime.status import settle_schedule, status_of
from kvm_backup.services.schedules.file import ScheduleFile

SCHEDULE = Schedule("id", "night", ("web", "db"), "daily", "02:00")


def run(vm: str, state: str, error_code: str | None = None) -> Run:
    return Run(
        id="r",
        vm_name=vm,
        kind=RunKind.BACKUP,
        trigger=Trigger.SCHEDULE,
        host="host",
        repository="default",
        requested_mode=Mode.FULL,
        state=RunState(state),
        created=datetime(2026, 11, 22, tzinfo=UTC),
        error_code=error_code,
    )


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], "scheduled"),
        ([run("web", "succeeded"), run("db", "succeeded")], "scheduled"),
        ([run("web", "succeeded"), run("db", "failed")], "failed"),
        ([run("db", "failed"), run("web", "succeeded")], "failed"),
        ([run("web", "succeeded"), run("web", "failed"), run("db", "succeeded")], "scheduled"),
        ([run("web", "running"), run("web", "failed")], "failed"),
        ([run("web", "running"), run("web", "succeeded")], "running"),
        ([run("web", "waiting", "no-space")], "failed"),
        ([run("web", "waiting", "interrupted"), run("web", "succeeded")], "running"),
        ([run("web", "interrupted", "interrupted")], "failed"),
        ([run("web", "cancelled"), run("web", "failed")], "failed"),
        ([run("web", "cancelled"), run("web", "succeeded")], "scheduled"),
        ([run("removed-from-it", "failed")], "scheduled"),
    ],
)
def test_the_last_verdict_about_each_vm_counts(runs: list[Run], expected: str) -> None:
    assert status_of(SCHEDULE, runs) is ScheduleStatus(expected)


def test_a_failure_of_when_the_clock_was_ahead_does_not_hide_a_success_of_today(tmp_path: Path) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    file = ScheduleFile(tmp_path, ZoneInfo("UTC"))
    file.update(lambda _before: [replace(SCHEDULE, status=ScheduleStatus.FAILED)])
    history = History(Database.open(sqlite_url(tmp_path / "history.db")), lambda: now)
    for id_, state, created in (
        ("ahead", RunState.FAILED, now + timedelta(days=365)),
        ("today", RunState.SUCCEEDED, now),
    ):
        history.create(replace(run("web", "queued"), id=id_, created=created, schedule_id=SCHEDULE.id))
        history.start(id_)
        history.finish(id_, state, RunResult())
    settle_schedule(file, history, SCHEDULE.id)
    assert [schedule.status for schedule in file.read()] == [ScheduleStatus.SCHEDULED]
