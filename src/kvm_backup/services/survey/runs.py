"""What the runs that have ended say of their VMs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kvm_backup.database.history import History
from kvm_backup.domain.inventory import RunFacts
from kvm_backup.domain.protection import usual_time
from kvm_backup.domain.run import Run, RunState, Trigger
from kvm_backup.services.survey.ledger import Ledger

_OVERLAP = timedelta(minutes=1)
"""How long the transaction of a run may take that ended before another one that was seen already."""
_FIRST_REACH = timedelta(days=8)
"""How far back runs are read when nothing is known of any."""
_AT_ONCE = 1000


@dataclass(slots=True)
class RunWatch:
    """Finds the runs of this host that ended since it last looked, whoever did them."""

    ledger: Ledger
    history: History
    host: str
    _from: datetime | None = None
    _seen: set[str] = field(default_factory=set)

    def ended(self, now: datetime) -> Iterator[Run]:
        """Each run once, in the order of their ends. Raises DatabaseError."""
        if self._from is None:
            newest = max((record.runs.last_run_at for record in self.ledger if record.runs.last_run_at), default=None)
            self._from = now - _FIRST_REACH if newest is None else newest
            self._seen = {record.runs.last_run for record in self.ledger if record.runs.last_run}
        since = self._from - _OVERLAP
        again: set[str] = set()
        while True:
            found = self.history.ended_since(self.host, since, limit=_AT_ONCE)
            new = [run for run in found if run.id not in self._seen | again]
            again |= {run.id for run in found}
            yield from new
            if found and found[-1].ended is not None:
                self._from = max(self._from, found[-1].ended)
                since = found[-1].ended
            if len(found) < _AT_ONCE or not new:
                self._seen = again
                return


def after(before: RunFacts, run: Run) -> RunFacts:
    """What is known of a VM's backups after one more has ended. One that was cancelled says nothing of failures."""
    facts = replace(
        before,
        last_run=run.id,
        last_run_state=run.state,
        last_run_at=run.ended,
        last_run_error_code=run.error_code,
    )
    if run.state is RunState.SUCCEEDED:
        took = run.ended - run.created if run.ended is not None else timedelta()
        usual = before.usual
        if run.trigger is Trigger.SCHEDULE and run.attempt == 1:
            usual = timedelta(seconds=round(usual_time(usual, took).total_seconds()))
        return replace(
            facts,
            failed_run=None,
            failed_at=None,
            failed_runs=0,
            error=None,
            error_code=None,
            hint=None,
            usual=usual,
        )
    if run.state in (RunState.FAILED, RunState.INTERRUPTED):
        return replace(
            facts,
            failed_run=run.id,
            failed_at=run.ended,
            failed_runs=before.failed_runs + 1,
            error=run.error,
            error_code=run.error_code,
            hint=run.hint,
        )
    return facts


def facts_of_last(runs: Iterable[Run]) -> RunFacts:
    """The same of runs in their order, where nothing was known before."""
    facts = RunFacts()
    for run in runs:
        facts = after(facts, run)
    return facts
