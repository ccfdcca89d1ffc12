"""Sums of runs by day, and samples of space, so that plots and calendars need not read the history.

`count_run` is part of the transaction in which a run ends; `backfill` adds up what ended before the tables existed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    case,
    cast,
    delete,
    extract,
    func,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import DAYS, HOSTS, RUNS, SPACE, VM_DAYS, storable
from kvm_backup.domain.chain import is_amiss
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.run import RunKind, RunState

CALENDAR_DAYS = 60
"""How long what each VM did on each day is kept."""
_THINNED_AFTER = timedelta(days=60)
_QUARTER = 900
"""Seconds: no zone's clock differs from UTC by less, so that runs of one quarter of an hour end on one day."""
_BATCH = 500
_FINAL = [state for state in RunState if state.final]


@dataclass(frozen=True, slots=True)
class DaySums:
    """What runs that ended on a day came to, in all repositories. Sizes in bytes."""

    day: date
    succeeded: int = 0
    failed: int = 0
    """With those that were interrupted."""
    cancelled: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class VmDay:
    """What the backups of one VM came to that were asked for on one day.

    `last` is how the last one ended; one that was cancelled counts for that only where there is no other.
    """

    runs: int
    failed: int
    demoted: int
    """Succeeded as full ones though an incremental was asked for."""
    last: RunState


@dataclass(frozen=True, slots=True)
class RunTotal:
    """All runs of a kind in a repository, as far as they were ever counted. Sizes in bytes."""

    repository: str
    kind: RunKind
    succeeded: int
    failed: int
    cancelled: int
    bytes_read: int
    bytes_stored: int
    seconds: int


def count_run(connection: Connection, run: Row[Any], zone: ZoneInfo) -> None:
    """Add a run that has just ended, with its columns as they are now."""
    _add(connection, DAYS, _sums_of(run, zone))
    if run.kind is RunKind.BACKUP:
        _add(connection, VM_DAYS, _vm_day_of(run, zone))


def _sums_of(run: Row[Any], zone: ZoneInfo) -> dict[str, Any]:
    took = run.ended - run.started if run.started is not None else timedelta()
    return {
        "host": run.host,
        "day": _day(run.ended, zone),
        "repository": run.repository,
        "kind": run.kind,
        "succeeded": int(run.state is RunState.SUCCEEDED),
        "failed": int(run.state in (RunState.FAILED, RunState.INTERRUPTED)),
        "cancelled": int(run.state is RunState.CANCELLED),
        "bytes_read": run.bytes_read,
        "bytes_stored": run.bytes_stored,
        "seconds": max(round(took.total_seconds()), 0),
    }


def _vm_day_of(run: Row[Any], zone: ZoneInfo) -> dict[str, Any]:
    return {
        "host": run.host,
        "vm": run.vm_uuid or run.vm_name,
        "day": _day(run.created, zone),
        "runs": 1,
        "failed": int(run.state in (RunState.FAILED, RunState.INTERRUPTED)),
        "demoted": int(run.state is RunState.SUCCEEDED and is_amiss(run.reason)),
        "state": run.state,
    }


def _add(connection: Connection, table: Any, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Add numbers to those of the row that there is; the state replaces it, unless it tells of a cancel."""
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    key = [column.name for column in table.primary_key]
    changes = {
        name: table.c[name] + insert.excluded[name]
        if isinstance(table.c[name].type, Integer)
        else case((insert.excluded[name] == RunState.CANCELLED, table.c[name]), else_=insert.excluded[name])
        for name in table.c.keys()  # noqa: SIM118 - of a table's columns, not of a dict
        if name not in key
    }
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changes), values)


class Statistics:
    """The sums and samples of one host. `zone` says where days begin. Every method raises DatabaseError."""

    def __init__(self, database: Database, host: str, zone: ZoneInfo) -> None:
        self._database = database
        self._host = storable(host)
        self._zone = zone

    def today(self, now: datetime) -> date:
        """The day that it is at `now` in the zone of the sums."""
        return now.astimezone(self._zone).date()

    # What pages ask

    def days(self, first: date, last: date, kind: RunKind = RunKind.BACKUP) -> list[DaySums]:
        """One entry for each day, also for those on which nothing ended."""
        names = ("succeeded", "failed", "cancelled", "bytes_read", "bytes_stored", "seconds")
        query = (
            select(DAYS.c.day, *(func.sum(DAYS.c[name]).label(name) for name in names))
            .where(DAYS.c.host == self._host, DAYS.c.day.between(first.isoformat(), last.isoformat()))
            .where(DAYS.c.kind == kind)
            .group_by(DAYS.c.day)
        )
        with self._database.transaction() as connection:
            found = {row.day: {name: int(row._mapping[name]) for name in names} for row in connection.execute(query)}
        every_day = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return [DaySums(day, **found.get(day.isoformat(), {})) for day in every_day]

    def vm_days(self, keys: Iterable[str], first: date, last: date) -> dict[str, dict[date, VmDay]]:
        """What the backups of some VMs came to, by VM and day; `keys` are UUIDs, and names where none is known."""
        wanted = [storable(key) for key in keys]
        between = VM_DAYS.c.day.between(first.isoformat(), last.isoformat())
        found: dict[str, dict[date, VmDay]] = {}
        with self._database.transaction() as connection:
            for at in range(0, len(wanted), _BATCH):
                some = VM_DAYS.c.vm.in_(wanted[at : at + _BATCH])
                for row in connection.execute(select(VM_DAYS).where(VM_DAYS.c.host == self._host, some, between)):
                    day = VmDay(row.runs, row.failed, row.demoted, row.state)
                    found.setdefault(row.vm, {})[date.fromisoformat(row.day)] = day
        return found

    def totals(self) -> list[RunTotal]:
        """All that was ever counted, by repository and kind."""
        names = [name for name in RunTotal.__dataclass_fields__ if name not in ("repository", "kind")]
        key = (DAYS.c.repository, DAYS.c.kind)
        query = select(*key, *(func.sum(DAYS.c[name]).label(name) for name in names))
        with self._database.transaction() as connection:
            rows = connection.execute(query.where(DAYS.c.host == self._host).group_by(*key).order_by(*key))
            return [
                RunTotal(row.repository, row.kind, **{name: int(row._mapping[name]) for name in names})
                for row in rows
            ]

    def space(self, since: datetime) -> dict[str, list[SpaceSample]]:
        """The samples of each repository since then, oldest first; the newest one also when it is older."""
        newest = select(SPACE.c.repository, func.max(SPACE.c.at)).where(SPACE.c.host == self._host)
        newest = newest.group_by(SPACE.c.repository)
        wanted = (SPACE.c.at >= since) | tuple_(SPACE.c.repository, SPACE.c.at).in_(newest)
        query = select(SPACE).where(SPACE.c.host == self._host, wanted).order_by(SPACE.c.repository, SPACE.c.at)
        found: dict[str, list[SpaceSample]] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(query):
                found.setdefault(row.repository, []).append(SpaceSample(row.at, row.used, row.free, row.total))
        return found

    # What the service writes

    def sample_space(self, samples: Mapping[str, SpaceSample]) -> None:
        """Keep a sample of each repository, by its name, in the place of one of the same time."""
        rows = [
            {
                "host": self._host,
                "repository": name,
                "at": sample.at,
                "used": sample.used,
                "free": sample.free,
                "total": sample.total,
            }
            for name, sample in samples.items()
        ]
        if not rows:
            return
        with self._database.transaction(write=True) as connection:
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            statement = insert(SPACE)
            newer = {name: statement.excluded[name] for name in ("used", "free", "total")}
            key = [column.name for column in SPACE.primary_key]
            connection.execute(statement.on_conflict_do_update(index_elements=key, set_=newer), rows)

    def backfill(self, now: datetime) -> bool:
        """Add up the runs that ended before anybody counted, once; whether it had to be done."""
        with self._database.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":
                # Runs that end meanwhile wait, so that each is counted once.
                connection.execute(text("LOCK TABLE run_days, vm_days IN EXCLUSIVE MODE"))
            counted = select(HOSTS.c.counted).where(HOSTS.c.host == self._host)
            if connection.execute(counted).scalar_one_or_none() is not None:
                return False
            connection.execute(delete(DAYS).where(DAYS.c.host == self._host))
            connection.execute(delete(VM_DAYS).where(VM_DAYS.c.host == self._host))
            self._backfill_days(connection)
            self._backfill_vm_days(connection, now)
            insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(HOSTS)
            connection.execute(
                insert.on_conflict_do_update(index_elements=["host"], set_={"counted": now}),
                {"host": self._host, "counted": now},
            )
        return True

    def forget(self, now: datetime, keep: timedelta) -> None:
        """Drop samples that are older than `keep`, thin those older than 60 days to the last of each day, and drop
        old days of the calendar. The sums by day stay: they are few, and what they sum up is gone."""
        with self._database.transaction(write=True) as connection:
            mine = SPACE.c.host == self._host
            connection.execute(delete(SPACE).where(mine, SPACE.c.at < now - keep))
            old = select(SPACE.c.repository, SPACE.c.at).where(mine, SPACE.c.at < now - _THINNED_AFTER)
            rows = list(connection.execute(old.order_by(SPACE.c.at)))
            last = {(row.repository, _day(row.at, self._zone)): row.at for row in rows}
            kept = {(repository, at) for (repository, _), at in last.items()}
            gone = [(row.repository, row.at) for row in rows if (row.repository, row.at) not in kept]
            for at in range(0, len(gone), _BATCH):
                some = tuple_(SPACE.c.repository, SPACE.c.at).in_(gone[at : at + _BATCH])
                connection.execute(delete(SPACE).where(mine, some))
            first_day = self.today(now) - timedelta(days=CALENDAR_DAYS)
            connection.execute(
                delete(VM_DAYS).where(VM_DAYS.c.host == self._host, VM_DAYS.c.day < first_day.isoformat())
            )

    def _backfill_days(self, connection: Connection) -> None:
        quarter = (_epoch(connection, RUNS.c.ended) // _QUARTER).label("quarter")
        took = _epoch(connection, RUNS.c.ended) - _epoch(connection, func.coalesce(RUNS.c.started, RUNS.c.ended))

        def counted(*states: RunState) -> ColumnElement[Any]:
            return func.sum(case((RUNS.c.state.in_(states), 1), else_=0))

        query = (
            select(
                quarter,
                RUNS.c.repository,
                RUNS.c.kind,
                counted(RunState.SUCCEEDED).label("succeeded"),
                counted(RunState.FAILED, RunState.INTERRUPTED).label("failed"),
                counted(RunState.CANCELLED).label("cancelled"),
                func.sum(RUNS.c.bytes_read).label("bytes_read"),
                func.sum(RUNS.c.bytes_stored).label("bytes_stored"),
                func.sum(case((took > 0, took), else_=0)).label("seconds"),
            )
            .where(RUNS.c.host == self._host, RUNS.c.ended.is_not(None), RUNS.c.state.in_(_FINAL))
            .group_by(quarter, RUNS.c.repository, RUNS.c.kind)
        )
        rows = []
        for row in connection.execute(query):
            values = row._mapping
            numbers = {name: int(values[name]) for name in values if name not in ("quarter", "repository", "kind")}
            ended = datetime.fromtimestamp(int(row.quarter) * _QUARTER, UTC)
            key = {"host": self._host, "day": _day(ended, self._zone), "repository": row.repository, "kind": row.kind}
            rows.append(key | numbers)
        if rows:
            _add(connection, DAYS, rows)

    def _backfill_vm_days(self, connection: Connection, now: datetime) -> None:
        names = ("host", "vm_uuid", "vm_name", "created", "state", "reason")
        query = select(*(RUNS.c[name] for name in names)).where(
            RUNS.c.host == self._host,
            RUNS.c.kind == RunKind.BACKUP,
            RUNS.c.state.in_(_FINAL),
            RUNS.c.created >= now - timedelta(days=CALENDAR_DAYS),
        )
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for run in connection.execute(query.order_by(RUNS.c.ended)):
            new = _vm_day_of(run, self._zone)
            old = rows.setdefault((new["vm"], new["day"]), new)
            if old is not new:
                state = old["state"] if run.state is RunState.CANCELLED else run.state
                old.update({name: old[name] + new[name] for name in ("runs", "failed", "demoted")}, state=state)
        if rows:
            _add(connection, VM_DAYS, list(rows.values()))


def _epoch(connection: Connection, moment: Any) -> Any:
    """Seconds since 1970 of a column that holds a time in UTC."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(extract("epoch", moment)), BigInteger)
    return cast(func.strftime("%s", moment), Integer)


def _day(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).date().isoformat()
