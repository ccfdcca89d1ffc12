"""What the first page shows, from tables that the service keeps: no VM, manifest or repository is asked."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kvm_backup.database.history import History
from kvm_backup.database.inventory import Inventory, VmFilter, VmSort
from kvm_backup.database.statistics import DaySums, Statistics
from kvm_backup.domain.alert import Alert, AlertKind
from kvm_backup.domain.calendar import Cell
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.growth import WINDOW, SpaceSample, full_in_days, growth_per_day
from kvm_backup.domain.inventory import HostFacts, ProtectionCounts, VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import Run, RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.alerts import AlertService
from kvm_backup.services.calendar import WEEKS, CalendarService
from kvm_backup.services.schedules.file import ScheduleFile

_VMS = 15
_ALERTS = 10
_GOING = 6
_COMING = 6


@dataclass(frozen=True, slots=True)
class RepositorySpace:
    """The space of a repository as last sampled; `growth` in bytes a day, both None where that cannot be told."""

    name: str
    last: SpaceSample
    growth: float | None
    full_in_days: float | None
    samples: Sequence[SpaceSample]
    """Of the last 30 days, oldest first."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows, as of `now`."""

    now: datetime
    host: HostFacts
    protection: ProtectionCounts
    first_due: datetime | None
    """The first time of the soonest of the VMs that are not backed up yet, None without one."""
    vms: Sequence[VmRecord]
    """Those that libvirt has, the worst protected first, some of them."""
    calendar: Mapping[str, Sequence[Cell]]
    """Of these VMs, by UUID."""
    alerts: Sequence[Alert]
    """What nobody has acknowledged, the most severe first, some of it."""
    unacknowledged: int
    going: Sequence[Run]
    """Running, then queued and waiting, some of them; without their steps."""
    running: int
    queued: int
    waiting: int
    coming: Sequence[Schedule]
    """The schedules that are due next, soonest first."""
    schedules: int
    schedules_enabled: int
    schedules_problem: KvmBackupError | None
    """Why the schedules' file cannot be read; what is shown is then as it last could be."""
    repositories_away: int
    """How many did not answer when they were last looked at: what is known of their points is older."""
    space: Sequence[RepositorySpace]
    days: Sequence[DaySums]
    """Backups by the day they ended, the oldest first, today last."""


@dataclass(frozen=True, slots=True)
class OverviewService:
    """`read` is one call with about a dozen short queries."""

    inventory: Inventory
    statistics: Statistics
    history: History
    alerts: AlertService
    calendar: CalendarService
    schedule_file: ScheduleFile
    host: str
    clock: Callable[[], datetime]

    def read(self, weeks: int = WEEKS) -> Overview:
        """Raises DatabaseError."""
        now = self.clock()
        today = self.statistics.today(now)
        vms = self.inventory.page(VmFilter(gone=False), sort=VmSort.PROTECTION, limit=_VMS)
        pending = self.inventory.page(VmFilter(protection=Protection.PENDING), sort=VmSort.NEXT_DUE, limit=1)
        schedules, problem = self.schedule_file.read_or_last_good()
        counted = self.history.counts_unfinished(self.host)
        return Overview(
            now=now,
            host=self.inventory.host_facts(),
            protection=self.inventory.counts(),
            first_due=next((vm.missed or vm.next_due for vm in pending), None),
            vms=vms,
            calendar=self.calendar.of(vms, weeks),
            alerts=self.alerts.open(acknowledged=False, limit=_ALERTS),
            unacknowledged=self.alerts.count_open_unacknowledged(),
            going=self.history.going(self.host, limit=_GOING),
            running=counted[RunState.RUNNING],
            queued=counted[RunState.QUEUED],
            waiting=counted[RunState.WAITING],
            coming=next_due(schedules, _COMING),
            schedules=len(schedules),
            schedules_enabled=sum(schedule.enabled for schedule in schedules),
            schedules_problem=problem,
            repositories_away=sum(
                count for (kind, _), count in self.alerts.counts().items() if kind is AlertKind.REPOSITORY_AWAY
            ),
            space=self.space(now),
            days=self.statistics.days(today - timedelta(days=7 * weeks - 1), today),
        )

    def space(self, now: datetime) -> list[RepositorySpace]:
        """The repositories and how they grow, by name. Raises DatabaseError."""
        found = []
        for name, samples in self.statistics.space(now - WINDOW).items():
            growth = growth_per_day(samples)
            last = samples[-1]
            found.append(RepositorySpace(name, last, growth, full_in_days(last.free, growth), samples))
        return found


def next_due(schedules: Sequence[Schedule], count: int) -> list[Schedule]:
    """The enabled schedules that are due next."""
    planned = [(schedule.next_run, schedule.name, schedule) for schedule in schedules if schedule.enabled]
    soonest = heapq.nsmallest(
        count, [(moment, name, place) for place, (moment, name, _) in enumerate(planned) if moment is not None]
    )
    return [planned[place][2] for _, _, place in soonest]
