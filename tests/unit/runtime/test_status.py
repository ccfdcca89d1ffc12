"""The status of a schedule, from its runs, newest first."""

from datetime import UTC, datetime

import pytest

from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.runtime.status import status_of

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
