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
    _seen: dict[str, datetime] = field(default_factory=dict)

    def ended(self, now: datetime) -> Iterator[Run]:
        """Each run once, in the order of their ends. Raises DatabaseError."""
        if self._from is None:
            self._begin(now)
            assert self._from is not None
        self._from = min(self._from, now)  # the clock was set back: what ends now would be no news
        since, last = self._from - _OVERLAP, None
        while since != last:
            found = self.history.ended_since(self.host, since, limit=_AT_ONCE)
            for run in found:
                assert run.ended is not None
                self._from = max(self._from, run.ended)
                if run.id not in self._seen:
                    self._seen[run.id] = run.ended
                    yield run
            last = since
            if len(found) == _AT_ONCE and found[-1].ended is not None:
                since = found[-1].ended
        self._seen = {id_: ended for id_, ended in self._seen.items() if ended >= self._from - _OVERLAP}

    def _begin(self, now: datetime) -> None:
        known = {record.runs.last_run: record.runs.last_run_at for record in self.ledger}
        self._seen = {id_: ended for id_, ended in known.items() if id_ is not None and ended is not None}
        self._from = max(self._seen.values(), default=now - _FIRST_REACH)


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
