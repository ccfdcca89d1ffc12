"""The history: every run and its steps. Each call is one short transaction, and moves a run only as allowed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Connection,
    Row,
    Text,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy import column as sql_column
from sqlalchemy import values as sql_values
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.statistics import count_run
from kvm_backup.database.tables import RUNS, STEPS, Moment, storable
from kvm_backup.domain.errors import CancelledError, InterruptedRunError, RemoteUnreachableError, RunNotFoundError
from kvm_backup.domain.names import is_uuid
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, RunStep, states_before
from kvm_backup.domain.waiting import ShippingTrouble

_UTC = ZoneInfo("UTC")
_CLOCK_SLACK = timedelta(minutes=5)
"""How far the clocks of hosts that share a database may be apart."""
_BATCH = 500
_MATCHES_SHOWN = 3
_VMS_ONE_BY_ONE = 8
_UNFINISHED = [state for state in RunState if not state.final]
_SUMMARY_FIELDS = [field.name for field in fields(Run) if field.name != "steps"]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; `vm` is a name or a UUID, `since` and `until` are times of creation, the last one excluded.

    `vms` are names or UUIDs of which any will do; none of them lists nothing.
    """

    vm: str | None = None
    state: RunState | None = None
    schedule_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    kind: RunKind | None = None
    vms: tuple[str, ...] | None = None
    states: tuple[RunState, ...] | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What goes on. `mark` differs from that of an earlier look once a run was added, moved or went to another step;
    progress alone leaves it as it is. `running` are without their steps."""

    mark: tuple[object, ...]
    running: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of a schedule that were asked for together, at `created`: how many are in a state, and one of each."""

    created: datetime
    counts: Mapping[RunState, int]
    examples: Mapping[RunState, str]


class History:
    """Runs in the database. `clock` gives the time in UTC; `zone` says where days begin, by which runs are counted.

    Every method raises DatabaseError when the database is away.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime], zone: ZoneInfo = _UTC) -> None:
        self._database = database
        self._clock = clock
        self._zone = zone

    # Writing

    def create(self, run: Run) -> Run:
        """Add a run. Where its id is there already nothing changes; returned is what the history holds."""
        values = {name: getattr(run, name) for name in _SUMMARY_FIELDS}
        with self._database.transaction(write=True) as connection:
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            connection.execute(insert(RUNS).values(values).on_conflict_do_nothing())
            return _whole(connection, run.id)

    def create_all(self, runs: Sequence[Run]) -> dict[str, RunState]:
        """Add runs as `create` does, some in each transaction; the states that the history holds, by id."""
        states: dict[str, RunState] = {}
        for at in range(0, len(runs), _BATCH):
            rows = [{name: getattr(run, name) for name in _SUMMARY_FIELDS} for run in runs[at : at + _BATCH]]
            with self._database.transaction(write=True) as connection:
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                connection.execute(insert(RUNS).on_conflict_do_nothing(), rows)
                held = select(RUNS.c.id, RUNS.c.state).where(RUNS.c.id.in_([row["id"] for row in rows]))
                states |= {row.id: row.state for row in connection.execute(held)}
        return states

    def start(self, run_id: str) -> bool:
        """A run that was queued or waiting runs from now on; the next attempt begins where it was waiting.

        False when it did not move: it runs already, it ended, or it was cancelled before it began.
        """
        now = self._clock()
        waiting = RUNS.c.state == RunState.WAITING
        return self._move(
            run_id,
            RunState.RUNNING,
            now,
            attempt=case((waiting, RUNS.c.attempt + 1), else_=RUNS.c.attempt),
            started=func.coalesce(RUNS.c.started, now),
            retry_at=None,
            step=None,
            done=0,
            total=0,
            **asdict(RunResult()),
        )

    def step_started(self, run_id: str, name: str) -> None:
        """The step before it has ended by that."""
        now = self._clock()
        with self._database.transaction(write=True) as connection:
            _end_step(connection, run_id, now)
            moved = connection.execute(
                update(RUNS).where(RUNS.c.id == run_id, RUNS.c.state == RunState.RUNNING).values(step=name)
            )
            if moved.rowcount:
                last = select(func.coalesce(func.max(STEPS.c.number), 0)).where(STEPS.c.run_id == run_id)
                number = connection.execute(last).scalar_one() + 1
                connection.execute(STEPS.insert().values(run_id=run_id, number=number, name=name, started=now))

    def hasten(self, run_id: str) -> bool:
        """The next try of a run that waits is due now. False when it does not wait."""
        query = update(RUNS).where(RUNS.c.id == run_id, RUNS.c.state == RunState.WAITING)
        with self._database.transaction(write=True) as connection:
            return bool(connection.execute(query.values(retry_at=self._clock())).rowcount)

    def decided(self, run_id: str, result: RunResult) -> None:
        """What kind of point is being made, known before it is."""
        self._note(run_id, mode=result.mode, reason=result.reason, detail=result.detail)

    def progress(self, run_id: str, done: int, total: int) -> None:
        """Bytes copied so far, and to copy. Call it about once a second, not more."""
        self._note(run_id, done=done, total=total)

    def identified(self, run_id: str, vm_name: str, vm_uuid: str) -> None:
        """Which VM it is, where the run was asked for by another word (its UUID)."""
        self._note(run_id, vm_name=vm_name, vm_uuid=vm_uuid)

    def finish(self, run_id: str, state: RunState, result: RunResult) -> bool:
        """A final state. False when the run is in one already, or never ran and so cannot have succeeded."""
        if not state.final:
            raise ValueError(f"{state} is no final state")
        now = self._clock()
        return self._move(run_id, state, now, ended=now, retry_at=None, **asdict(result))

    def wait(self, run_id: str, retry_at: datetime, result: RunResult) -> bool:
        """This attempt failed, another follows. False when the run does not run."""
        return self._move(run_id, RunState.WAITING, self._clock(), retry_at=retry_at, **asdict(result))

    def request_cancel(self, run_id: str) -> RunState:
        """A run that has not begun, or waits, is cancelled now; one that runs is asked to end. Returns its state.

        Raises RunNotFoundError.
        """
        idle = RUNS.c.state.in_([RunState.QUEUED, RunState.WAITING])
        with self._database.transaction(write=True) as connection:
            ended = connection.execute(
                update(RUNS)
                .where(RUNS.c.id == run_id, idle)
                .values(
                    state=RunState.CANCELLED,
                    ended=self._clock(),
                    retry_at=None,
                    cancel_requested=True,
                    # Whoever waits for it takes a run without an error for one that made a point.
                    error=func.coalesce(RUNS.c.error, phrase("the run was cancelled before it began")),
                    error_code=func.coalesce(RUNS.c.error_code, CancelledError.code),
                    hint=func.coalesce(RUNS.c.hint, phrase("Nothing was done.")),
                )
                .returning(*RUNS.c)
            ).first()
            if ended is not None:
                count_run(connection, ended, self._zone)
            connection.execute(
                update(RUNS)
                .where(RUNS.c.id == run_id, RUNS.c.state == RunState.RUNNING)
                .values(cancel_requested=True)
            )
            return _whole(connection, run_id).state

    def delete_older_than(self, moment: datetime) -> int:
        """Forget runs that were created before and have ended, some at a time; returns how many."""
        deleted = 0
        final = RUNS.c.state.in_([state for state in RunState if state.final])
        some = select(RUNS.c.id).where(RUNS.c.created < moment, final).limit(_BATCH)
        while True:
            with self._database.transaction(write=True) as connection:
                now_deleted = connection.execute(delete(RUNS).where(RUNS.c.id.in_(some))).rowcount
            deleted += now_deleted
            if now_deleted < _BATCH:
                return deleted

    # Reading

    def cancel_requested(self, run_id: str) -> bool:
        """Whether somebody wants the run to end."""
        with self._database.transaction() as connection:
            wish = select(RUNS.c.cancel_requested).where(RUNS.c.id == run_id)
            return bool(connection.execute(wish).scalar_one_or_none())

    def get(self, reference: str) -> Run:
        """A run with its steps, by its id or a beginning of it. Raises RunNotFoundError (none, or several)."""
        wanted = storable(reference)
        with self._database.transaction() as connection:
            if wanted and _exists(connection, wanted):
                return _whole(connection, wanted)
            matches = _beginning_with(connection, wanted) if wanted else []
            if len(matches) == 1:
                return _whole(connection, matches[0])
        if not matches:
            raise _not_found(reference)
        ids = ", ".join(matches[:_MATCHES_SHOWN]) + (", …" if len(matches) > _MATCHES_SHOWN else "")
        raise RunNotFoundError(
            phrase("several runs begin with {reference!r}: {ids}", reference=reference, ids=ids),
            hint=phrase("Give more of the id."),
        )

    def newest(
        self, which: RunFilter = RunFilter(), *, limit: int = 50, older_than: tuple[datetime, str] | None = None
    ) -> list[Run]:
        """Runs without their steps, newest first; `older_than` is the creation and the id of the last one shown."""
        query = _filtered(which)
        if older_than is not None:
            place = tuple_(literal(older_than[0], Moment), literal(storable(older_than[1])))
            query = query.where(tuple_(RUNS.c.created, RUNS.c.id) < place)
        query = _newest_of(query, which.vms, limit).order_by(RUNS.c.created.desc(), RUNS.c.id.desc()).limit(limit)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query)]

    def horizon(self) -> datetime:
        """What is later than that was noted while a clock was ahead: it says nothing of what is newest."""
        return self._clock() + _CLOCK_SLACK

    def pulse(self) -> Pulse:
        """What goes on now; cheap enough to be asked each second, however long the history is."""
        states = (RunState.QUEUED, RunState.WAITING)
        counted = [
            select(func.count()).select_from(RUNS).where(RUNS.c.state == state).scalar_subquery() for state in states
        ]
        newest = select(RUNS.c.id).order_by(RUNS.c.created.desc(), RUNS.c.id.desc()).limit(1)
        going = _select().where(RUNS.c.state == RunState.RUNNING).order_by(RUNS.c.created, RUNS.c.id)
        with self._database.transaction() as connection:
            idle = connection.execute(select(newest.scalar_subquery(), *counted)).one()
            running = tuple(_run(row) for row in connection.execute(going))
        moves = tuple((run.id, run.attempt, run.step, run.mode, run.cancel_requested) for run in running)
        return Pulse((*idle, moves), running)

    def ended_since(self, host: str, moment: datetime, *, limit: int = 1000) -> list[Run]:
        """Runs of a host that ended at that moment or later, up to the horizon, in the order of their ends."""
        ended = RUNS.c.ended.between(moment, self.horizon())
        query = _select().where(RUNS.c.host == storable(host), ended)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query.order_by(RUNS.c.ended, RUNS.c.id).limit(limit))]

    def unfinished_of(self, host: str) -> list[Run]:
        """Runs of a host that have not ended, oldest first: what a service that starts has to look after."""
        query = _select().where(RUNS.c.state.in_(_UNFINISHED), RUNS.c.host == host)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query.order_by(RUNS.c.created, RUNS.c.id))]

    def going(self, host: str, *, limit: int) -> list[Run]:
        """Some runs of a host that have not ended: those that run first, then by state, the oldest first."""
        found: list[Run] = []
        with self._database.transaction() as connection:
            for state in (RunState.RUNNING, RunState.QUEUED, RunState.WAITING):
                query = _select().where(RUNS.c.state == state, RUNS.c.host == storable(host))
                query = query.order_by(RUNS.c.created, RUNS.c.id).limit(limit - len(found))
                found += [_run(row) for row in connection.execute(query)]
        return found

    def counts_unfinished(self, host: str) -> dict[RunState, int]:
        """How many runs of a host are in each state that is not final."""
        query = select(RUNS.c.state, func.count()).where(RUNS.c.state.in_(_UNFINISHED), RUNS.c.host == storable(host))
        with self._database.transaction() as connection:
            rows = connection.execute(query.group_by(RUNS.c.state))
            counted = {state: int(number) for state, number in rows}
        return {state: counted.get(state, 0) for state in _UNFINISHED}

    def shipping_troubles(self, host: str) -> list[ShippingTrouble]:
        """Why runs of a host that ship wait for another try, by remote and cause, but for a stop of the service."""
        waits = (RUNS.c.state == RunState.WAITING, RUNS.c.host == storable(host), RUNS.c.kind == RunKind.SHIP)
        failed = (RUNS.c.error_code.is_not(None), RUNS.c.error_code != InterruptedRunError.code)
        grouped = (
            select(
                func.max(RUNS.c.id).label("id"),
                func.count().label("runs"),
                func.sum(RUNS.c.attempt).label("failures"),
                func.min(RUNS.c.retry_at).label("next_try"),
            )
            .where(*waits, *failed)
            .group_by(RUNS.c.repository, RUNS.c.error_code)
            .subquery()
        )
        query = select(
            RUNS.c.repository,
            RUNS.c.id,
            RUNS.c.error,
            RUNS.c.error_code,
            RUNS.c.hint,
            grouped.c.runs,
            grouped.c.failures,
            type_coerce(grouped.c.next_try, Moment).label("next_try"),
        ).join_from(grouped, RUNS, RUNS.c.id == grouped.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(RUNS.c.repository, RUNS.c.error_code))
            return [
                ShippingTrouble(
                    row.repository,
                    row.id,
                    row.error or "",
                    row.error_code,
                    row.hint or "",
                    int(row.runs),
                    int(row.failures),
                    row.next_try,
                )
                for row in rows
            ]

    def unreached(self, host: str, remote: str, after: datetime, *, limit: int) -> list[str]:
        """The ids of runs that wait until after that moment because a remote was not reached, the oldest first."""
        query = (
            select(RUNS.c.id)
            .where(RUNS.c.state == RunState.WAITING, RUNS.c.host == storable(host), RUNS.c.kind == RunKind.SHIP)
            .where(RUNS.c.repository == storable(remote), RUNS.c.error_code == RemoteUnreachableError.code)
            .where(RUNS.c.retry_at > after)
        )
        with self._database.transaction() as connection:
            return list(connection.execute(query.order_by(RUNS.c.created, RUNS.c.id).limit(limit)).scalars())

    def running(self, host: str, kind: RunKind) -> list[Run]:
        """The runs of a kind that go on, the oldest first."""
        query = _select().where(RUNS.c.state == RunState.RUNNING, RUNS.c.host == storable(host), RUNS.c.kind == kind)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query.order_by(RUNS.c.created, RUNS.c.id))]

    def unfinished_among(self, host: str, vms: Iterable[str]) -> list[Run]:
        """Those that have not ended of some VMs of a host, by names or UUIDs, oldest first."""
        wanted = sorted({storable(vm) for vm in vms})
        among = RUNS.c.vm_name.in_(wanted) | RUNS.c.vm_uuid.in_(wanted)
        query = _select().where(RUNS.c.state.in_(_UNFINISHED), RUNS.c.host == storable(host), among)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query.order_by(RUNS.c.created, RUNS.c.id))]

    def last_of_schedules(self, schedule_ids: Iterable[str]) -> dict[str, Run]:
        """The newest run, up to the horizon, of each schedule that has one."""
        return self._last(RUNS.c.schedule_id, schedule_ids)

    def last_batches(self, schedule_ids: Iterable[str]) -> dict[str, Batch]:
        """What the last time, up to the horizon, of each schedule came to that has runs."""
        found: dict[str, Batch] = {}
        wanted = sorted({storable(key) for key in schedule_ids})
        for at in range(0, len(wanted), _BATCH):
            each = _keys(wanted[at : at + _BATCH])
            created = select(RUNS.c.created).where(RUNS.c.schedule_id == each.c.key, self._no_later()).correlate(each)
            created = created.order_by(RUNS.c.created.desc(), RUNS.c.id.desc()).limit(1)
            newest = select(each.c.key, created.scalar_subquery().label("created")).cte("newest")
            query = (
                select(newest.c.key, newest.c.created, RUNS.c.state, func.count(), func.min(RUNS.c.id))
                .join_from(newest, RUNS, (RUNS.c.schedule_id == newest.c.key) & (RUNS.c.created == newest.c.created))
                .group_by(newest.c.key, newest.c.created, RUNS.c.state)
            )
            with self._database.transaction() as connection:
                for key, moment, state, count, example in connection.execute(query):
                    batch = found.get(key, Batch(moment, {}, {}))
                    found[key] = Batch(moment, {**batch.counts, state: count}, {**batch.examples, state: example})
        return found

    def last_of_vms(self, names: Iterable[str]) -> dict[str, Run]:
        """The newest run, up to the horizon, of each VM that has one, by the VM's name."""
        return self._last(RUNS.c.vm_name, names)

    def _no_later(self) -> Any:
        return RUNS.c.created <= self.horizon()

    def _last(self, column: Any, keys: Iterable[str]) -> dict[str, Run]:
        found: dict[str, Run] = {}
        wanted = sorted({storable(key) for key in keys})
        for at in range(0, len(wanted), _BATCH):
            each = _keys(wanted[at : at + _BATCH])
            # One look into the column's index for each key, however many runs it has.
            newest = select(RUNS.c.id).where(column == each.c.key, self._no_later()).correlate(each)
            newest = newest.order_by(RUNS.c.created.desc(), RUNS.c.id.desc()).limit(1)
            query = _select().where(RUNS.c.id.in_(select(newest.scalar_subquery()).select_from(each)))
            with self._database.transaction() as connection:
                runs = [_run(row) for row in connection.execute(query.order_by(RUNS.c.id))]
            found |= {getattr(run, column.name): run for run in runs}
        return found

    # Both

    def _move(self, run_id: str, state: RunState, now: datetime, **values: Any) -> bool:
        with self._database.transaction(write=True) as connection:
            moved = connection.execute(
                update(RUNS)
                .where(RUNS.c.id == run_id, RUNS.c.state.in_(states_before(state)))
                .values(state=state, **values)
                .returning(*RUNS.c)
            ).first()
            if moved is not None:
                _end_step(connection, run_id, now)
                if state.final:
                    count_run(connection, moved, self._zone)
            return moved is not None

    def _note(self, run_id: str, **values: Any) -> None:
        with self._database.transaction(write=True) as connection:
            connection.execute(
                update(RUNS).where(RUNS.c.id == run_id, RUNS.c.state == RunState.RUNNING).values(**values)
            )


def _select() -> Any:
    return select(*(RUNS.c[name] for name in _SUMMARY_FIELDS))


def _keys(keys: Sequence[str]) -> Any:
    return sql_values(sql_column("key", Text), name="wanted").data([(key,) for key in keys]).cte("wanted")


def _filtered(which: RunFilter) -> Any:
    query = _select()
    if which.vm is not None:
        column = RUNS.c.vm_uuid if is_uuid(which.vm) else RUNS.c.vm_name
        query = query.where(column == storable(which.vm))
    if which.state is not None:
        query = query.where(RUNS.c.state == which.state)
    if which.schedule_id is not None:
        query = query.where(RUNS.c.schedule_id == storable(which.schedule_id))
    if which.since is not None:
        query = query.where(RUNS.c.created >= which.since)
    if which.until is not None:
        query = query.where(RUNS.c.created < which.until)
    if which.kind is not None:
        query = query.where(RUNS.c.kind == which.kind)
    if which.states is not None:
        query = query.where(RUNS.c.state.in_(which.states))
    return query


def _newest_of(query: Any, vms: Sequence[str] | None, limit: int) -> Any:
    """The query for runs of some VMs, by names or UUIDs: at least its newest ones."""
    if vms is None:
        return query
    wanted = sorted({storable(vm) for vm in vms})
    if not 0 < len(wanted) <= _VMS_ONE_BY_ONE:
        return query.where(or_(RUNS.c.vm_name.in_(wanted), RUNS.c.vm_uuid.in_(wanted)))
    # Each one's newest from its index: to sort all runs of a VM takes the longer, the more there are.
    each = [
        query.with_only_columns(RUNS.c.id)
        .where(column == key)
        .order_by(RUNS.c.created.desc(), RUNS.c.id.desc())
        .limit(limit)
        .subquery()
        for column in (RUNS.c.vm_name, RUNS.c.vm_uuid)
        for key in wanted
    ]
    return query.where(RUNS.c.id.in_(union_all(*(select(one.c.id) for one in each))))


def _exists(connection: Connection, run_id: str) -> bool:
    return connection.execute(select(RUNS.c.id).where(RUNS.c.id == run_id)).first() is not None


def _beginning_with(connection: Connection, text: str) -> list[str]:
    """Ids, some more than are shown. A range, which both databases look up in the index of the key."""
    query = select(RUNS.c.id).where(RUNS.c.id >= text, RUNS.c.id < text + "\U0010ffff")
    return list(connection.execute(query.order_by(RUNS.c.id).limit(_MATCHES_SHOWN + 1)).scalars())


def _whole(connection: Connection, run_id: str) -> Run:
    row = connection.execute(_select().where(RUNS.c.id == run_id)).first()
    if row is None:
        raise _not_found(run_id)
    steps = select(STEPS.c.name, STEPS.c.started, STEPS.c.ended).where(STEPS.c.run_id == run_id)
    rows = connection.execute(steps.order_by(STEPS.c.number))
    return _run(row, tuple(RunStep(step.name, step.started, step.ended) for step in rows))


def _run(row: Row[Any], steps: tuple[RunStep, ...] = ()) -> Run:
    return Run(**row._mapping, steps=steps)


def _end_step(connection: Connection, run_id: str, now: datetime) -> None:
    connection.execute(update(STEPS).where(STEPS.c.run_id == run_id, STEPS.c.ended.is_(None)).values(ended=now))


def _not_found(reference: str) -> RunNotFoundError:
    return RunNotFoundError(
        phrase("there is no run {reference!r}", reference=reference),
        hint=phrase("See the ids with 'kvm-backup run list'; a beginning is enough."),
    )
