"""What a run is asked to do, by its kind, and the JSON form that the queue and the history keep it in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind


@dataclass(frozen=True, slots=True)
class BackupTask:
    """Make a restore point."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Check points: `point` and all that it builds on, or without it every point in the VM's `folder`.

    `folder` is the name of a VM's folder in the repository.
    """

    folder: str
    point: str | None = None
    deep: bool = False


@dataclass(frozen=True, slots=True)
class PruneTask:
    """Remove the points in a VM's `folder` of the repository that no retention rule keeps."""

    folder: str


@dataclass(frozen=True, slots=True)
class ShipTask:
    """Bring what waits of a VM's `folder` to the run's repository, which is on another server."""

    folder: str


@dataclass(frozen=True, slots=True)
class AsNewVm:
    """Make a VM of another name. `disks_in` is an absolute folder; None: libvirt's image folder."""

    name: str
    disks_in: str | None = None
    start: bool = False


@dataclass(frozen=True, slots=True)
class InPlace:
    """Bring the VM itself back; `stop` has it stopped when it runs. `disks_in` is for disks libvirt does not know."""

    disks_in: str | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class ToFolder:
    """Write disks and XML to an absolute folder."""

    folder: str
    image_format: Literal["qcow2", "raw"] = "qcow2"


RestoreTarget = AsNewVm | InPlace | ToFolder


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """Bring a point back; `point` is its whole id."""

    point: str
    target: RestoreTarget


Task = BackupTask | VerifyTask | RestoreTask | PruneTask | ShipTask

_KINDS: dict[type, RunKind] = {
    BackupTask: RunKind.BACKUP,
    VerifyTask: RunKind.VERIFY,
    RestoreTask: RunKind.RESTORE,
    PruneTask: RunKind.PRUNE,
    ShipTask: RunKind.SHIP,
}
_TARGETS: dict[str, type[RestoreTarget]] = {"new-vm": AsNewVm, "in-place": InPlace, "folder": ToFolder}


def kind_of(task: Task) -> RunKind:
    """The kind of a run that is asked to do this."""
    return _KINDS[type(task)]


def is_in_place(task: Task) -> bool:
    """Whether it overwrites a VM, which a user has to confirm."""
    return isinstance(task, RestoreTask) and isinstance(task.target, InPlace)


def task_of(run: Run) -> Task:
    """What a run was asked to do. Raises BadArgumentError for one whose record does not tell."""
    if run.requested_mode is not None:
        return BackupTask(run.requested_mode)
    if run.task is None:
        raise BadArgumentError(
            phrase("the history does not tell what run {id} was asked to do", id=run.id),
            hint=phrase("Start it anew."),
        )
    return run.task


def task_as_json(task: Task) -> dict[str, Any]:
    """The documented form (docs/cli.md): `kind`, and what goes with it."""
    held: dict[str, Any] = {"kind": kind_of(task).value} | asdict(task)
    if isinstance(task, RestoreTask):
        word = next(word for word, target in _TARGETS.items() if isinstance(task.target, target))
        held["target"] = {"way": word} | asdict(task.target)
    return held


def task_from_json(held: Mapping[str, Any]) -> Task:
    """Read what `task_as_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
    facts = {key: value for key, value in held.items() if key != "kind"}
    match RunKind(held["kind"]):
        case RunKind.BACKUP:
            return BackupTask(Mode(held["mode"]))
        case RunKind.VERIFY:
            return VerifyTask(**facts)
        case RunKind.PRUNE:
            return PruneTask(**facts)
        case RunKind.SHIP:
            return ShipTask(**facts)
        case RunKind.RESTORE:
            target = dict(held["target"])
            return RestoreTask(held["point"], _TARGETS[target.pop("way")](**target))
