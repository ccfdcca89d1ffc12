"""Where a page of the list of runs ends, as a text for the address of the next one: history can be millions long."""

from contextlib import suppress
from datetime import datetime

from kvm_backup.domain.run import Run


def place_of(run: Run) -> str:
    """The place behind a run: when it was asked for, and its id."""
    return f"{run.created.isoformat()}~{run.id}"


def parse_place(text: str) -> tuple[datetime, str] | None:
    """What `place_of` wrote, for `History.newest`; None for anything else."""
    created, _separator, run_id = text.partition("~")
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(created)
        return (moment, run_id) if moment.tzinfo is not None and run_id else None
    return None
