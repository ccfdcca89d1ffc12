"""One run, with a real history and a stand-in for DBOS that remembers the results of steps, as it does."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.database.history import History
from kvm_backup.domain.errors import (
    CancelledError,
    DatabaseError,
    InterruptedRunError,
    KvmBackupError,
    NoSpaceError,
    RemoteAccessError,
    VmNotFoundError,
)
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest, scheduled_run_id
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import (
    AsNewVm,
    BackupTask,
    InPlace,
    PruneTask,
    RestoreTask,
    ShipTask,
    Task,
    VerifyTask,
    kind_of,
)
from kvm_backup.runtime.queue import Suspended
from kvm_backup.runtime.workflows import RetryAt, RunWorkflow
from kvm_backup.services import events
from tests.unit.runtime.conftest import Clock

DUE = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
RUN = scheduled_run_id("host", "s1", DUE, "web")
POINT = "web--1a2b3c4d/20261122T020000Z"
DONE = events.Finished("web", "incremental", point=POINT, mode="full", bytes_read=5, seconds=2.0)


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Bench:
    """A workflow and all that it touches. `results` are what the backup returns or does, one after the other."""

    clock: Clock
    history: History
    results: list[KvmBackupError | type[BaseException] | None] = field(default_factory=lambda: [None])
    remembered: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    queued: list[tuple[RunRequest, float]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    stopping: bool = False
    on_call: Callable[[], object] = lambda: None

    def workflow(self) -> RunWorkflow:
        return RunWorkflow(
            history=self.history,
            recorder=self._recorder,
            perform=self._back_up,
            prune=lambda _request, _listener: self.calls.append("prune"),
            enqueue=lambda request, delay: self.queued.append((request, delay)),
            settled=lambda request: self.settled.append(request.run_id),
            clock=self.clock,
            stopping=lambda: self.stopping,
            pause=lambda _seconds: None,
            say=self.said.append,
            script_timeout=10.0,
        )

    def do(self, request: RunRequest) -> None:
        self.workflow()(RunRequest.from_json(json.loads(json.dumps(request.as_json()))), self._step)

    def state(self) -> tuple[str, int, str | None]:
        run = self.history.get(RUN)
        return run.state.value, run.attempt, run.error_code

    def _step(self, name: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.remembered:
            self.remembered[name] = json.dumps(action())
        result: dict[str, Any] = json.loads(self.remembered[name])
        return result

    def _recorder(self, _run: Run, _retry_at: RetryAt) -> events.Listener:
        return lambda event: self.notices.append(event.message) if isinstance(event, events.Notice) else None

    def _back_up(
        self, request: RunRequest, listener: events.Listener, stop_requested: Callable[[], bool], *, again: bool
    ) -> tuple[events.Finished, KvmBackupError | None]:
        self.calls.append(request.kind.value + (" again" if again else ""))
        result = self.results.pop(0)
        self.on_call()
        if isinstance(result, type):
            raise result
        if stop_requested():
            result = CancelledError("the run was cancelled", hint="Start it again.")
        if result is None:
            return DONE, None
        return events.failed("web", "incremental", result, 1.0), result


@pytest.fixture
def bench(clock: Clock, history: History) -> Bench:
    return Bench(clock, history)


def request(**changes: Any) -> RunRequest:
    fields: dict[str, Any] = {
        "run_id": RUN,
        "host": "host",
        "vm": "web",
        "task": BackupTask(Mode.INCREMENTAL),
        "repository": "default",
        "trigger": Trigger.SCHEDULE,
        "created": DUE,
        "schedule_id": "s1",
        "schedule_name": "night",
        "due": DUE,
    }
    return RunRequest(**fields | changes)


def no_space() -> NoSpaceError:
    return NoSpaceError("only 1 GiB left", hint="Free some.")


def script(folder: Path, name: str, body: str) -> tuple[str, ...]:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path),)


def test_a_run_that_goes_well_is_pruned_after_and_ends_in_the_history(bench: Bench) -> None:
    bench.do(request())
    assert bench.calls == ["backup", "prune"]
    run = bench.history.get(RUN)
    assert (run.state, run.point, run.mode, run.attempt) == (RunState.SUCCEEDED, POINT, Mode.FULL, 1)
    assert bench.settled == [RUN]


VERIFY, PRUNE, SHIP = VerifyTask("web--1a2b3c4d"), PruneTask("web--1a2b3c4d"), ShipTask("web--1a2b3c4d")
AS_NEW_VM, IN_PLACE = RestoreTask(POINT, AsNewVm("web2")), RestoreTask(POINT, InPlace())


def asked_for(task: Task, **changes: Any) -> RunRequest:
    return request(**{"task": task, "trigger": Trigger.WEB, "schedule_id": None, "due": None} | changes)


@pytest.mark.parametrize("task", [VERIFY, PRUNE, SHIP, AS_NEW_VM, IN_PLACE])
def test_a_run_of_another_kind_is_one_step_and_prunes_nothing_after(bench: Bench, task: Task) -> None:
    bench.do(asked_for(task))
    kind = kind_of(task)
    assert (bench.calls, list(bench.remembered)) == ([kind.value], [kind.value])
    run = bench.history.get(RUN)
    assert (run.kind, run.task, run.requested_mode, run.state) == (kind, task, None, RunState.SUCCEEDED)


@pytest.mark.parametrize("task", [VERIFY, PRUNE, SHIP, AS_NEW_VM, IN_PLACE])
def test_a_run_of_another_kind_that_was_killed_is_told_so_when_it_is_taken_up(bench: Bench, task: Task) -> None:
    bench.results = [Killed, None]
    with pytest.raises(Killed):
        bench.do(asked_for(task))
    bench.clock.move(hours=9)
    bench.do(asked_for(task))
    assert bench.calls == [kind_of(task).value, f"{kind_of(task)} again"]
    assert bench.state() == ("succeeded", 2, None)


def test_a_run_that_was_killed_while_it_was_taken_up_is_told_so_too(bench: Bench) -> None:
    bench.history.create(asked_for(IN_PLACE).as_run())
    bench.history.start(RUN)
    bench.history.wait(RUN, bench.clock.now, RunResult(error="killed", error_code="interrupted"))
    bench.do(asked_for(IN_PLACE))
    assert bench.calls == ["restore again"]


def test_what_a_restore_in_place_says_of_its_interruption_is_the_end_of_the_run(bench: Bench) -> None:
    bench.results = [InterruptedRunError("not done again", hint="Restore again.")]
    bench.do(asked_for(IN_PLACE))
    assert bench.state() == ("interrupted", 1, "interrupted")
    assert bench.queued == []


def test_a_restore_in_place_that_waited_an_hour_needs_another_confirmation(bench: Bench) -> None:
    bench.clock.now = DUE + timedelta(minutes=61)
    bench.do(asked_for(IN_PLACE))
    assert bench.calls == []
    assert bench.state() == ("cancelled", 1, "not-confirmed")


def test_a_restore_as_a_new_vm_may_wait_as_long_as_it_must(bench: Bench) -> None:
    bench.clock.now = DUE + timedelta(days=2)
    bench.do(asked_for(AS_NEW_VM))
    assert bench.state() == ("succeeded", 1, None)


@pytest.mark.parametrize(("task", "state"), [(IN_PLACE, "interrupted"), (AS_NEW_VM, "waiting"), (VERIFY, "waiting")])
def test_when_the_service_ends_only_a_restore_in_place_is_not_left_for_its_next_start(
    bench: Bench, task: Task, state: str
) -> None:
    bench.on_call = lambda: setattr(bench, "stopping", True)
    with pytest.raises(Suspended) if state == "waiting" else nullcontext():
        bench.do(asked_for(task))
    assert bench.state() == (state, 1, "interrupted")


def test_a_restore_in_place_that_has_not_begun_waits_for_the_next_start(bench: Bench) -> None:
    bench.history.create(asked_for(IN_PLACE).as_run())
    bench.stopping = True
    with pytest.raises(Suspended):
        bench.do(asked_for(IN_PLACE))
    bench.stopping = False
    bench.do(asked_for(IN_PLACE))
    assert bench.calls == ["restore"]


@pytest.mark.parametrize("task", [VERIFY, PRUNE, AS_NEW_VM, IN_PLACE])
def test_a_request_of_each_kind_survives_the_queue(task: Task) -> None:
    asked = asked_for(task, asked_by="zoé", vm_uuid="1a2b3c4d-0000-4000-8000-000000000000", attempt=2)
    assert RunRequest.from_json(json.loads(json.dumps(asked.as_json()))) == asked


def test_a_request_that_the_first_version_queued_is_read_as_a_backup() -> None:
    held = {
        "run_id": "r1", "host": "alpha", "vm": "web", "mode": "full", "repository": "default", "trigger": "schedule",
        "created": "2026-11-22T02:00:00+00:00", "schedule_id": "s1", "schedule_name": "night",
        "due": "2026-11-22T02:00:00+00:00", "late": False, "retry": 1, "pre_script": ["/bin/true"], "post_script": [],
    }  # fmt: skip
    read = RunRequest.from_json(held)
    assert (read.task, read.kind, read.attempt) == (BackupTask(Mode.FULL), RunKind.BACKUP, 1)
    assert (read.due, read.retry, read.pre_script) == (DUE, 1, ("/bin/true",))


def test_a_run_killed_in_the_backup_is_its_own_next_attempt(bench: Bench) -> None:
    bench.results = [Killed, None]
    with pytest.raises(Killed):
        bench.do(request())
    assert bench.state() == ("running", 1, None)
    bench.do(request())
    assert bench.state() == ("succeeded", 2, None)
    assert any("taken up again" in line for line in bench.said)


def test_a_run_killed_after_the_backup_does_not_do_it_again(bench: Bench) -> None:
    workflow = bench.workflow()

    def die(*_: object) -> None:
        raise Killed

    object.__setattr__(workflow, "prune", die)
    with pytest.raises(Killed):
        workflow(request(), bench._step)
    bench.do(request())
    assert bench.calls == ["backup", "prune"]
    assert bench.state() == ("succeeded", 2, None)
    assert bench.history.get(RUN).point == POINT


def test_failures_that_may_pass_are_tried_again_three_times_with_growing_waits(bench: Bench) -> None:
    bench.results = [no_space() for _ in range(4)]
    asked = request()
    for attempt, wait in enumerate([120.0, 600.0, 1800.0], 1):
        bench.do(asked)
        assert bench.state() == ("waiting", attempt, "no-space")
        assert bench.history.get(RUN).retry_at == bench.clock.now + timedelta(seconds=wait)
        asked, waited = bench.queued[-1]
        assert waited == wait
        bench.clock.move(seconds=wait)
        bench.remembered.clear()  # another try is another workflow
    bench.do(asked)
    assert bench.state() == ("failed", 4, "no-space")
    assert len({one.workflow_id for one, _ in bench.queued}) == 3
    assert bench.settled == [RUN] * 4


@pytest.mark.parametrize("trigger", [Trigger.SERVICE, Trigger.WEB])
def test_what_cannot_be_shipped_is_tried_again_for_ever_also_when_a_key_is_refused(
    bench: Bench, trigger: Trigger
) -> None:
    refused = RemoteAccessError("the server refused the login", hint="Check the key.")
    bench.results = [refused] * 8 + [None]
    asked = asked_for(SHIP, trigger=trigger)
    waits = []
    for attempt in range(1, 9):
        bench.do(asked)
        assert bench.state() == ("waiting", attempt, "remote-access")
        asked, waited = bench.queued[-1]
        waits.append(waited)
        bench.remembered.clear()
    assert waits == [15.0, 60.0, 300.0, 900.0, 1800.0, 1800.0, 1800.0, 1800.0]
    bench.do(asked)
    assert bench.state() == ("succeeded", 9, None)


def test_a_shipment_that_was_cancelled_is_not_tried_again(bench: Bench) -> None:
    bench.results = [CancelledError("cancelled", hint="Nothing.")]
    bench.do(asked_for(SHIP))
    assert bench.state() == ("cancelled", 1, "cancelled")
    assert bench.queued == []


def test_a_failure_that_trying_again_cannot_mend_ends_the_run(bench: Bench) -> None:
    bench.results = [VmNotFoundError("no VM", hint="See vm list.")]
    bench.do(request())
    assert bench.state() == ("failed", 1, "vm-not-found")
    assert (bench.queued, bench.calls) == ([], ["backup"])


def test_a_run_that_a_command_asked_for_is_not_tried_again_by_itself(bench: Bench) -> None:
    bench.results = [no_space()]
    bench.do(request(trigger=Trigger.COMMAND, due=None))
    assert bench.state() == ("failed", 1, "no-space")
    assert bench.queued == []


def test_a_run_that_was_cancelled_in_the_queue_is_never_begun(bench: Bench) -> None:
    bench.history.create(request().as_run())
    bench.history.request_cancel(RUN)
    bench.do(request())
    assert bench.calls == []
    assert bench.state()[0] == "cancelled"
    assert bench.settled == [RUN]


def test_a_run_that_has_ended_is_not_done_again(bench: Bench) -> None:
    bench.do(request())
    bench.remembered.clear()
    bench.do(request())
    assert bench.calls == ["backup", "prune"]


def test_when_the_service_ends_the_run_is_left_for_its_next_start(bench: Bench) -> None:
    bench.results = [None, None]

    bench.stopping = True
    with pytest.raises(Suspended):
        bench.do(request())
    assert bench.calls == []
    bench.stopping = False

    original = bench._back_up

    def stopped_in_the_copy(*arguments: Any, again: bool) -> Any:
        bench.stopping = True
        return original(*arguments, again=again)

    workflow = bench.workflow()
    object.__setattr__(workflow, "perform", stopped_in_the_copy)
    with pytest.raises(Suspended):
        workflow(request(), bench._step)
    assert bench.state() == ("waiting", 1, "interrupted")
    assert bench.remembered == {}
    bench.stopping = False
    bench.do(request())
    assert bench.state() == ("succeeded", 2, None)


def test_a_script_before_that_fails_lets_nothing_begin_and_the_one_after_is_told(
    bench: Bench, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    before = script(tmp_path, "before", "echo no disk; exit 4")
    after = script(tmp_path, "after", f'echo "$KVM_BACKUP_HOOK_EVENT $KVM_BACKUP_HOOK_ERROR_CODE" > {told}')
    bench.do(request(pre_script=before, post_script=after))
    assert bench.calls == []
    assert bench.state() == ("failed", 1, "hook")
    assert told.read_text() == "failed hook\n"


def test_a_script_after_that_fails_is_a_notice_and_the_run_has_succeeded(bench: Bench, tmp_path: Path) -> None:
    bench.do(request(post_script=script(tmp_path, "after", "exit 5")))
    assert bench.state() == ("succeeded", 1, None)
    assert len(bench.notices) == 1
    assert "ended with 5" in bench.notices[0]


def test_a_script_before_that_went_well_is_not_called_again_after_a_kill(bench: Bench, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    bench.results = [Killed, None]
    asked = request(pre_script=script(tmp_path, "before", f"echo called >> {calls}"))
    with pytest.raises(Killed):
        bench.do(asked)
    bench.do(asked)
    assert calls.read_text() == "called\n"
    assert bench.state() == ("succeeded", 2, None)


def test_a_history_that_cannot_be_written_for_a_while_loses_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [DatabaseError("the disk is full", hint="Free space.") for _ in range(3)]
    original = History.finish

    def finish(*arguments: Any) -> bool:
        if failures:
            raise failures.pop()
        return original(*arguments)

    monkeypatch.setattr(History, "finish", finish)
    bench.do(request())
    assert bench.state() == ("succeeded", 1, None)
    assert len([line for line in bench.said if "the disk is full" in line]) == 1
