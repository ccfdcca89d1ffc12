"""One durable run, from the script before it to the last word in the history.

Steps that ended before the process was killed are not done again; the step that it was killed in is. That is safe:
what the dead run left is cleaned up first, and what it had completed is known as its own. A restore in place alone
is not gone on with (docs/adr/0009-a-restore-in-place-is-not-resumed.md).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from kvm_backup.database.history import History
from kvm_backup.domain.errors import (
    CancelledError,
    DatabaseError,
    InterruptedRunError,
    KvmBackupError,
    NotConfirmedError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState
from kvm_backup.domain.task import is_in_place
from kvm_backup.runtime.queue import StepRunner, Suspended
from kvm_backup.services import events, hooks
from kvm_backup.services.recording import CancelWatch, final_state

Json = dict[str, Any]

CONFIRMED_FOR = timedelta(hours=1)
"""How long a user's yes to a restore in place holds while it waits in the queue."""
_DATABASE_PAUSE = 10.0
"""Seconds between two tries to write the history, while its disk is full or its server away."""


RetryAt = Callable[[events.Finished], datetime | None]


class Perform(Protocol):
    """Does the task of a run; never raises a KvmBackupError but returns it. `again`: it has begun before."""

    def __call__(
        self, request: RunRequest, listener: events.Listener, stop_requested: Callable[[], bool], *, again: bool
    ) -> tuple[events.Finished, KvmBackupError | None]: ...


@dataclass(frozen=True, slots=True)
class RunWorkflow:
    """Does runs. `stopping` tells that the service ends now; `pause` waits some seconds, less when it does.

    `recorder` gives the listener that writes a run's progress, result and log; it is given what tells when the run is
    tried again. `settled` is told of each run that has ended or waits; `enqueue` gets the next try and its delay in
    seconds.
    """

    history: History
    recorder: Callable[[Run, RetryAt], events.Listener]
    perform: Perform
    prune: Callable[[RunRequest, events.Listener], None]
    enqueue: Callable[[RunRequest, float], None]
    settled: Callable[[RunRequest], None]
    clock: Callable[[], datetime]
    stopping: Callable[[], bool]
    pause: Callable[[float], None]
    say: Callable[[str], None]
    script_timeout: float

    def __call__(self, request: RunRequest, step: StepRunner) -> None:
        """Do one run, or what is left of it. Raises Suspended when the service ends before it has."""
        run, again = self._begin(request)
        if run is None:
            self._settle(request)
            return
        listener = self.recorder(run, lambda finished: self._retry_at(request, finished))
        outcome: Json = {}
        if request.pre_script:
            outcome = step("before", lambda: self._before(request))
        if not outcome.get("error"):
            outcome = step(request.kind.value, lambda: self._perform(request, listener, again))
            if not outcome.get("error") and request.kind is RunKind.BACKUP:
                step("prune", lambda: self._prune(request, listener))
        if request.post_script:
            step("after", lambda: self._after(request, outcome, listener))
        self._end(request, events.Finished(**outcome), listener)
        self._settle(request)

    def _begin(self, request: RunRequest) -> tuple[Run | None, bool]:
        """The run, which runs from now on (None: it has ended, or was cancelled), and whether it has begun before."""
        self._leave_when_stopping(request)
        run: Run = self._write(lambda: self.history.create(request.as_run()))
        if run.state.final:
            return None, False
        again = run.state is not RunState.QUEUED
        if run.state is RunState.RUNNING:
            cause = InterruptedRunError(
                phrase("the service was killed during this attempt"),
                hint=phrase("The run was taken up again by itself."),
            )
            self._write(lambda: self.history.wait(run.id, self.clock(), _failure(cause)))
            self.say(f"run {run.id} of {run.vm_name} was interrupted and is taken up again")
        return (run if self._write(lambda: self.history.start(run.id)) else None), again

    def _before(self, request: RunRequest) -> Json:
        self._step(request, "before")
        told = self._happening(request, hooks.HookEvent.BEFORE, {})
        try:
            hooks.run_before(
                request.pre_script, told, timeout=self.script_timeout, stop_requested=self._stop_of(request)
            )
        except KvmBackupError as error:
            self._leave_when_stopping(request)
            return asdict(events.failed(request.vm, request.requested_mode, error, 0.0))
        return {}

    def _perform(self, request: RunRequest, listener: events.Listener, again: bool) -> Json:
        def listen(event: events.Event) -> None:
            # The run is not over: old points are removed yet, and a script may follow.
            if not isinstance(event, events.Finished):
                listener(event)

        if is_in_place(request.task) and not again and self.clock() - request.created > CONFIRMED_FOR:
            return asdict(events.failed(request.vm, None, _confirmed_too_early(), 0.0))
        finished, error = self.perform(request, listen, self._stop_of(request), again=again)
        if isinstance(error, CancelledError):
            if is_in_place(request.task) and self.stopping():
                return asdict(events.failed(request.vm, None, _stopped_in_place(), finished.seconds))
            self._leave_when_stopping(request)
        return asdict(finished)

    def _prune(self, request: RunRequest, listener: events.Listener) -> Json:
        self._leave_when_stopping(request)
        try:
            self.prune(request, listener)
        except KvmBackupError as error:
            # The point is made; old ones that stay a day longer harm nobody.
            listener(
                events.Notice(request.vm, phrase("old points could not be removed: {cause}", cause=error.message))
            )
        return {}

    def _after(self, request: RunRequest, outcome: Json, listener: events.Listener) -> Json:
        self._step(request, "after")
        event = hooks.HookEvent.SUCCEEDED
        if outcome.get("error"):
            cancelled = outcome.get("error_code") == CancelledError.code
            event = hooks.HookEvent.CANCELLED if cancelled else hooks.HookEvent.FAILED
        problem = hooks.run_after(
            request.post_script,
            self._happening(request, event, outcome),
            timeout=self.script_timeout,
            stop_requested=self.stopping,
        )
        self._leave_when_stopping(request)
        if problem is not None:
            listener(events.Notice(request.vm, problem))
        return {}

    def _end(self, request: RunRequest, finished: events.Finished, listener: events.Listener) -> None:
        listener(finished)
        wait = self._wait(request, finished)
        # The listener gives up after some tries; the end of a run must reach the history.
        result = _result(finished)
        state = final_state(finished)
        if state is RunState.FAILED and wait is not None:
            retry_at = self.clock() + timedelta(seconds=wait)
            self._write(lambda: self.history.wait(request.run_id, retry_at, result))
            self.enqueue(request.again(), wait)
        else:
            self._write(lambda: self.history.finish(request.run_id, state, result))

    def _retry_at(self, request: RunRequest, finished: events.Finished) -> datetime | None:
        wait = self._wait(request, finished)
        return None if wait is None else self.clock() + timedelta(seconds=wait)

    @staticmethod
    def _wait(request: RunRequest, finished: events.Finished) -> float | None:
        if final_state(finished) is not RunState.FAILED:
            return None
        return request.retry_wait(can_help=bool(finished.retryable))

    def _settle(self, request: RunRequest) -> None:
        try:
            self.settled(request)
        except KvmBackupError as error:
            self.say(f"the status of the schedule {request.schedule_name!r} could not be written: {error.message}")

    def _step(self, request: RunRequest, name: str) -> None:
        self._write(lambda: self.history.step_started(request.run_id, name))

    def _stop_of(self, request: RunRequest) -> Callable[[], bool]:
        return CancelWatch(self.history, request.run_id, self.stopping)

    def _leave_when_stopping(self, request: RunRequest) -> None:
        """Raises Suspended when the service ends, so that the run goes on with the next start."""
        if not self.stopping():
            return
        cause = InterruptedRunError(
            phrase("the service was stopped"), hint=phrase("The run goes on when the service is back.")
        )
        try:
            self.history.wait(request.run_id, self.clock(), _failure(cause))
        except KvmBackupError as error:
            self.say(f"the history could not be written: {error.message}")
        raise Suspended

    def _write(self, action: Callable[[], Any]) -> Any:
        """Write the history, however long its disk is full or its server away: a run must not be lost by that."""
        told = False
        while True:
            try:
                return action()
            except DatabaseError as error:
                if self.stopping():
                    raise Suspended from error
                if not told:
                    self.say(f"{error.message}; trying again until it works. {error.hint}")
                told = True
                self.pause(_DATABASE_PAUSE)

    @staticmethod
    def _happening(request: RunRequest, event: hooks.HookEvent, outcome: Json) -> hooks.Happening:
        return hooks.Happening(
            event=event,
            vm=request.vm,
            run=request.run_id,
            mode=str(outcome.get("mode") or request.requested_mode or ""),
            repository=request.repository,
            schedule=request.schedule_name or "",
            schedule_id=request.schedule_id or "",
            due=request.due.isoformat() if request.due else "",
            point=outcome.get("point") or "",
            error=outcome.get("error") or "",
            error_code=outcome.get("error_code") or "",
        )


def _confirmed_too_early() -> KvmBackupError:
    """What the VM wrote while the run waited was not in the question."""
    return NotConfirmedError(
        phrase("the restore in place was confirmed more than an hour before it could begin"),
        hint=phrase("Nothing was changed. Restore again if that is still wanted."),
    )


def _stopped_in_place() -> KvmBackupError:
    return InterruptedRunError(
        phrase("the service was stopped during the restore in place, which is not done again by itself"),
        hint=phrase("The VM's disks are as they were before. Restore again if that is still wanted."),
    )


def _failure(error: KvmBackupError) -> RunResult:
    return RunResult(error=error.message, error_code=error.code, hint=error.hint)


def _result(finished: events.Finished) -> RunResult:
    return RunResult(
        mode=None if finished.mode is None else Mode(finished.mode),
        reason=finished.reason,
        detail=finished.detail,
        point=finished.point,
        consistency=finished.consistency,
        bytes_read=finished.bytes_read,
        bytes_stored=finished.bytes_stored,
        error=finished.error,
        error_code=finished.error_code,
        hint=finished.hint,
    )
