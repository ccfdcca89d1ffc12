"""The rows of the list of schedules: searched, filtered, sorted, a page at a time."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kvm_backup.database.history import Batch, History
from kvm_backup.domain.run import RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.state import ScheduleState, state_of

PAGE = 50
VMS_SHOWN = 3
_WORST_FIRST = (
    RunState.FAILED,
    RunState.INTERRUPTED,
    RunState.WAITING,
    RunState.RUNNING,
    RunState.QUEUED,
    RunState.CANCELLED,
    RunState.SUCCEEDED,
)
_SORTS: dict[str, Callable[[Schedule], Any]] = {
    "next": lambda schedule: schedule.next_run,
    "name": lambda schedule: schedule.name.casefold(),
    "last": lambda schedule: schedule.last_run,
}
_Found = tuple[Schedule, ScheduleState]
SORTS = tuple(order for name in _SORTS for order in (name, f"-{name}"))
"""A minus turns the order round."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which schedules to list; an empty text is no condition."""

    search: str = ""
    state: str = ""
    type: str = ""
    sort: str = "next"
    page: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """How many runs of a schedule's last time are in a state; `run` is one of them."""

    state: RunState
    count: int
    run: str


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule. `results` are of its last time, the worst first."""

    schedule: Schedule
    state: ScheduleState
    results: Sequence[Result] = ()
    asked: datetime | None = None
    """When its last runs were asked for."""

    @property
    def vms(self) -> tuple[str, ...]:
        """The first of its VMs."""
        return self.schedule.vm_names[:VMS_SHOWN]

    @property
    def more_vms(self) -> int:
        """How many others it has."""
        return len(self.schedule.vm_names) - len(self.vms)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of the list. `counts` are of the states, before one of them was chosen."""

    rows: Sequence[Row]
    page: int
    pages: int
    total: int
    counts: Mapping[ScheduleState, int]
    known: int
    """Schedules in all, before anything was searched."""


def listing(schedules: Sequence[Schedule], wish: Wish, history: History) -> Listing:
    """Raises DatabaseError."""
    running = {run.schedule_id for run in history.pulse().running if run.schedule_id is not None}
    text = wish.search.strip().casefold()
    found = [
        (schedule, state_of(schedule, running))
        for schedule in schedules
        if (not wish.type or schedule.schedule_type.casefold() == wish.type)
        and (not text or _matches(schedule, text))
    ]
    counts = Counter(state for _schedule, state in found)
    wanted = [(schedule, state) for schedule, state in found if not wish.state or state == wish.state]
    wanted = _sorted(wanted, wish.sort)
    pages = max(1, -(-len(wanted) // PAGE))
    page = min(wish.page, pages)
    shown = wanted[(page - 1) * PAGE : page * PAGE]
    batches = history.last_batches(schedule.id for schedule, _state in shown)
    rows = [_row(schedule, state, batches.get(schedule.id)) for schedule, state in shown]
    return Listing(rows, page, pages, len(wanted), counts, len(schedules))


def _sorted(found: Sequence[_Found], order: str) -> list[_Found]:
    """In the order of a column; equal ones by name, and those that have nothing there last, whichever way."""
    column = _SORTS[order.removeprefix("-")]
    by_name = sorted(found, key=lambda one: one[0].name.casefold())
    having = [one for one in by_name if column(one[0]) is not None]
    having.sort(key=lambda one: column(one[0]), reverse=order.startswith("-"))
    return having + [one for one in by_name if column(one[0]) is None]


def one_row(schedule: Schedule, history: History) -> Row:
    """The row of one schedule. Raises DatabaseError."""
    running = {run.schedule_id for run in history.pulse().running if run.schedule_id is not None}
    return _row(schedule, state_of(schedule, running), history.last_batches([schedule.id]).get(schedule.id))


def _row(schedule: Schedule, state: ScheduleState, batch: Batch | None) -> Row:
    if batch is None:
        return Row(schedule, state)
    results = [
        Result(reached, batch.counts[reached], batch.examples[reached])
        for reached in _WORST_FIRST
        if reached in batch.counts
    ]
    return Row(schedule, state, results, batch.created)


def _matches(schedule: Schedule, text: str) -> bool:
    names: Collection[str] = (schedule.name, *schedule.vm_names)
    return schedule.id.startswith(text) or any(text in name.casefold() for name in names)
