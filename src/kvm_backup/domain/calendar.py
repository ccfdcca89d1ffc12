"""The calendar of the last weeks: one cell for each VM and day. Pure."""

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from kvm_backup.domain.run import RunState


class CellState(StrEnum):
    """What a VM's day was like."""

    OK = "ok"
    DEMOTED = "demoted"
    """A point was made each time, but one that should have been incremental became a full one."""
    FAILED = "failed"
    """The last backup of the day failed."""
    MISSED = "missed"
    """A schedule was due, and there was no backup."""
    CANCELLED = "cancelled"
    RUNNING = "running"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """One day of one VM. `failed` backups may have been followed by one that succeeded."""

    day: date
    state: CellState = CellState.NONE
    runs: int = 0
    failed: int = 0
    demoted: int = 0


def cell_of(
    day: date, *, last: RunState | None, runs: int, failed: int, demoted: int, running: bool, was_due: bool
) -> Cell:
    """The cell of a day: what goes on wins, then how the last backup ended."""
    if running:
        state = CellState.RUNNING
    elif last is RunState.SUCCEEDED:
        state = CellState.DEMOTED if demoted else CellState.OK
    elif last is RunState.CANCELLED:
        state = CellState.CANCELLED
    elif last is not None:
        state = CellState.FAILED
    else:
        state = CellState.MISSED if was_due else CellState.NONE
    return Cell(day, state, runs, failed, demoted)


def days_of(first: date, last: date) -> list[date]:
    """Every day from the first to the last."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
