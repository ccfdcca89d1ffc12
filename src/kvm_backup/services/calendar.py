"""The calendar of the last weeks for the VMs of one page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from kvm_backup.database.history import History
from kvm_backup.database.statistics import Statistics, VmDay
from kvm_backup.domain.calendar import Cell, cell_of, days_of
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.protection import USUAL_MIN
from kvm_backup.domain.run import RunKind
from kvm_backup.domain.timing import Timing, due_days

WEEKS = 5


@dataclass(frozen=True, slots=True)
class CalendarService:
    """Makes calendars. Every method raises DatabaseError."""

    statistics: Statistics
    history: History
    host: str
    zone: ZoneInfo
    clock: Callable[[], datetime]

    def of(self, vms: Sequence[VmRecord], weeks: int = WEEKS) -> dict[str, list[Cell]]:
        """The cells of each VM by its UUID, the oldest day first, today last."""
        now = self.clock()
        today = self.statistics.today(now)
        days = days_of(today - timedelta(days=7 * weeks - 1), today)
        keys = {key for vm in vms for key in (vm.uuid, vm.name)}
        found = self.statistics.vm_days(keys, days[0], days[-1])
        going = self.history.unfinished_among(self.host, keys)
        running = {key for run in going if run.kind is RunKind.BACKUP for key in (run.vm_uuid, run.vm_name)}
        cells = {}
        for vm in vms:
            due = self._was_due(vm, days[0], today, now)
            own = _together(found.get(vm.name, {}), found.get(vm.uuid, {}))
            goes_on = vm.uuid in running or vm.name in running
            cells[vm.uuid] = [
                _cell(day, own.get(day), running=goes_on and day == today, was_due=day in due) for day in days
            ]
        return cells

    def _was_due(self, vm: VmRecord, first: date, today: date, now: datetime) -> set[date]:
        """Days on which a schedule was due since it promises points to the VM; today only when one is missing."""
        due: set[date] = set()
        for promise in vm.promises:
            since = promise.since.astimezone(self.zone).date()
            due |= {day for day in _due_days(promise.timing, first, today, self.zone) if since < day < today}
        if vm.missed is not None and now - vm.missed >= USUAL_MIN:
            due.add(today)
        return due


@lru_cache(maxsize=4096)
def _due_days(timing: Timing, first: date, last: date, zone: ZoneInfo) -> frozenset[date]:
    return frozenset(due_days(timing, first, last, zone))


def _together(by_name: dict[date, VmDay], by_uuid: dict[date, VmDay]) -> dict[date, VmDay]:
    """A run that ended before the VM's UUID was known is kept by its name; the other verdict is the better known."""
    both = dict(by_name)
    for day, own in by_uuid.items():
        other = both.get(day)
        if other is not None:
            own = VmDay(own.runs + other.runs, own.failed + other.failed, own.demoted + other.demoted, own.last)
        both[day] = own
    return both


def _cell(day: date, known: VmDay | None, *, running: bool, was_due: bool) -> Cell:
    if known is None:
        return cell_of(day, last=None, runs=0, failed=0, demoted=0, running=running, was_due=was_due)
    return cell_of(
        day,
        last=known.last,
        runs=known.runs,
        failed=known.failed,
        demoted=known.demoted,
        running=running,
        was_due=was_due,
    )
