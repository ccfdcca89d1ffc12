"""A run: one execution for one VM, as the history keeps it. Values only; times in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode

if TYPE_CHECKING:
    from kvm_backup.domain.task import Task


class RunState(StrEnum):
    """Where a run is. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """It failed, and will be tried again at `retry_at`."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its process died and it was not taken up again."""

    @property
    def final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)


STATE_WORDS = {
    RunState.QUEUED: phrase("queued"),
    RunState.RUNNING: phrase("running"),
    RunState.WAITING: phrase("waiting"),
    RunState.SUCCEEDED: phrase("succeeded"),
    RunState.FAILED: phrase("failed"),
    RunState.CANCELLED: phrase("cancelled"),
    RunState.INTERRUPTED: phrase("interrupted"),
}
"""The states, for people."""

_NEXT = {
    RunState.QUEUED: frozenset(RunState) - {RunState.QUEUED, RunState.WAITING, RunState.SUCCEEDED},
    RunState.RUNNING: frozenset(RunState) - {RunState.QUEUED, RunState.RUNNING},
    RunState.WAITING: frozenset(RunState) - {RunState.QUEUED, RunState.WAITING, RunState.SUCCEEDED},
}


def allowed(before: RunState, after: RunState) -> bool:
    """Whether a run may move so. Nothing leaves a final state, and only a run that ran can succeed or wait."""
    return after in _NEXT.get(before, frozenset())


def states_before(after: RunState) -> frozenset[RunState]:
    """From where a run may move to this state."""
    return frozenset(before for before in RunState if allowed(before, after))


class RunKind(StrEnum):
    """What a run does."""

    BACKUP = "backup"
    PRUNE = "prune"
    VERIFY = "verify"
    RESTORE = "restore"
    SHIP = "ship"


class Trigger(StrEnum):
    """Who asked for it."""

    SCHEDULE = "schedule"
    COMMAND = "command"
    WEB = "web"
    RETRY = "retry"
    SERVICE = "service"
    """The service by itself: there was something to do."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run; `ended` is None while it goes on."""

    name: str
    started: datetime
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the history. What a backup was asked to do is its `requested_mode`; what other kinds, their `task`.

    `due` is the scheduled time that it answers; `late` says that this had passed while the service was down. `done`
    and `total` are bytes of the step so far. `point` is what a backup made or a restore read; of a verify, the first
    point that it found damaged, else the one that it was asked about.
    """

    id: str
    vm_name: str
    kind: RunKind
    trigger: Trigger
    host: str
    repository: str
    requested_mode: Mode | None
    state: RunState
    created: datetime
    vm_uuid: str | None = None
    schedule_id: str | None = None
    schedule_name: str | None = None
    due: datetime | None = None
    late: bool = False
    attempt: int = 1
    started: datetime | None = None
    ended: datetime | None = None
    retry_at: datetime | None = None
    step: str | None = None
    done: int = 0
    total: int = 0
    mode: Mode | None = None
    reason: str | None = None
    detail: str | None = None
    point: str | None = None
    consistency: str | None = None
    bytes_read: int = 0
    bytes_stored: int = 0
    error: str | None = None
    error_code: str | None = None
    hint: str | None = None
    cancel_requested: bool = False
    task: Task | None = None
    steps: tuple[RunStep, ...] = ()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run, or one attempt of it, came to. Sizes in bytes; `error` is None when it did what was asked."""

    mode: Mode | None = None
    reason: str | None = None
    detail: str | None = None
    point: str | None = None
    consistency: str | None = None
    bytes_read: int = 0
    bytes_stored: int = 0
    error: str | None = None
    error_code: str | None = None
    hint: str | None = None
