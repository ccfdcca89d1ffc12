"""What a tick puts into the queue, with a fixed clock, a real schedules file and a real history."""

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.database.history import History
from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import RunResult, RunState
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.runtime.tick import Scheduler
from kvm_backup.services.schedules.file import ScheduleFile
from tests.unit.runtime.conftest import Clock

DUE = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
TOMORROW = DUE + timedelta(days=1)
ZONE = ZoneInfo("UTC")


@dataclass
class Bench:
    """A scheduler with what it works on. `queued` is what it enqueued, `said` what it told."""

    clock: Clock
    file: ScheduleFile
    history: History
    queued: list[RunRequest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    catch_up: bool = True

    def __post_init__(self) -> None:
        self.scheduler = self.restarted()

    def restarted(self) -> Scheduler:
        return Scheduler(
            file=ScheduleFile(self.file.path.parent, ZONE),
            history=self.history,
            enqueue=lambda *requests: self.queued.extend(requests),
            zone=ZONE,
            clock=self.clock,
            say=self.said.append,
            host="host",
            repository="default",
            catch_up=self.catch_up,
        )

    def hold(self, *schedules: Schedule) -> None:
        self.file.update(lambda _: schedules)

    def held(self) -> Schedule:
        return self.file.read()[0]

    def end(self, run_id: str, state: RunState = RunState.SUCCEEDED) -> None:
        self.history.start(run_id)
        self.history.finish(run_id, state, RunResult())


@pytest.fixture
def bench(tmp_path: Path, clock: Clock, history: History) -> Bench:
    return Bench(clock, ScheduleFile(tmp_path, ZONE), history)


def nightly(**changes: object) -> Schedule:
    made = Schedule(
        id="abcdef0123456789",
        name="night",
        vm_names=("web",),
        schedule_type="daily",
        schedule_time="02:00",
        next_run=DUE,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_is_due_is_queued_for_each_vm_and_planned_anew(bench: Bench) -> None:
    bench.hold(nightly(vm_names=("web", "db")))
    bench.scheduler.tick()
    assert [(one.vm, one.due, one.late, one.host) for one in bench.queued] == [
        ("web", DUE, False, "host"),
        ("db", DUE, False, "host"),
    ]
    held = bench.held()
    assert (held.next_run, held.status, held.last_run) == (TOMORROW, ScheduleStatus.RUNNING, bench.clock.now)
    assert {run.state for run in bench.history.newest()} == {RunState.QUEUED}


def test_what_is_not_due_or_switched_off_is_left_alone(bench: Bench) -> None:
    schedules = (nightly(next_run=TOMORROW), nightly(id="b" * 16, name="off", enabled=False))
    bench.hold(*schedules)
    bench.scheduler.tick()
    assert bench.queued == []
    assert bench.file.read() == schedules


def test_a_tick_that_died_before_it_moved_the_schedule_on_is_repeated_without_a_second_run(bench: Bench) -> None:
    bench.hold(nightly())
    bench.scheduler.tick()
    bench.hold(nightly())
    bench.restarted().tick()
    assert {one.workflow_id for one in bench.queued} == {f"schedule:host:abcdef0123456789:{DUE.isoformat()}:web"}
    assert len(bench.history.newest()) == 1


def test_times_that_were_missed_are_made_up_for_once_and_late(bench: Bench) -> None:
    bench.hold(nightly())
    bench.clock.move(days=3, hours=1)
    bench.scheduler.tick()
    assert [(one.due, one.late) for one in bench.queued] == [(DUE, True)]
    assert bench.held().status is ScheduleStatus.LATE
    assert bench.held().next_run == DUE + timedelta(days=4)


def test_times_that_were_missed_are_only_told_where_catching_up_is_off(bench: Bench) -> None:
    bench.catch_up = False
    bench.hold(nightly())
    bench.clock.move(hours=1)
    done = bench.restarted().tick()
    assert bench.queued == []
    assert done.skipped == bench.said
    assert "missed its time" in bench.said[0]
    assert (bench.held().next_run, bench.held().status) == (TOMORROW, ScheduleStatus.SCHEDULED)


def test_a_clock_that_is_set_back_repeats_no_run_that_was_done(bench: Bench) -> None:
    bench.hold(nightly())
    bench.scheduler.tick()
    bench.end(bench.queued[0].run_id)
    bench.clock.move(hours=-1)
    bench.scheduler.tick()
    bench.clock.move(hours=1, minutes=1)
    bench.scheduler.tick()
    assert len(bench.queued) == 1
    assert bench.held().next_run == TOMORROW


def test_a_clock_that_was_years_ahead_does_not_keep_schedules_from_running(bench: Bench) -> None:
    bench.hold(nightly())
    bench.clock.now = DUE.replace(year=2031)
    bench.scheduler.tick()
    assert bench.held().next_run == TOMORROW.replace(year=2031)
    bench.clock.now = DUE + timedelta(hours=5)
    bench.scheduler.tick()
    assert bench.held().next_run == TOMORROW


def test_a_schedule_without_a_next_time_gets_one(bench: Bench) -> None:
    bench.hold(nightly(next_run=None))
    bench.scheduler.tick()
    assert bench.queued == []
    assert bench.held().next_run == TOMORROW


def test_a_vm_whose_earlier_run_goes_on_is_left_out_with_a_notice(bench: Bench) -> None:
    bench.hold(nightly(vm_names=("web", "db")))
    bench.scheduler.tick()
    first = {one.vm: one.run_id for one in bench.queued}
    bench.end(first["db"])
    bench.history.start(first["web"])
    bench.clock.move(days=1)
    done = bench.scheduler.tick()
    assert [one.vm for one in bench.queued[2:]] == ["db"]
    assert len(done.skipped) == 1
    assert first["web"] in done.skipped[0]


def test_a_schedule_that_failed_shows_it_until_a_run_has_succeeded(bench: Bench) -> None:
    bench.hold(nightly(status=ScheduleStatus.FAILED))
    bench.scheduler.tick()
    assert bench.held().status is ScheduleStatus.FAILED
    assert bench.held().next_run == TOMORROW


def test_what_somebody_changed_during_the_tick_stays(bench: Bench) -> None:
    bench.hold(nightly())

    def change_and_queue(*requests: RunRequest) -> None:
        bench.queued.extend(requests)
        bench.hold(nightly(enabled=False, next_run=None))

    bench.scheduler.enqueue = change_and_queue
    bench.scheduler.tick()
    assert (bench.held().enabled, bench.held().next_run) == (False, None)


def test_a_damaged_file_is_told_once_and_the_last_good_schedules_go_on(bench: Bench) -> None:
    bench.hold(nightly())
    bench.clock.now = DUE - timedelta(minutes=1)
    bench.scheduler.tick()
    bench.file.path.write_text("[{")
    for _ in range(3):
        bench.clock.move(minutes=1)
        bench.scheduler.tick()
    assert [one.due for one in bench.queued] == [DUE]
    assert len([line for line in bench.said if "is not JSON" in line]) == 2  # it cannot be read, nor updated
    bench.clock.now = TOMORROW
    bench.scheduler.tick()
    assert bench.file.path.read_text() == "[{"
    bench.end(bench.queued[0].run_id)
    bench.clock.move(days=1)
    bench.scheduler.tick()
    assert [one.due for one in bench.queued] == [DUE, TOMORROW + timedelta(days=1)]


def test_when_a_damaged_file_is_whole_again_its_schedules_are_where_they_should_be(bench: Bench) -> None:
    bench.hold(nightly())
    whole = bench.file.path.read_text()
    bench.clock.now = DUE - timedelta(minutes=1)
    bench.scheduler.tick()
    bench.file.path.write_text("damaged")
    bench.clock.now = DUE
    bench.scheduler.tick()
    bench.file.path.write_text(whole)
    bench.clock.move(minutes=1)
    bench.scheduler.tick()
    assert len(bench.queued) == 1
    assert bench.held().next_run == TOMORROW


def test_a_time_that_cannot_be_understood_is_told_once_and_the_others_run(bench: Bench) -> None:
    bench.hold(nightly(id="c" * 16, name="odd", schedule_time="25:00"), nightly())
    bench.scheduler.tick()
    bench.scheduler.tick()
    assert [one.schedule_name for one in bench.queued] == ["night"]
    assert [line for line in bench.said if "25:00" in line] == bench.said


def test_a_run_is_given_the_repository_and_the_scripts_of_its_schedule(bench: Bench) -> None:
    bench.hold(
        nightly(repository="nas", pre_script=("/bin/a", "b"), post_script=("/bin/c",)), nightly(id="2", name="b")
    )
    bench.scheduler.tick()
    assert [(one.repository, one.pre_script, one.post_script) for one in bench.queued] == [
        ("nas", ("/bin/a", "b"), ("/bin/c",)),
        ("default", (), ()),
    ]


def test_a_history_that_cannot_be_written_loses_no_due_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.hold(nightly())

    def refuse(*_: object) -> None:
        raise DatabaseError("the disk is full", hint="Free space.")

    with monkeypatch.context() as patch:
        patch.setattr(History, "create_all", refuse)
        with pytest.raises(DatabaseError):
            bench.scheduler.tick()
    assert bench.held().next_run == DUE
    bench.clock.move(minutes=1)
    bench.scheduler.tick()
    assert [one.due for one in bench.queued] == [DUE]


def test_what_a_tick_that_failed_would_have_corrected_is_corrected_by_the_next_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.hold(nightly(), nightly(id="b" * 16, name="from a wrong clock", next_run=TOMORROW.replace(year=2031)))

    def refuse(*_: object) -> None:
        raise DatabaseError("the disk is full", hint="Free space.")

    with monkeypatch.context() as patch:
        patch.setattr(History, "unfinished_of", refuse)
        with pytest.raises(DatabaseError):
            bench.scheduler.tick()
    bench.scheduler.tick()
    assert [schedule.next_run for schedule in bench.file.read()] == [TOMORROW, TOMORROW]


def test_a_file_that_vanishes_is_told_once(bench: Bench) -> None:
    bench.hold(nightly(next_run=TOMORROW))
    bench.scheduler.tick()
    held = bench.file.path.read_text()
    bench.file.path.unlink()
    bench.scheduler.tick()
    bench.scheduler.tick()
    assert len([line for line in bench.said if "is gone" in line]) == 1
    bench.file.path.write_text(held)
    bench.clock.now = TOMORROW
    bench.scheduler.tick()
    assert [one.due for one in bench.queued] == [TOMORROW]


def test_a_schedule_whose_vms_were_removed_by_hand_says_that_it_does_nothing(bench: Bench) -> None:
    bench.hold(nightly(vm_names=()))
    done = bench.scheduler.tick()
    assert (bench.queued, len(done.skipped)) == ([], 1)
    assert bench.held().next_run == TOMORROW


def test_more_than_fit_in_one_transaction_are_queued_each_once_and_not_again_when_they_ended(bench: Bench) -> None:
    many = [nightly(id=f"{number:016x}", name=f"n{number}") for number in range(1201)]
    bench.hold(*many)
    bench.scheduler.tick()
    ids = [one.run_id for one in bench.queued]
    assert len(set(ids)) == len(ids) == len(bench.history.newest(limit=5000)) == 1201
    assert {schedule.next_run for schedule in bench.file.read()} == {TOMORROW}
    for run_id in ids[::2]:
        bench.end(run_id)
    bench.hold(*many)
    again = bench.restarted().tick()
    assert again.queued == ids[1::2]


def test_ten_thousand_schedules_are_looked_at_in_a_fraction_of_the_minute(bench: Bench) -> None:
    times = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in range(60)]
    bench.hold(
        *(nightly(id=f"{n:016x}", name=f"n{n}", schedule_time=times[n % 1440], next_run=None) for n in range(10_000))
    )
    bench.scheduler.tick()  # plans all of them
    began = time.process_time()
    bench.scheduler.tick()
    assert time.process_time() - began < 5.0
    bench.clock.move(minutes=1)
    bench.scheduler.tick()
    assert len(bench.queued) == 7  # those of 02:01
