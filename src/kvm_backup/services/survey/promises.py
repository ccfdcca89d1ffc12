"""What the schedules promise each VM."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Promise, promises_of
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.file import ScheduleFile, Schedules
from kvm_backup.services.survey.ledger import Ledger


@dataclass(slots=True)
class PromiseWatch:
    """Reads the schedules' file when it has changed. `lasting_name` gives a schedule's repository as settings do."""

    ledger: Ledger
    file: ScheduleFile
    lasting_name: Callable[[str | None], str]
    schedules: Schedules = ()
    problem: KvmBackupError | None = None
    unusable: dict[str, tuple[Schedule, KvmBackupError]] = field(default_factory=dict)
    """Enabled schedules whose time cannot be read, by id."""
    unknown: set[str] = field(default_factory=set)
    """Names in enabled schedules that no VM of this host has."""
    _by_name: dict[str, list[Promise]] = field(default_factory=dict)
    _kept: tuple[object, ...] | None = None
    _done: tuple[tuple[object, ...], int] | None = None
    _looked: datetime | None = None

    def look(self, now: datetime) -> None:
        """Take the promises as they are now; a new one counts from now on."""
        self.schedules, self.problem = self.file.read_or_last_good()
        kept = tuple(map(_what_matters, self.schedules))
        if kept != self._kept:
            self._kept = kept
            self._read(now)
        # A clock that was set back may be at a time before promises were made.
        set_back = self._looked is not None and now < self._looked
        self._looked = now
        if self._done == (kept, self.ledger.names) and not set_back:
            return
        for record in self.ledger:
            promises = promises_of((record.name, record.uuid), self._by_name, record.promises, now)
            if promises != record.promises:
                self.ledger.put(replace(record, promises=promises))
        self._done = (kept, self.ledger.names)
        self.unknown = {name for name in self._by_name if self.ledger.find(None, name) is None}

    def _read(self, now: datetime) -> None:
        self._by_name.clear()
        self.unusable.clear()
        for schedule in self.schedules:
            if not schedule.enabled:
                continue
            try:
                timing = schedule.timing
            except KvmBackupError as error:
                self.unusable[schedule.id] = (schedule, error)
                continue
            repository = self.lasting_name(schedule.repository)
            promise = Promise(schedule.id, timing, repository, schedule.backup_mode is Mode.SNAPSHOT, now)
            for name in schedule.vm_names:
                self._by_name.setdefault(name, []).append(promise)


def _what_matters(schedule: Schedule) -> tuple[object, ...]:
    """Times and results of runs are left out: they change with each."""
    return (
        schedule.id,
        schedule.enabled,
        schedule.schedule_type,
        schedule.schedule_time,
        schedule.backup_mode,
        schedule.repository,
        schedule.vm_names,
    )
