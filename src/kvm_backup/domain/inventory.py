"""What the service knows of a VM: a row of the inventory. Values only; times in UTC, sizes in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Newest, Promise, Protection
from kvm_backup.domain.run import RunState
from kvm_backup.domain.vm import VmState


@dataclass(frozen=True, slots=True)
class VmDisk:
    """A disk of a VM, and why it is not saved if it is not."""

    target: str
    format: str
    virtual_size: int | None = None
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class PointFacts:
    """The restore points of a VM in all repositories. `last_…` is the newest that is whole and holds data."""

    last_point: str | None = None
    last_point_at: datetime | None = None
    last_point_mode: Mode | None = None
    last_point_repository: str | None = None
    last_snapshot_at: datetime | None = None
    chain_length: int = 0
    """Links of the newest point's chain, itself included."""
    points: int = 0
    bytes_stored: int = 0
    newest: Mapping[str, Newest] = field(default_factory=dict)
    """By the name of the repository."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The last backup of a VM that ended; and, until one succeeds, the one that failed last."""

    last_run: str | None = None
    last_run_state: RunState | None = None
    last_run_at: datetime | None = None
    last_run_error_code: str | None = None
    failed_run: str | None = None
    failed_at: datetime | None = None
    failed_runs: int = 0
    """How many failed since one succeeded."""
    error: str | None = None
    error_code: str | None = None
    hint: str | None = None
    usual: timedelta = timedelta()
    """How long its scheduled runs take, waiting in the queue included."""


@dataclass(frozen=True, slots=True)
class VmRecord:
    """One VM of this host. `gone_since` is when libvirt was first found without it; what is known of it is then as it
    was before, and `state` is None where libvirt never had it: its points are here."""

    uuid: str
    name: str
    state: VmState | None = None
    gone_since: datetime | None = None
    disks: tuple[VmDisk, ...] = ()
    virtual_size: int = 0
    """Of the disks that are saved, together."""
    points: PointFacts = PointFacts()
    runs: RunFacts = RunFacts()
    promises: tuple[Promise, ...] = ()
    protection: Protection = Protection.UNSCHEDULED
    overdue: bool = False
    promised: datetime | None = None
    missed: datetime | None = None
    next_due: datetime | None = None

    @property
    def gone(self) -> bool:
        return self.gone_since is not None

    @property
    def schedule_ids(self) -> tuple[str, ...]:
        return tuple(promise.schedule_id for promise in self.promises)


@dataclass(frozen=True, slots=True)
class ProtectionCounts:
    """How many VMs of this host are how well protected; gone ones are counted by themselves."""

    protected: int = 0
    late: int = 0
    overdue: int = 0
    never: int = 0
    unscheduled: int = 0
    pending: int = 0
    gone: int = 0

    @property
    def total(self) -> int:
        """All that libvirt has."""
        return self.protected + self.late + self.overdue + self.never + self.unscheduled + self.pending


@dataclass(frozen=True, slots=True)
class HostFacts:
    """When this host was last looked at."""

    listed: datetime | None = None
    """When libvirt's list was last read."""
    away_since: datetime | None = None
    """Since when libvirt does not answer; what is known of VMs is as of `listed`."""
    away_error: str | None = None
    examined: datetime | None = None
    """When all repositories were last looked through."""
