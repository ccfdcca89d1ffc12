"""What a service that died left in the history, made true again."""

from collections.abc import Callable
from datetime import datetime, timedelta

from kvm_backup.database.history import History
from kvm_backup.domain.run import RunState
from kvm_backup.services.own_runs import OwnRuns, interrupted

_JUST_MADE = timedelta(minutes=2)
"""A run gets its row just before it is queued; it is not taken for lost in between."""


def mark_lost_runs(
    history: History,
    own_runs: OwnRuns,
    live_runs: Callable[[], set[str]],
    *,
    host: str,
    now: datetime,
    say: Callable[[str], None],
    settled: Callable[[str | None], None],
) -> None:
    """Mark runs of this host as interrupted that nobody does or will do: commands that were killed, and what the
    queue knows nothing of (its database was lost). `settled` is told the schedule of each. Raises DatabaseError,
    StorageError, and what `settled` raises.
    """
    own_runs.sweep(history)
    unfinished = [run for run in history.unfinished_of(host) if abs(now - run.created) > _JUST_MADE]
    if not unfinished:
        return
    looked_after = live_runs() | own_runs.ids()
    for run in unfinished:
        if run.id not in looked_after and history.finish(run.id, RunState.INTERRUPTED, interrupted(run)):
            say(f"run {run.id} of {run.vm_name} was interrupted and is not in the queue: marked so")
            settled(run.schedule_id)
