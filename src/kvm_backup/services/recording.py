"""A run's events become rows of the history and lines of the log.

A backup is worth more than the record of it: when the database or the log cannot be written, the run goes on and
says so once.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kvm_backup.database.history import History
from kvm_backup.domain.errors import CancelledError, InterruptedRunError, KvmBackupError, NotConfirmedError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunResult, RunState
from kvm_backup.services import events
from kvm_backup.services.prune import Pruned
from kvm_backup.services.restore_disks import Restored
from kvm_backup.services.verify import Verdict

CANCEL_SECONDS = 1.0
"""So often a run looks whether somebody asked it to end."""
_PROGRESS_SECONDS = 1.0
_LAST_TRIES = 3
_PAUSE_SECONDS = 0.5
_FINDINGS_LOGGED = 20


def _never(_finished: events.Finished) -> datetime | None:
    return None


@dataclass
class RecordingListener:
    """Records the run `run_id`, which `history` holds, and hands every event on to `also`.

    `log` is a structlog logger bound to the run. `retry_at` says when a run that ended so is tried again, or None:
    such a run waits instead of ending.
    """

    history: History
    run_id: str
    log: Any
    also: events.Listener
    retry_at: Callable[[events.Finished], datetime | None] = _never
    monotonic: Callable[[], float] = time.monotonic
    _next_progress: float = 0.0
    _last: events.Progress | None = None
    _step: str | None = None
    _told: set[str] = field(default_factory=set)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Started():
                asked = {"kind": event.kind, "requested_mode": event.requested_mode, "repository": event.repository}
                self._write(event.vm, "info", "started", **asked)
            case events.StepStarted():
                self._step = event.step.value
                self._flush_progress()
                self._record(event.vm, lambda: self.history.step_started(self.run_id, event.step.value))
                self._write(event.vm, "info", "step")
            case events.ModeDecided():
                decided = RunResult(mode=Mode(event.mode), reason=event.reason, detail=event.detail)
                self._record(event.vm, lambda: self.history.decided(self.run_id, decided))
                self._write(event.vm, "info", "mode", mode=event.mode, reason=event.reason, detail=event.detail)
            case events.Progress():
                self._progress(event)
            case events.Notice():
                self._write(event.vm, "warning", "notice", message=event.message)
            case events.PointVerified():
                self._verified(event.vm, event.verdict)
            case events.PointRestored():
                self._write(event.vm, "info", "restored", **_restored_facts(event.restored))
            case events.VmPruned():
                self._write(event.vm, "info", "pruned", **_pruned_facts(event.pruned))
            case events.Finished():
                self._finish(event)
        self.also(event)

    def _verified(self, vm: str, verdict: Verdict) -> None:
        facts = {"point": verdict.point, "good": verdict.good, "deep": verdict.deep}
        facts |= {"bytes_checked": verdict.bytes_checked, "seconds": verdict.seconds}
        found = [f"{finding.file}: {finding.message}" for finding in verdict.findings]
        self._write(vm, "info" if verdict.good else "error", "verified", **facts, findings=found[:_FINDINGS_LOGGED])

    def _progress(self, event: events.Progress) -> None:
        self._last = event
        now = self.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self._flush_progress()

    def _flush_progress(self) -> None:
        if (last := self._last) is not None:
            self._last = None
            self._record(last.vm, lambda: self.history.progress(self.run_id, last.done, last.total))

    def _finish(self, event: events.Finished) -> None:
        self._flush_progress()
        result = RunResult(**{name: getattr(event, name) for name in _RESULT_FIELDS}, mode=_mode(event.mode))
        retry_at = self.retry_at(event) if event.error is not None else None
        facts = {name: value for name in _LOGGED_FIELDS if (value := getattr(event, name)) is not None}
        if retry_at is not None:
            self._record(event.vm, lambda: self.history.wait(self.run_id, retry_at, result), tries=_LAST_TRIES)
            self._write(event.vm, "warning", "waiting", retry_at=retry_at, **facts)
            return
        state = final_state(event)
        # The log first: whoever follows it stops when the history says that the run has ended.
        self._write(event.vm, "error" if state is RunState.FAILED else "info", "finished", state=state.value, **facts)
        self._record(event.vm, lambda: self.history.finish(self.run_id, state, result), tries=_LAST_TRIES)

    def _record(self, vm: str, call: Callable[[], object], *, tries: int = 1) -> None:
        for remaining in reversed(range(tries)):
            try:
                call()
            except KvmBackupError as error:
                if remaining:
                    time.sleep(_PAUSE_SECONDS)
                else:
                    self._tell_once(vm, "history", f"the history of this run is not complete: {error.message}")
            else:
                return

    def _write(self, vm: str, level: str, event: str, **facts: Any) -> None:
        try:
            getattr(self.log, level)(event, vm=vm, step=self._step, **facts)
        except KvmBackupError as error:
            self._tell_once(vm, "log", f"the log of this run is not complete: {error.message}")

    def _tell_once(self, vm: str, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.also(events.Notice(vm, message))


_RESULT_FIELDS = (
    "reason",
    "detail",
    "point",
    "consistency",
    "bytes_read",
    "bytes_stored",
    "error",
    "error_code",
    "hint",
)
_STATES = {
    CancelledError.code: RunState.CANCELLED,
    NotConfirmedError.code: RunState.CANCELLED,
    InterruptedRunError.code: RunState.INTERRUPTED,
}
_LOGGED_FIELDS = ("mode", *_RESULT_FIELDS, "seconds")


def _mode(word: str | None) -> Mode | None:
    return None if word is None else Mode(word)


def _restored_facts(restored: Restored) -> dict[str, Any]:
    return {
        "point": restored.point,
        "name": restored.name,
        "disks": [disk.path for disk in restored.disks],
        "files": list(restored.files),
        "notices": list(restored.notices),
    }


def _pruned_facts(pruned: Pruned) -> dict[str, Any]:
    return {
        "kept": [point.id for point in pruned.points if point.kept],
        "removed": [point.id for point in pruned.points if not point.kept],
        "consolidated": [point.id for point in pruned.points if point.consolidated],
        "bytes_freed": pruned.bytes_freed,
    }


def final_state(event: events.Finished) -> RunState:
    """How a run that is not tried again has ended."""
    if event.error is None:
        return RunState.SUCCEEDED
    return _STATES.get(event.error_code or "", RunState.FAILED)


@dataclass
class CancelWatch:
    """Whether a run has to end: because `also` says so, or somebody asked the history for it. Cheap to ask often."""

    history: History
    run_id: str
    also: Callable[[], bool]
    monotonic: Callable[[], float] = time.monotonic
    _next: float = 0.0
    _cancelled: bool = False

    def __call__(self) -> bool:
        now = self.monotonic()
        if not self._cancelled and now >= self._next:
            self._next = now + CANCEL_SECONDS
            with suppress(KvmBackupError):  # while the database is away nobody can have asked
                self._cancelled = self.history.cancel_requested(self.run_id)
        return self._cancelled or self.also()
