"""What a run's events leave in the history and the log, also when these cannot be written."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.disk import Disk
from kvm_backup.domain.errors import (
    BadArgumentError,
    DatabaseError,
    KvmBackupError,
    NoSpaceError,
    RunNotFoundError,
    VmNotFoundError,
)
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import AsNewVm, BackupTask, InPlace, RestoreTask, VerifyTask
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.services import events
from kvm_backup.services.backup import BackupService
from kvm_backup.services.own_runs import OwnRuns, interrupted
from kvm_backup.services.recording import CancelWatch, RecordingListener
from kvm_backup.services.run_log import LogFile, make_log
from kvm_backup.services.runs import RunService
from kvm_backup.services.tasks import TaskService

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
UUID = "1a2b3c4d-0000-4000-8000-000000000000"
DONE = events.Finished(
    "web",
    "incremental",
    point="web--1a2b3c4d/20261122T020000Z",
    mode="full",
    reason="no-point",
    bytes_read=5,
    seconds=2.0,
)
FAILED = events.failed("web", "incremental", NoSpaceError("disk full", hint="Free some."), 1.0)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Database.open(sqlite_url(tmp_path / "kvm-backup.db")), lambda: MOMENT)


@pytest.fixture
def file(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "kvm-backup.jsonl", max_bytes=1024**2, backups=1)


@pytest.fixture
def run(history: History) -> Run:
    made = history.create(
        Run(
            id="r1",
            vm_name="web",
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host="alpha",
            repository="default",
            requested_mode=Mode.INCREMENTAL,
            state=RunState.QUEUED,
            created=MOMENT,
        )
    )
    history.start(made.id)
    return made


class Counted:
    """A history that counts calls, and fails where it is told to."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.broken = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if self.broken > 0:
                self.broken -= 1
                raise DatabaseError("the database is away", hint="Look.")
            return getattr(self._history, name)(*arguments)

        return call


def listener_of(history: object, file: LogFile, seen: list[events.Event], **options: Any) -> RecordingListener:
    log = make_log(file, host="alpha").bind(run="r1")
    return RecordingListener(cast("History", history), "r1", log, also=seen.append, **options)


def logged(file: LogFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.path.read_text().splitlines()]


def test_a_good_run_is_recorded_and_every_event_handed_on(history: History, file: LogFile, run: Run) -> None:
    seen: list[events.Event] = []
    told = [
        events.Started("web", "incremental", "default"),
        events.StepStarted("web", events.Step.PREPARE),
        events.ModeDecided("web", "full", "no-point", "no earlier point"),
        events.StepStarted("web", events.Step.COPY),
        events.Progress("web", events.Step.COPY, 1, 10),
        events.Notice("web", "vdb is left out"),
        events.Progress("web", events.Step.COPY, 10, 10),
        DONE,
    ]
    listener = listener_of(history, file, seen)
    for event in told:
        listener(event)
    assert seen == told
    kept = history.get("r1")
    assert (kept.state, kept.mode, kept.reason, kept.point) == (RunState.SUCCEEDED, Mode.FULL, "no-point", DONE.point)
    assert (kept.done, kept.total, [step.name for step in kept.steps]) == (10, 10, ["prepare", "copy"])
    lines = logged(file)
    assert [line["event"] for line in lines] == ["started", "step", "mode", "step", "notice", "finished"]
    assert [line["step"] for line in lines] == [None, "prepare", "prepare", "copy", "copy", "copy"]
    assert {(line["run"], line["vm"], line["host"]) for line in lines} == {("r1", "web", "alpha")}
    assert (lines[-1]["state"], lines[-1]["point"], lines[-1]["seconds"]) == ("succeeded", DONE.point, 2.0)


@pytest.mark.parametrize(
    ("code", "state", "level"),
    [("no-space", RunState.FAILED, "error"), ("cancelled", RunState.CANCELLED, "info")],
)
def test_a_run_that_made_no_point_says_why(
    history: History, file: LogFile, run: Run, code: str, state: RunState, level: str
) -> None:
    listener_of(history, file, [])(replace(FAILED, error_code=code))
    kept = history.get("r1")
    assert (kept.state, kept.error, kept.error_code, kept.hint) == (state, "disk full", code, "Free some.")
    assert (logged(file)[-1]["level"], logged(file)[-1]["error"]) == (level, "disk full")


def test_a_run_that_is_tried_again_waits(history: History, file: LogFile, run: Run) -> None:
    again = MOMENT + timedelta(minutes=10)
    listener_of(history, file, [], retry_at=lambda finished: again if finished.retryable else None)(FAILED)
    kept = history.get("r1")
    assert (kept.state, kept.retry_at, kept.error) == (RunState.WAITING, again, "disk full")
    assert (logged(file)[-1]["event"], logged(file)[-1]["retry_at"]) == ("waiting", again.isoformat())


def test_progress_is_written_once_a_second_and_before_the_next_step(
    history: History, file: LogFile, run: Run
) -> None:
    counted, now = Counted(history), [100.0]
    listener = listener_of(counted, file, [], monotonic=lambda: now[0])
    for done in range(100):
        now[0] = 100.0 + done / 20
        listener(events.Progress("web", events.Step.COPY, done, 100))
    written = [arguments[1] for name, arguments in counted.calls if name == "progress"]
    assert written == [0, 20, 40, 60, 80]
    listener(events.StepStarted("web", events.Step.PUBLISH))
    assert history.get("r1").done == 99


def test_a_database_that_is_away_is_told_once_and_disturbs_nothing(history: History, file: LogFile, run: Run) -> None:
    counted = Counted(history)
    counted.broken = 2
    seen: list[events.Event] = []
    listener = listener_of(counted, file, seen)
    for step in (events.Step.PREPARE, events.Step.BEGIN, events.Step.COPY):
        listener(events.StepStarted("web", step))
    listener(DONE)
    notices = [event.message for event in seen if isinstance(event, events.Notice)]
    assert notices == ["the history of this run is not complete: the database is away"]
    assert history.get("r1").state is RunState.SUCCEEDED


def test_the_end_of_a_run_is_written_when_the_database_comes_back_soon(
    history: History, file: LogFile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvm_backup.services.recording._PAUSE_SECONDS", 0.0)
    counted = Counted(history)
    counted.broken = 2
    seen: list[events.Event] = []
    listener_of(counted, file, seen)(DONE)
    assert history.get("r1").state is RunState.SUCCEEDED
    assert seen == [DONE]


def test_a_log_that_cannot_be_written_is_told_once_and_disturbs_nothing(
    history: History, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "taken").write_text("")
    file = LogFile(tmp_path / "taken" / "kvm-backup.jsonl", max_bytes=1024**2, backups=1)
    seen: list[events.Event] = []
    listener = listener_of(history, file, seen)
    listener(events.StepStarted("web", events.Step.COPY))
    listener(DONE)
    assert [type(event) for event in seen] == [events.Notice, events.StepStarted, events.Finished]
    assert history.get("r1").state is RunState.SUCCEEDED


def test_the_wish_to_cancel_is_asked_for_once_a_second(history: History, run: Run) -> None:
    counted, now = Counted(history), [100.0]
    wish = CancelWatch(cast("History", counted), "r1", also=lambda: False, monotonic=lambda: now[0])
    assert not wish()
    history.request_cancel("r1")
    now[0] += 0.9
    assert not wish()
    now[0] += 0.1
    assert wish()
    assert [name for name, _ in counted.calls] == ["cancel_requested"] * 2
    now[0] += 10
    assert wish()
    assert len(counted.calls) == 2


def test_a_signal_stops_a_run_also_while_the_database_is_away(history: History, run: Run) -> None:
    counted, asked = Counted(history), [False]
    counted.broken = 10
    wish = CancelWatch(cast("History", counted), "r1", also=lambda: asked[0])
    assert not wish()
    asked[0] = True
    assert wish()


# Runs that a command does itself


@dataclass
class Backups:
    """In place of the real service: tells the events of a run, then ends it as it is told to."""

    ends: Callable[[], KvmBackupError | None] = lambda: None
    runs: list[tuple[str, Mode]] = field(default_factory=list)

    def __call__(
        self, repository: str, listener: events.Listener, stop_requested: Callable[[], bool]
    ) -> BackupService:
        outer = self

        class Service:
            def run(self, vm: str, mode: Mode) -> tuple[events.Finished, KvmBackupError | None]:
                outer.runs.append((vm, mode))
                listener(events.Started(vm, mode.value, repository))
                listener(events.StepStarted(vm, events.Step.PREPARE))
                error = outer.ends()
                finished = DONE if error is None else events.failed(vm, mode.value, error, 1.0)
                listener(finished)
                return finished, error

        return cast("BackupService", Service())


def find_vm(name: str) -> Vm:
    if name == "ghost":
        raise VmNotFoundError("no VM is called 'ghost'", hint="Look.")
    return Vm("web", UUID, VmState.RUNNING, cast("tuple[Disk, ...]", ()))


def service_of(
    history: History,
    file: LogFile,
    tmp_path: Path,
    backups: Backups,
    open_history: Callable[[], History] | None = None,
) -> RunService:
    return RunService(
        open_history=open_history or (lambda: history),
        log=make_log(file, host="alpha"),
        own_runs=OwnRuns(tmp_path / "runs"),
        find_vm=find_vm,
        backup_service=backups,
        tasks=cast("TaskService", None),
    )


def a_request(vm: str = "web", **changes: Any) -> RunRequest:
    asked = RunRequest("new", "alpha", vm, BackupTask(Mode.FULL), "nas", Trigger.COMMAND, MOMENT)
    return replace(asked, **changes)


def back_up(
    service: RunService, request: RunRequest, listener: events.Listener = lambda _: None
) -> tuple[events.Finished, KvmBackupError | None]:
    return service.do(request, listener=listener, stop_requested=lambda: False)


def test_a_backup_is_recorded_under_the_vms_name_and_uuid(history: History, file: LogFile, tmp_path: Path) -> None:
    service = service_of(history, file, tmp_path, Backups())
    finished, error = back_up(service, a_request(UUID))
    assert (finished, error) == (DONE, None)
    [run] = history.newest()
    assert (run.vm_name, run.vm_uuid, run.state, run.repository) == ("web", UUID, RunState.SUCCEEDED, "nas")
    assert (run.host, run.trigger, run.requested_mode) == ("alpha", Trigger.COMMAND, Mode.FULL)
    assert OwnRuns(tmp_path / "runs").ids() == set()


def test_a_run_of_a_schedule_that_is_started_by_hand_belongs_to_it(
    history: History, file: LogFile, tmp_path: Path
) -> None:
    service = service_of(history, file, tmp_path, Backups())
    back_up(service, a_request(schedule_id="1a2b3c4d", schedule_name="Nightly"))
    [run] = history.newest()
    assert (run.schedule_id, run.schedule_name, run.state) == ("1a2b3c4d", "Nightly", RunState.SUCCEEDED)


def test_a_vm_that_is_not_there_is_a_failed_run(history: History, file: LogFile, tmp_path: Path) -> None:
    backups = Backups(ends=lambda: VmNotFoundError("no VM is called 'ghost'", hint="Look."))
    service = service_of(history, file, tmp_path, backups)
    back_up(service, a_request("ghost"))
    [run] = history.newest()
    assert (run.vm_name, run.vm_uuid, run.state) == ("ghost", None, RunState.FAILED)
    assert run.error_code == "vm-not-found"


def test_a_backup_is_made_though_there_is_no_history(history: History, file: LogFile, tmp_path: Path) -> None:
    def away() -> History:
        raise DatabaseError("the database is away", hint="Look.")

    backups, seen = Backups(), list[events.Event]()
    service = service_of(history, file, tmp_path, backups, away)
    _, error = back_up(service, a_request(), seen.append)
    assert error is None
    assert backups.runs == [("web", Mode.FULL)]
    assert seen[0] == events.Notice("web", "this run is not in the history: the database is away")


def test_a_retry_is_a_new_run_that_counts_on(history: History, file: LogFile, tmp_path: Path, run: Run) -> None:
    old = history.create(replace(run, id="old", state=RunState.FAILED))
    service = service_of(history, file, tmp_path, Backups())
    assert service.to_try_again("ol") == old
    back_up(service, a_request(trigger=Trigger.RETRY, attempt=2))
    new = history.get("new")
    assert (new.trigger, new.state, new.attempt) == (Trigger.RETRY, RunState.SUCCEEDED, 2)
    assert history.get("old") == old


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"state": RunState.RUNNING}, "has not ended"),
        ({"state": RunState.FAILED, "kind": RunKind.PRUNE, "requested_mode": None}, "does not tell"),
    ],
)
def test_what_cannot_be_tried_again_is_refused(
    history: History, file: LogFile, tmp_path: Path, run: Run, changes: dict[str, Any], match: str
) -> None:
    history.create(replace(run, id="other", **changes))
    with pytest.raises(BadArgumentError, match=match):
        service_of(history, file, tmp_path, Backups()).to_try_again("other")


def test_cancelling_what_has_ended_is_refused_and_what_runs_is_asked_to_end(
    history: History, file: LogFile, tmp_path: Path, run: Run
) -> None:
    service = service_of(history, file, tmp_path, Backups())
    asked = service.cancel("r")
    assert (asked.state, asked.cancel_requested) == (RunState.RUNNING, True)
    history.finish("r1", RunState.CANCELLED, RunResult())
    with pytest.raises(BadArgumentError, match="ended already: cancelled"):
        service.cancel("r1")
    with pytest.raises(RunNotFoundError):
        service.cancel("nosuch")


_HOLD = """
import sys
from pathlib import Path
from kvm_backup.services.own_runs import OwnRuns
with OwnRuns(Path(sys.argv[1])).hold("r1"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("changes", "what_to_do"),
    [
        ({}, "run retry'. The next backup of the VM removes"),
        ({"kind": RunKind.VERIFY, "task": VerifyTask("f")}, "run retry', which removes"),
        ({"kind": RunKind.RESTORE, "task": RestoreTask("p", AsNewVm("web2"))}, "run retry', which removes"),
        ({"kind": RunKind.RESTORE, "task": RestoreTask("p", InPlace())}, "doctor --clean', before the VM is started"),
    ],
)
def test_a_run_that_was_killed_says_what_to_do(run: Run, changes: dict[str, Any], what_to_do: str) -> None:
    assert what_to_do in (interrupted(replace(run, **changes)).hint or "")


def test_a_run_whose_process_was_killed_is_marked_and_one_that_goes_on_is_not(
    history: History, tmp_path: Path, run: Run
) -> None:
    own_runs = OwnRuns(tmp_path / "runs")
    with holder(tmp_path / "runs") as process:
        own_runs.sweep(history)
        assert history.get("r1").state is RunState.RUNNING
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        own_runs.sweep(history)
    kept = history.get("r1")
    assert (kept.state, kept.error_code, kept.error) == (
        RunState.INTERRUPTED,
        "interrupted",
        "the process of this run was killed",
    )
    assert own_runs.ids() == set()


def test_a_run_that_ended_before_its_process_was_killed_stays_as_it_ended(
    history: History, tmp_path: Path, run: Run
) -> None:
    with holder(tmp_path / "runs") as process:
        history.finish("r1", RunState.SUCCEEDED, RunResult(point="p"))
        process.kill()
        process.wait()
        OwnRuns(tmp_path / "runs").sweep(history)
    assert history.get("r1").state is RunState.SUCCEEDED


def test_a_run_that_is_left_by_an_exception_is_marked_by_the_next_sweep(
    history: History, tmp_path: Path, run: Run
) -> None:
    own_runs = OwnRuns(tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt), own_runs.hold("r1"):
        raise KeyboardInterrupt
    own_runs.sweep(history)
    assert history.get("r1").state is RunState.INTERRUPTED
