"""What a run tells while it goes on. Front ends render events; `as_json` is the documented form (docs/cli.md)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.phrase import phrase

if TYPE_CHECKING:
    from kvm_backup.services.prune import Pruned
    from kvm_backup.services.restore_disks import Restored
    from kvm_backup.services.verify import Verdict


class Step(StrEnum):
    """The steps of a run, in their order; not every run has all."""

    PREPARE = "prepare"
    """Remains of dead runs are removed, the facts are gathered, the mode is decided."""
    BEGIN = "begin"
    """File systems are frozen, the backup job and its checkpoint start, file systems are thawed."""
    COPY = "copy"
    PUBLISH = "publish"
    """Everything is on disk under its hidden name; next come the manifest and the rename."""
    ADVANCE = "advance"
    """The point is visible; the checkpoint that it replaces goes."""
    PRUNE = "prune"
    """Old points are removed, after some were made full ones."""
    VERIFY = "verify"
    RESTORE = "restore"
    ENCRYPT = "encrypt"
    """The files of a point are encrypted, before they are sent. Back and forth with the next, point by point."""
    SHIP = "ship"
    """Points are sent to another server, and checked there."""
    FETCH = "fetch"
    """What a restore reads is brought here from another server, and checked."""


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `vm` is the VM's name."""

    name: ClassVar[str] = "event"
    vm: str

    def as_json(self) -> dict[str, Any]:
        return {"event": self.name} | {
            key: value for key, value in asdict(self).items() if key in {field.name for field in fields(self)}
        }


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A run began."""

    name: ClassVar[str] = "started"
    requested_mode: str | None
    repository: str
    kind: str = "backup"


@dataclass(frozen=True, slots=True)
class StepStarted(Event):
    """A step began."""

    name: ClassVar[str] = "step"
    step: Step


@dataclass(frozen=True, slots=True)
class ModeDecided(Event):
    """What kind of point is being made; `reason` is a FullReason where an incremental was demoted."""

    name: ClassVar[str] = "mode"
    mode: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Bytes of the plan that are done, of all that will be read."""

    name: ClassVar[str] = "progress"
    step: Step
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should know, though the run goes on."""

    name: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, slots=True)
class PointVerified(Event):
    """A point was checked."""

    name: ClassVar[str] = "verified"
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        return {"event": self.name, "good": self.verdict.good} | asdict(self.verdict)


@dataclass(frozen=True, slots=True)
class PointRestored(Event):
    """A point was restored."""

    name: ClassVar[str] = "restored"
    restored: Restored

    def as_json(self) -> dict[str, Any]:
        return {"event": self.name} | asdict(self.restored)


@dataclass(frozen=True, slots=True)
class VmPruned(Event):
    """The points of a VM were pruned."""

    name: ClassVar[str] = "pruned"
    pruned: Pruned

    def as_json(self) -> dict[str, Any]:
        return self.pruned.as_json()


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The last event of a run. `error` is None when it did what was asked."""

    name: ClassVar[str] = "finished"
    requested_mode: str | None
    point: str | None = None
    mode: str | None = None
    reason: str | None = None
    detail: str | None = None
    consistency: str | None = None
    path: str | None = None
    bytes_read: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    error: str | None = None
    error_code: str | None = None
    hint: str | None = None
    retryable: bool | None = None


Listener = Callable[[Event], None]


def failed(vm: str, requested_mode: str | None, error: KvmBackupError, seconds: float) -> Finished:
    """The last event of a run that did not do what was asked."""
    return Finished(
        vm=vm,
        requested_mode=requested_mode,
        seconds=seconds,
        error=error.message,
        error_code=error.code,
        hint=error.hint,
        retryable=error.retryable,
    )


def unexpected(problem: Exception) -> KvmBackupError:
    """A fault of ours, as the error of the run that it ends."""
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    error = KvmBackupError(
        phrase("unexpected {name}: {problem}{where}", name=type(problem).__name__, problem=problem, where=where),
        hint=phrase("This is a fault of KVM Backup: report this message."),
    )
    error.__cause__ = problem
    return error
