"""What a run is asked to do, whoever does it; it survives the process as JSON."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.domain.task import BackupTask, Task, is_in_place, kind_of, task_as_json, task_from_json

_MOMENT = slice(8, 20)
"""Where an id of `asked_run_id` has its time."""
RETRY_WAITS = (120.0, 600.0, 1800.0)
"""Seconds before the first, second and third try after a failure that another try can mend: all within the hour."""
SHIP_WAITS = (15.0, 60.0, 300.0, 900.0, 1800.0)
"""Seconds before each further try to ship; the last one for all that follow, until it works."""
LONGEST_WAIT = max(RETRY_WAITS + SHIP_WAITS)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One task on one VM. Times are in UTC.

    `attempt` is what the history counts from, more than 1 where a user has an earlier run done again; `retry` counts
    the failures of this run before this try. `asked_by` is the name of the user who asked, where one is known. `far`:
    the repository is on another server.
    """

    run_id: str
    host: str
    vm: str
    task: Task
    repository: str
    trigger: Trigger
    created: datetime
    vm_uuid: str | None = None
    asked_by: str | None = None
    schedule_id: str | None = None
    schedule_name: str | None = None
    due: datetime | None = None
    late: bool = False
    attempt: int = 1
    retry: int = 0
    far: bool = False
    pre_script: tuple[str, ...] = ()
    post_script: tuple[str, ...] = ()

    @property
    def kind(self) -> RunKind:
        """What kind of run this is."""
        return kind_of(self.task)

    @property
    def mode(self) -> Mode | None:
        """The mode of a backup."""
        return self.task.mode if isinstance(self.task, BackupTask) else None

    @property
    def requested_mode(self) -> str | None:
        """The mode of a backup, as events tell it."""
        return self.mode.value if self.mode else None

    @property
    def workflow_id(self) -> str:
        """What makes a run be started once, however many ask for it."""
        if self.schedule_id is not None and self.due is not None and self.trigger is Trigger.SCHEDULE:
            name = scheduled_id(self.host, self.schedule_id, self.due, self.vm)
        else:
            name = f"run:{self.run_id[_MOMENT]}:{self.run_id}"
        return f"{name}:again:{self.retry}" if self.retry else name

    @property
    def crosses_link(self) -> bool:
        """Whether it does little else than wait for a link, which must keep no VM from being backed up.

        A restore in place is about its VM: no backup of that VM begins meanwhile.
        """
        return self.kind is RunKind.SHIP or (self.far and not is_in_place(self.task))

    @property
    def queue_partition(self) -> str:
        """Of the runs that share it, one goes on at a time: those on one VM, what ships one VM to one server, and
        what reads one VM's points from there."""
        if not self.crosses_link:
            return self.vm
        return f"{'ship' if self.kind is RunKind.SHIP else 'read'}:{self.repository}:{self.vm}"

    def retry_wait(self, *, can_help: bool) -> float | None:
        """Seconds until the next try after a failure, or None when there is none; `can_help`: the error says so.

        What is to be shipped waits for as long as it takes: also for a key that somebody has to put back.
        """
        if self.kind is RunKind.SHIP:
            return SHIP_WAITS[min(self.retry, len(SHIP_WAITS) - 1)]
        if not can_help or self.trigger is not Trigger.SCHEDULE or self.retry >= len(RETRY_WAITS):
            return None
        return RETRY_WAITS[self.retry]

    def again(self) -> Self:
        """The request for the next try."""
        return replace(self, retry=self.retry + 1)

    def as_run(self) -> Run:
        """The row that the history gets before the run begins."""
        return Run(
            id=self.run_id,
            vm_name=self.vm,
            kind=self.kind,
            trigger=self.trigger,
            host=self.host,
            repository=self.repository,
            requested_mode=self.mode,
            state=RunState.QUEUED,
            created=self.created,
            vm_uuid=self.vm_uuid,
            task=None if isinstance(self.task, BackupTask) else self.task,
            schedule_id=self.schedule_id,
            schedule_name=self.schedule_name,
            due=self.due,
            late=self.late,
            attempt=self.attempt,
        )

    def as_json(self) -> dict[str, Any]:
        held = asdict(self)
        return held | {
            "task": task_as_json(self.task),
            "created": self.created.isoformat(),
            "due": self.due.isoformat() if self.due else None,
            "pre_script": list(self.pre_script),
            "post_script": list(self.post_script),
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what `as_json` gave, also that of an older version; keys that this version lacks are ignored."""
        known = {key: value for key, value in held.items() if key in {field.name for field in fields(cls)}}
        # The first version knew backups only, and held their mode in place of a task.
        task = task_from_json(held["task"]) if "task" in held else BackupTask(Mode(held["mode"]))
        return cls(
            **known
            | {
                "task": task,
                "trigger": Trigger(held["trigger"]),
                "created": datetime.fromisoformat(held["created"]),
                "due": datetime.fromisoformat(held["due"]) if held.get("due") else None,
                "pre_script": tuple(held.get("pre_script", ())),
                "post_script": tuple(held.get("post_script", ())),
            }
        )


def asked_run_id(now: datetime, random_bytes: Callable[[int], bytes]) -> str:
    """The id of a run that somebody asks for: 32 hexadecimal digits, of which the first eight tell most runs apart.

    The time is in the middle. Runs of one VM that are asked for in the same second begin in the order of their
    workflow ids, and so as they were asked for.
    """
    return f"{random_bytes(4).hex()}{round(now.timestamp() * 1000):012x}{random_bytes(6).hex()}"


def scheduled_id(host: str, schedule_id: str, due: datetime, vm: str) -> str:
    """The workflow id of a due time of a schedule for one VM.

    The host is in it because hosts that share a database may have copies of one file of schedules.
    """
    return f"schedule:{host}:{schedule_id}:{due.astimezone(UTC).isoformat()}:{vm}"


def scheduled_run_id(host: str, schedule_id: str, due: datetime, vm: str) -> str:
    """The run's id for a due time: the same whoever computes it, so that the history holds it once too.

    The due time stands last: lists show the beginnings of ids, and those of one due time must differ early.
    """
    stamp = due.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{hashlib.sha256(scheduled_id(host, schedule_id, due, vm).encode()).hexdigest()[:12]}-{stamp}"
