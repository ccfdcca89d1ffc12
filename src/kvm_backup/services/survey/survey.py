"""The survey: one look after the other at libvirt, schedules, runs and repositories, written into the inventory."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from kvm_backup.database.history import History
from kvm_backup.database.inventory import Inventory
from kvm_backup.database.statistics import Statistics
from kvm_backup.domain.alert import Away, Damage, Place, Situation, Subject, SubjectKind
from kvm_backup.domain.errors import DamagedPointError, KvmBackupError
from kvm_backup.domain.inventory import HostFacts, RunFacts
from kvm_backup.domain.run import Run, RunKind, RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.task import PruneTask, VerifyTask
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.services.schedules.file import ScheduleFile
from kvm_backup.services.shipping.facts import ShippingFacts
from kvm_backup.services.survey.ledger import Ledger
from kvm_backup.services.survey.points import PointWatch, Repositories
from kvm_backup.services.survey.promises import PromiseWatch
from kvm_backup.services.survey.runs import RunWatch, after
from kvm_backup.services.survey.vms import VmWatch, is_time

_REPOSITORIES_EVERY = timedelta(hours=1)
_CHANGES_EVERY = timedelta(seconds=30)
_DAMAGED = DamagedPointError.code


@dataclass(slots=True)
class Survey:
    """Looks at everything that has changed or whose turn it is. Used by one thread of the service.

    `repositories` gives what opens each repository that settings or schedules name; `folders` are places of this
    program that must not fill up, by what they are for; `reserve` is in bytes; `settings_problem` tells why the
    settings are not those of their file; `shipping` is what is known of points on their way to other servers.
    """

    host: str
    inventory: Inventory
    statistics: Statistics
    history: History
    ledger: Ledger
    vms: VmWatch
    points: PointWatch
    runs: RunWatch
    promises: PromiseWatch
    repositories: Callable[[Iterable[Schedule]], Repositories]
    folders: Mapping[str, Path]
    reserve: int
    keep: timedelta
    settings_problem: Callable[[], KvmBackupError | None] = lambda: None
    shipping: ShippingFacts | None = None
    revision: int = 0
    """Another one once a VM's row was written."""
    _settings: KvmBackupError | None = None
    _examined_at: datetime | None = None
    _compared_at: datetime | None = None
    _written: HostFacts = field(default_factory=HostFacts)
    _strangers: dict[str, RunFacts] = field(default_factory=dict)
    _asked_for: set[str] = field(default_factory=set)

    @property
    def examined(self) -> datetime | None:
        """When all repositories were last looked through."""
        return self.vms.facts.examined

    def begin(self, now: datetime, damages: Iterable[Damage] = ()) -> None:
        """Take up what the database holds; `damages` are those that were known before. Raises DatabaseError."""
        self.statistics.backfill(now)
        self.points.damages.update({(damage.repository, damage.point): damage for damage in damages})
        self.ledger.load()
        self._written = self.vms.facts = self.inventory.host_facts()

    def look(self, now: datetime) -> bool:
        """One look; whether anything that pages show or alerts are made of has changed.

        Raises KvmBackupError; the next look goes on.
        """
        self.vms.look(now)
        self.promises.look(now)
        ended = self._take_runs(now)
        problem = self.settings_problem()
        news = problem is not self._settings
        self._settings = problem
        if is_time(self._examined_at, _REPOSITORIES_EVERY, now):
            self._examined_at = now
            self._look_through(now)
        elif ended:
            self._look_at_vms_of(ended, now)
        if self.shipping is not None and ended:
            self.shipping.look_at(ended)
            self.shipping.note_arrivals(ended)
        if is_time(self._compared_at, _CHANGES_EVERY, now):
            self._compared_at = now
            self._look_at_changes(now)
        changed = self.ledger.save(now)
        self.revision += changed
        if self.vms.facts != self._written:
            self.inventory.note_host(self.vms.facts)
            self._written = self.vms.facts
        # The run of a VM that nobody knows changes no row, and yet what alerts are made of.
        return changed or bool(ended) or news

    def situation(self) -> Situation:
        """What alerts are made of, as of the last look."""
        libvirt = None
        if self.vms.away is not None:
            libvirt = _away(Subject(SubjectKind.HOST, self.host), self.vms.away)
        problem = self.promises.problem
        file = self.promises.file.path
        return Situation(
            vms=self.ledger,
            strangers=self._strangers,
            places=list(self._places()),
            damages=list(self.points.damages.values()),
            libvirt=libvirt,
            repositories_away=[
                _away(Subject(SubjectKind.REPOSITORY, name), error) for name, error in self.points.away.items()
            ],
            schedules_file=None if problem is None else _away(Subject(SubjectKind.HOST, self.host), problem, file),
            remotes=() if self.shipping is None else self.shipping.states(),
            settings_file=None
            if self._settings is None
            else _away(Subject(SubjectKind.HOST, self.host), self._settings),
            unusable_schedules=[
                _away(Subject(SubjectKind.SCHEDULE, schedule.name, schedule.id), error)
                for schedule, error in self.promises.unusable.values()
            ],
        )

    def _look_through(self, now: datetime) -> None:
        self.points.look_through(self.repositories(self.promises.schedules), now)
        self.statistics.sample_space(self.points.samples)
        self.statistics.forget(now, self.keep)
        self.vms.facts = replace(self.vms.facts, examined=now)

    def _look_at_changes(self, now: datetime) -> None:
        """Commands in other processes prune, rescan and back up, too."""
        repositories = self.repositories(self.promises.schedules)
        changes = self.points.look_at_changes(repositories, now, self._examined_at or now)
        self.statistics.sample_space(self.points.samples)
        if self.shipping is not None:
            self.shipping.look_at_changes(changes)

    def _take_runs(self, now: datetime) -> list[Run]:
        """Note what has ended; those runs."""
        ended = list(self.runs.ended(now))
        for run in ended:
            self._take_verification(run)
            if run.kind is RunKind.RESTORE:
                self.vms.look_again()
            record = self.ledger.find(run.vm_uuid, run.vm_name)
            if record is not None and run.kind is RunKind.BACKUP:
                self.ledger.put(replace(record, runs=after(record.runs, run)))
        unknown = self.promises.unknown
        if ended or unknown != self._asked_for:
            self._asked_for = unknown
            self._strangers = self._runs_of_strangers(unknown)
        return ended

    def _look_at_vms_of(self, ended: Iterable[Run], now: datetime) -> None:
        """Look at the VMs of runs, and at the folders where points of theirs may have come or gone."""
        folders: dict[tuple[str, str, str], None] = {}
        for run in ended:
            record = self.ledger.find(run.vm_uuid, run.vm_name)
            if record is None or run.kind not in (RunKind.BACKUP, RunKind.PRUNE):
                continue
            folder = (run.point or record.points.last_point or "").partition("/")[0]
            if isinstance(run.task, PruneTask):
                folder = run.task.folder
            if folder:
                folders[run.repository, folder, record.uuid] = None
        for uuid in {uuid for _, _, uuid in folders}:
            self.vms.look_at(uuid)
        if folders:
            self.points.look_at(self.repositories(self.promises.schedules), folders, now)

    def _take_verification(self, run: Run) -> None:
        task = run.task
        if isinstance(task, VerifyTask) and (run.state is RunState.SUCCEEDED or run.error_code == _DAMAGED):
            # One line for each damaged point: its id, and what was found.
            lines = (run.detail or "").splitlines() if run.error_code == _DAMAGED else []
            damaged = dict(line.split(": ", 1) for line in lines if ": " in line)
            self.points.verified(run.repository, task.folder, task.point, damaged, deep=task.deep)

    def _runs_of_strangers(self, names: set[str]) -> dict[str, RunFacts]:
        """Of VMs that schedules name and that nobody knows, those whose last run failed."""
        last = self.history.last_of_vms(names)
        return {name: facts for name, run in last.items() if (facts := after(RunFacts(), run)).failed_run is not None}

    def _places(self) -> Iterator[Place]:
        for name, root in self.points.roots.items():
            yield from _place(Subject(SubjectKind.REPOSITORY, name), root, self.reserve)
        for purpose, folder in self.folders.items():
            yield from _place(Subject(SubjectKind.FOLDER, purpose), folder, self.reserve)


def make_survey(
    *,
    host: str,
    zone: ZoneInfo,
    inventory: Inventory,
    statistics: Statistics,
    history: History,
    schedule_file: ScheduleFile,
    hypervisor: Callable[[], Hypervisor],
    excluded_disks: Callable[[Vm], frozenset[str]],
    catalogue: Callable[[], Catalogue],
    repositories: Callable[[Iterable[Schedule]], Repositories],
    lasting_name: Callable[[str | None], str],
    folders: Mapping[str, Path],
    reserve: int,
    keep: timedelta,
    settings_problem: Callable[[], KvmBackupError | None] = lambda: None,
    shipping: ShippingFacts | None = None,
) -> Survey:
    """Put a survey together from its watches, which share one ledger."""
    ledger = Ledger(inventory, zone)
    return Survey(
        host=host,
        inventory=inventory,
        statistics=statistics,
        history=history,
        ledger=ledger,
        vms=VmWatch(ledger, hypervisor, excluded_disks),
        points=PointWatch(ledger, catalogue, shipping.mirror_if_known if shipping else lambda _name: None),
        runs=RunWatch(ledger, history, host),
        promises=PromiseWatch(ledger, schedule_file, lasting_name),
        repositories=repositories,
        folders=folders,
        reserve=reserve,
        keep=keep,
        settings_problem=settings_problem,
        shipping=shipping,
    )


def _place(subject: Subject, path: Path, reserve: int) -> Iterator[Place]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return  # not made yet, or away, which another alert tells
    yield Place(subject, str(path), usage.free, usage.total, reserve)


def _away(subject: Subject, error: KvmBackupError, path: Path | None = None) -> Away:
    return Away(subject, error.message, error.hint, None if path is None else str(path))
