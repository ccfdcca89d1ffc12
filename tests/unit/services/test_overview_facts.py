"""What the first page is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.alert import Condition, Situation
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.inventory import ProtectionCounts, VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.vm import VmState
from kvm_backup.services.facts import Facts, make_facts
from kvm_backup.services.schedules.file import ScheduleFile

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
DAY = timedelta(days=1)


@pytest.fixture
def file(tmp_path: Path) -> ScheduleFile:
    return ScheduleFile(tmp_path, UTC_ZONE)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Database.open(sqlite_url(tmp_path / "kvm-backup.db")), lambda: NOW)


@pytest.fixture
def facts(tmp_path: Path, file: ScheduleFile, history: History) -> Facts:
    def ticks() -> Condition | None:
        return None

    database = Database.open(sqlite_url(tmp_path / "kvm-backup.db"))
    return make_facts(database, history, file, host="alpha", zone=UTC_ZONE, clock=lambda: NOW, daemon=ticks)


def a_vm(number: int, protection: Protection) -> VmRecord:
    uuid = f"1a2b3c4d-0000-4000-8000-{number:012d}"
    return VmRecord(uuid, f"vm-{number}", VmState.RUNNING, protection=protection)


def a_run(number: int) -> Run:
    return Run(
        id=f"r{number}",
        vm_name=f"vm-{number}",
        kind=RunKind.BACKUP,
        trigger=Trigger.SCHEDULE,
        host="alpha",
        repository="default",
        requested_mode=Mode.FULL,
        state=RunState.QUEUED,
        created=NOW - timedelta(minutes=number),
    )


def test_an_empty_host_has_an_overview(facts: Facts) -> None:
    overview = facts.overview.read()
    assert overview.protection == ProtectionCounts()
    assert (overview.vms, overview.alerts, overview.going, overview.coming, overview.space) == ([], [], [], [], [])
    assert len(overview.days) == 35


def test_vms_that_are_badly_protected_come_first_with_their_calendar(facts: Facts) -> None:
    vms = [
        a_vm(1, Protection.PROTECTED),
        a_vm(2, Protection.OVERDUE),
        replace(a_vm(3, Protection.LATE), gone_since=NOW),
    ]
    facts.inventory.save(vms)
    overview = facts.overview.read()
    assert [vm.name for vm in overview.vms] == ["vm-2", "vm-1"]
    assert set(overview.calendar) == {vms[0].uuid, vms[1].uuid}
    assert (overview.protection.overdue, overview.protection.gone) == (1, 1)


def test_alerts_that_somebody_has_seen_are_left_out(facts: Facts) -> None:
    facts.alerts.evaluate(Situation(vms=[a_vm(1, Protection.OVERDUE), a_vm(2, Protection.OVERDUE)]))
    seen, unseen = facts.alerts.open()
    facts.alerts.acknowledge(seen.id, "anna")
    overview = facts.overview.read()
    assert ([alert.id for alert in overview.alerts], overview.unacknowledged) == ([unseen.id], 1)


def test_what_goes_on_begins_with_what_runs(facts: Facts, history: History) -> None:
    for number in range(1, 5):
        history.create(a_run(number))
    history.start("r2")
    history.start("r3")
    history.wait("r3", NOW, RunResult())
    history.create(replace(a_run(9), host="beta"))
    overview = facts.overview.read()
    assert [run.id for run in overview.going] == ["r2", "r4", "r1", "r3"]
    assert (overview.running, overview.queued, overview.waiting) == (1, 2, 1)


def test_the_next_due_schedules_come_soonest_first_and_those_that_are_off_never(
    facts: Facts, file: ScheduleFile
) -> None:
    made = [
        Schedule(f"s{hours}", f"n{hours}", ("web",), "daily", "02:00", next_run=NOW + timedelta(hours=hours))
        for hours in range(20, 0, -1)
    ]
    made[-1] = replace(made[-1], enabled=False)
    made.append(Schedule("never", "never", ("web",), "daily", "02:00"))
    file.update(lambda _before: made)
    overview = facts.overview.read()
    assert [schedule.id for schedule in overview.coming[:3]] == ["s2", "s3", "s4"]
    assert (overview.schedules, overview.schedules_enabled) == (21, 20)


def test_a_damaged_file_of_schedules_is_told_and_the_last_good_ones_are_shown(
    facts: Facts, file: ScheduleFile
) -> None:
    file.update(lambda _before: [Schedule("s1", "n", ("web",), "daily", "02:00", next_run=NOW)])
    facts.overview.read()
    file.path.write_text("{")
    overview = facts.overview.read()
    assert overview.schedules_problem is not None
    assert [schedule.id for schedule in overview.coming] == ["s1"]


def test_space_is_told_with_its_growth_once_there_are_samples_enough(facts: Facts) -> None:
    for ago in (4, 3, 2, 1, 0):
        sample = SpaceSample(NOW - ago * DAY, used=1000 - 10 * ago, free=500, total=2000)
        facts.statistics.sample_space({"near": sample} | ({"far": sample} if ago < 2 else {}))
    far, near = facts.overview.read().space
    assert (near.name, near.last.used) == ("near", 1000)
    assert near.growth == pytest.approx(10)
    assert near.full_in_days == pytest.approx(50)
    assert (far.growth, far.full_in_days, len(far.samples)) == (None, None, 2)
