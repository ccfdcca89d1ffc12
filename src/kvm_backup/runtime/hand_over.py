"""Following a run of the service from another process until it ends."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kvm_backup.database.history import History
from kvm_backup.domain import errors
from kvm_backup.domain.errors import DetachedError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import Run
from kvm_backup.services import events
from kvm_backup.services.log_reader import LogReader

Outcome = tuple[events.Finished, KvmBackupError | None]

_POLL_SECONDS = 0.2
_SECOND_CTRL_C = 5.0
"""Seconds in which a second Ctrl-C cancels the run instead of leaving it to the service."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Shows runs of the service as if they were done here.

    `service_runs` tells whether there is one; `point_path` gives the folder of a point by repository and id.
    """

    history: History
    log_reader: Callable[[str], LogReader]
    service_runs: Callable[[], bool]
    point_path: Callable[[str, str], str]

    def follow(self, run: Run, listener: events.Listener, stop_requested: Callable[[], bool]) -> Outcome:
        """Show the run until it has ended; what it came to.

        Ctrl-C leaves it to the service, a second one soon after cancels it. The error is DetachedError when this
        process does not wait any longer.
        """
        began = time.monotonic()
        with closing(self.log_reader(run.id)) as log:
            view = _View(run, listener)
            try:
                current = self._wait(run, log, view, stop_requested)
            except KeyboardInterrupt:
                self.history.request_cancel(run.id)
                listener(events.Notice(run.vm_name, phrase("cancelling")))
                current = self._wait(run, log, view, lambda: False)
        if isinstance(current, KvmBackupError):
            finished = events.failed(run.vm_name, _word(run), current, time.monotonic() - began)
            listener(finished)
            return finished, current
        finished, error = self._finished(current, view.seconds or time.monotonic() - began)
        listener(finished)
        return finished, error

    def _wait(
        self, run: Run, log: LogReader, view: "_View", stop_requested: Callable[[], bool]
    ) -> Run | KvmBackupError:
        asked_at: float | None = None
        while True:
            current = self.history.get(run.id)
            view.show(current, log.new_lines())
            if current.state.final:
                return current
            if not self.service_runs():
                return self._detached(run, "the service ended; it goes on with the run when it is back")
            if stop_requested() and asked_at is None:
                asked_at = time.monotonic()
                view.say(f"the service goes on with run {run.id}; press Ctrl-C again to cancel it")
            if asked_at is not None and time.monotonic() - asked_at > _SECOND_CTRL_C:
                return self._detached(run, "this command does not wait for it any longer")
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _detached(run: Run, why: str) -> DetachedError:
        return DetachedError(
            phrase("run {id} has not ended: {why}", id=run.id, why=why),
            hint=phrase(
                "Follow it with 'kvm-backup run logs {id} --follow'; 'kvm-backup run cancel {id}' ends it.", id=run.id
            ),
            vm=run.vm_name,
        )

    def _finished(self, run: Run, seconds: float) -> Outcome:
        error = None if run.error is None else error_of(run.error_code, run.error, run.hint or "", run.vm_name)
        if error is not None:
            return events.failed(run.vm_name, _word(run), error, seconds), error
        return (
            events.Finished(
                vm=run.vm_name,
                requested_mode=_word(run),
                point=run.point,
                mode=run.mode.value if run.mode else None,
                reason=run.reason,
                detail=run.detail,
                consistency=run.consistency,
                path=self.point_path(run.repository, run.point) if run.point else None,
                bytes_read=run.bytes_read,
                bytes_stored=run.bytes_stored,
                seconds=seconds,
            ),
            None,
        )


def _word(run: Run) -> str | None:
    return run.requested_mode.value if run.requested_mode else None


class _View:
    """Events of a run, from the lines of its log and, for progress, its row."""

    def __init__(self, run: Run, listener: events.Listener) -> None:
        self._run = run
        self._listener = listener
        self._done = 0
        self.seconds: float | None = None

    def say(self, message: str) -> None:
        self._listener(events.Notice(self._run.vm_name, message))

    def show(self, current: Run, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            event = self._event(current.vm_name, line)
            if event is not None:
                self._listener(event)
        if current.total and current.done != self._done and current.step == events.Step.COPY:
            self._done = current.done
            self._listener(events.Progress(current.vm_name, events.Step.COPY, current.done, current.total))

    def _event(self, vm: str, line: Mapping[str, Any]) -> events.Event | None:
        match line.get("event"):
            case "started":
                return events.Started(vm, str(line.get("requested_mode")), str(line.get("repository")))
            case "step" if line.get("step") in list(events.Step):
                return events.StepStarted(vm, events.Step(line["step"]))
            case "mode":
                return events.ModeDecided(vm, str(line.get("mode")), line.get("reason"), line.get("detail"))
            case "notice":
                return events.Notice(vm, str(line.get("message")))
            case "finished" if isinstance(line.get("seconds"), int | float):
                self.seconds = float(line["seconds"])
        return None


def error_of(code: str | None, message: str, hint: str, vm: str) -> KvmBackupError:
    """An error as the history keeps it, of its class again, so that a command ends with the same exit code."""
    found = (value for value in vars(errors).values() if isinstance(value, type))
    kinds = {kind.code: kind for kind in found if issubclass(kind, KvmBackupError)}
    kind = kinds.get(code or "", KvmBackupError)
    error = kind.__new__(kind)
    KvmBackupError.__init__(error, message, hint=hint, vm=vm)
    return error
