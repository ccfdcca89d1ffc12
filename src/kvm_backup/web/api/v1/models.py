"""What the API takes and gives. Times are ISO 8601 in UTC, sizes in bytes, durations in seconds."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from kvm_backup.domain.alert import AlertKind, Severity, SubjectKind
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import RunKind, RunState, Trigger
from kvm_backup.domain.vm import VmState
from kvm_backup.services.schedules.state import ScheduleState

Text = Annotated[str, StringConstraints(max_length=1000)]
"""What a client sends is checked by the service; this only keeps it small."""
NameText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """Why a request was not done (RFC 9457). `code` is one of docs/errors.md, or the status in words."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None


class Page(BaseModel):
    """Where a list goes on. `total` counts all that fit the filters, from `offset` on `limit` at most were given."""

    total: int
    offset: int
    limit: int


class Disk(_Answer):
    """A disk of a VM; `left_out` is why it is not saved, if it is not."""

    target: str
    format: str
    virtual_size: int | None
    left_out: LeftOut | None


class VmPoints(_Answer):
    """The restore points of a VM in all repositories, as the service last counted them."""

    last_point: str | None
    last_point_at: datetime | None
    last_point_mode: Mode | None
    last_point_repository: str | None
    last_snapshot_at: datetime | None
    chain_length: int
    points: int
    bytes_stored: int


class VmRuns(_Answer):
    """The last backup of a VM that ended and, until one succeeds, the one that failed last."""

    last_run: str | None
    last_run_state: RunState | None
    last_run_at: datetime | None
    failed_run: str | None
    failed_at: datetime | None
    failed_runs: int
    error: str | None
    error_code: str | None
    hint: str | None


class Vm(_Answer):
    """A virtual machine. `missed` is the first due time that gave no point, `promised` the last one that should."""

    uuid: str
    name: str
    state: VmState | None
    gone_since: datetime | None
    disks: list[Disk]
    virtual_size: int
    points: VmPoints
    runs: VmRuns
    protection: Protection
    overdue: bool
    promised: datetime | None
    missed: datetime | None
    next_due: datetime | None
    schedule_ids: list[str]


class VmList(Page):
    """Some virtual machines."""

    vms: list[Vm]


class Step(_Answer):
    """One step of a run."""

    name: str
    started: datetime
    ended: datetime | None


class Run(_Answer):
    """One execution for one VM. `done` and `total` are bytes of the copy so far; `steps` are only in a run alone."""

    id: str
    kind: RunKind
    vm_name: str
    vm_uuid: str | None
    state: RunState
    trigger: Trigger
    host: str
    repository: str
    requested_mode: Mode | None
    mode: Mode | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    retry_at: datetime | None
    schedule_id: str | None
    schedule_name: str | None
    due: datetime | None
    late: bool
    attempt: int
    step: str | None
    done: int
    total: int
    point: str | None
    reason: str | None
    detail: str | None
    consistency: str | None
    bytes_read: int
    bytes_stored: int
    error: str | None
    error_code: str | None
    hint: str | None
    cancel_requested: bool
    steps: list[Step] = []


class RunList(BaseModel):
    """Some runs, the newest first. `older` gives the next page, when there is one."""

    runs: list[Run]
    older: str | None


class Log(BaseModel):
    """The lines of one run as the log holds them, oldest first."""

    lines: list[dict[str, Any]]


class Retention(_Answer):
    """How many points a schedule asks to keep; null: as the repository's rule says."""

    last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None


class Schedule(BaseModel):
    """What to back up, and when. `state` is what lists show; `ship_to` null: every server that copies its repository,
    empty: none."""

    id: str
    name: str
    vm_names: list[str]
    schedule_type: str
    schedule_time: str
    backup_mode: Mode
    enabled: bool
    state: ScheduleState
    last_run: datetime | None
    next_run: datetime | None
    created_at: datetime | None
    repository: str | None
    retention: Retention
    ship_to: list[str] | None


class ScheduleList(Page):
    """Some schedules, in the order of their file."""

    schedules: list[Schedule]


class NewSchedule(_Wanted):
    """A schedule to make; fields as `schedule add` takes them."""

    name: NameText
    vm_names: Annotated[list[NameText], Field(min_length=1, max_length=20_000)]
    schedule_type: Text
    schedule_time: Text
    backup_mode: Text = Mode.INCREMENTAL.value
    repository: Text | None = None
    keep: dict[Literal["last", "daily", "weekly", "monthly", "yearly"], int] = {}
    ship_to: Annotated[list[NameText], Field(max_length=64)] | None = None


class ScheduleChanges(_Wanted):
    """What to change about a schedule; what is left out stays."""

    name: Text | None = None
    vm_names: Annotated[list[NameText], Field(min_length=1, max_length=20_000)] | None = None
    schedule_type: Text | None = None
    schedule_time: Text | None = None
    backup_mode: Text | None = None
    repository: Text | None = None
    keep: dict[Literal["last", "daily", "weekly", "monthly", "yearly"], int | None] = {}
    ship_to: Annotated[list[NameText], Field(max_length=64)] | None = None


class DueTimes(BaseModel):
    """The next times of a schedule, enabled or not."""

    times: list[datetime]


class BackupWanted(BaseModel):
    """How to back a VM up now."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode = Mode.INCREMENTAL
    repository: Text | None = None


class Point(BaseModel):
    """One restore point. `links` counts it and those that it builds on. `foreign` as in its details.

    `elsewhere` names the repositories that hold its disks when this one does not: null means that this one does, an
    empty list that none does any more.
    """

    id: str
    repository: str
    vm: str
    vm_uuid: str
    mode: Mode
    requested_mode: Mode
    created: datetime
    parent: str | None
    consistency: str
    bytes_read: int
    bytes_stored: int
    disks: list[str]
    elsewhere: list[str] | None
    foreign: bool
    links: int


class PointList(BaseModel):
    """The points of a VM, the newest first; `problems` are repositories that cannot be looked into now."""

    points: list[Point]
    problems: dict[str, str]


class PointDetails(BaseModel):
    """All that a restore point's manifest tells (docs/repository-format.md).

    `foreign`: it is on another server, and this host, which ships there, did not bring it: whoever may write there
    may have put it there.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    vm: str
    mode: Mode
    created: datetime
    foreign: bool


class VerifyWanted(_Wanted):
    """How to check a point; `deep` also decompresses every cluster."""

    deep: bool = False


class RestoreWanted(_Wanted):
    """How to bring a point back.

    `new-vm` needs `name`; `in-place` needs `confirm`, the name of the VM whose disks are replaced; `folder` needs
    `folder`. `folder` and `disks_in` are absolute paths on the host and need the role administrator. `foreign` says
    that a point which this host did not ship is trusted; without it, restoring one is refused (409, `foreign-point`).
    """

    way: Literal["new-vm", "in-place", "folder"]
    name: Text | None = None
    start: bool = False
    confirm: Text | None = None
    stop: bool = False
    disks_in: Text | None = None
    folder: Text | None = None
    image_format: Literal["qcow2", "raw"] = "qcow2"
    foreign: bool = False


class Subject(_Answer):
    """What an alert is about."""

    kind: SubjectKind
    name: str
    uuid: str | None


class Alert(BaseModel):
    """Something that is, or was, wrong. Texts are in the language of Accept-Language."""

    id: str
    kind: AlertKind
    severity: Severity
    subject: Subject
    host: str
    raised: datetime
    last_seen: datetime
    resolved: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    title: str
    cause: str
    advice: str


class AlertList(Page):
    """Some alerts."""

    alerts: list[Alert]


class ProtectionCounts(_Answer):
    """How many VMs are how well protected."""

    protected: int
    late: int
    overdue: int
    never: int
    unscheduled: int
    pending: int
    gone: int
    total: int


class Space(BaseModel):
    """The space of a repository as last measured; `growth` is in bytes a day."""

    repository: str
    at: datetime
    used: int
    free: int
    total: int
    growth: float | None
    full_in_days: float | None


class Day(BaseModel):
    """What the backups that ended on a day came to."""

    day: str
    succeeded: int
    failed: int
    cancelled: int
    bytes_read: int
    bytes_stored: int


class Overview(BaseModel):
    """What the first page shows."""

    now: datetime
    host: str
    libvirt_listed: datetime | None
    libvirt_away_since: datetime | None
    protection: ProtectionCounts
    unacknowledged: int
    running: int
    queued: int
    waiting: int
    schedules: int
    schedules_enabled: int
    next: list[Schedule]
    space: list[Space]
    days: list[Day]


class Repository(BaseModel):
    """A place where restore points are kept: on this host, with `path`, or on another server, with `url`.

    Of one on another server the rest is as it was last known. `copy_of` is the repository on this host that is
    shipped there, null where it is only read; `bandwidth` is the limit now, in bytes a second; `unshippable_points`
    cannot go there, as what they build on is neither there nor here; `problem`, with its code and hint, is why it
    cannot be used or reached now.
    """

    name: str
    path: str | None = None
    url: str | None = None
    default: bool
    copy_of: str | None = None
    keep_local: KeepLocal | None = None
    bandwidth: int | None = None
    encrypted: bool = False
    points: int | None
    bytes_stored: int | None
    shipped_at: datetime | None = None
    waiting_points: int = 0
    waiting_bytes: int = 0
    waiting_since: datetime | None = None
    unshippable_points: int = 0
    problem: str | None
    problem_code: str | None = None
    hint: str | None = None
    retry_at: datetime | None = None


class RepositoryList(BaseModel):
    """The repositories of the settings."""

    repositories: list[Repository]


class NewRepository(_Wanted):
    """A repository on another server; fields as `repository add` takes them. `copy_of` null: the default one.

    `accepted` are the marks of host keys that somebody has compared.
    """

    name: NameText
    url: NameText
    copy_of: Text | None = None
    only_read: bool = False
    keep_local: Annotated[KeepLocal, Field(strict=False)] = KeepLocal.ALL
    bandwidth: Text | None = None
    bandwidth_hours: Annotated[list[Text], Field(max_length=20)] = []
    prune_url: Text | None = None
    recipients: Annotated[list[Text], Field(max_length=20)] = []
    accepted: Annotated[list[Text], Field(max_length=4)] = []


class HostKeyShown(BaseModel):
    """The host key of a server that is new here; nothing was added. `mark` goes into `accepted`."""

    host: str
    fingerprint: str
    mark: str


class Waiting(BaseModel):
    """What waits of one VM for one repository; `run` is the one that ships it, where one waits or goes on."""

    repository: str
    folder: str
    vm: str
    vm_uuid: str
    points: list[str]
    bytes: int
    since: datetime
    run: Run | None


class WaitingList(Page):
    """Some of what waits to be shipped."""

    waiting: list[Waiting]


class ShipWanted(_Wanted):
    """What to ship now: of one VM, by its folder, or of all."""

    folder: Text | None = None


class RunsAsked(BaseModel):
    """The runs that were queued."""

    runs: list[Run]
