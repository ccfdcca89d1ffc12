"""The fleet that pages are measured on is one that the program itself could have made, on both databases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import URL

from bench import fleet
from kvm_backup.bootstrap import Application
from kvm_backup.database.history import RunFilter
from kvm_backup.domain.alert import AlertKind
from kvm_backup.domain.run import RunState

VMS, SCHEDULES, RUNS = 60, 12, 700


@pytest.fixture
def application(url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    state_dir = tmp_path / "fleet"
    options = [f"--{name}={number}" for name, number in (("vms", VMS), ("schedules", SCHEDULES), ("runs", RUNS))]
    if url.get_backend_name() != "sqlite":
        options.append(f"--database={url.render_as_string(hide_password=False)}")
    monkeypatch.setenv("KVM_BACKUP_CONFIG", "set by the generator")
    assert fleet.main([*options, str(state_dir)]) == 0
    return Application.from_environment()


def test_a_fleet_has_what_was_asked_for_and_its_sums_and_facts_agree(application: Application) -> None:
    today = application.statistics.today(datetime.now(UTC))
    days = application.statistics.days(today - timedelta(days=400), today)
    assert sum(day.succeeded + day.failed + day.cancelled for day in days) == RUNS
    failed = [
        run
        for state in (RunState.FAILED, RunState.INTERRUPTED)
        for run in application.history.newest(RunFilter(state=state), limit=RUNS)
    ]
    assert sum(day.failed for day in days) == len(failed) > 0
    counts = application.inventory.counts()
    assert (counts.total, counts.gone) == (VMS, 0)
    assert counts.protected > VMS / 2
    assert len(application.schedules.all()) <= SCHEDULES
    vm = application.inventory.page(limit=1, offset=VMS - 1)[0]
    assert (vm.points.points, vm.points.chain_length, len(vm.disks)) == (3, 3, 1)
    # A VM with a monthly schedule need not have run within so few runs: which one that is depends on the hour.
    newest = next(vm.runs.last_run for vm in application.inventory.page(limit=VMS) if vm.runs.last_run)
    run = application.history.get(newest)
    assert [step.name for step in run.steps] == ["prepare", "begin", "copy", "publish", "advance"]


def test_what_failed_of_a_fleet_is_an_alert(application: Application) -> None:
    failing = [vm for vm in application.inventory.page(limit=VMS) if vm.runs.failed_run]
    told = {alert.subject.uuid for alert in application.alerts.open(limit=1000) if alert.kind is AlertKind.RUN_FAILED}
    assert told == {vm.uuid for vm in failing}
    assert application.overview.read().unacknowledged >= len(told)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(SystemExit):
        fleet.main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
