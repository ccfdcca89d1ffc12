"""Finished runs in bulk, as the service's would be, but not written one at a time."""

import json
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from bench.fleet_host import HOST, Fleet, FleetSchedule, FleetVm
from kvm_backup.database.engine import Database
from kvm_backup.database.tables import ALERTS, RUNS, SPACE, STEPS
from kvm_backup.domain.alert import AlertKind, Severity, SubjectKind
from kvm_backup.domain.names import stamp, vm_folder
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunKind, RunState, Trigger

_BATCH = 20_000
_AGAIN = phrase("Wait until it has ended, then try again.")
_STEPS = ("prepare", "begin", "copy", "publish", "advance")
_STEPS_OF_DAYS = 7
"""Only newer runs get steps: they are looked up run by run, and would be five million rows."""

_FAILURES = (
    ("vm-busy", phrase("another run works on this VM (process {holder})", holder=4321), _AGAIN),
    ("vm-busy", phrase("VM {vm} already has a backup job ({server})", vm="a", server="nbd"), _AGAIN),
)
_DEMOTIONS = ("checkpoint-missing", "bitmap-inconsistent", "disk-added", "chain-broken")


def bulk_insert_runs(database: Database, fleet: Fleet, count: int, now: datetime) -> int:
    """About `count` runs back in time from `now`, as the schedules would have started them; how many were made."""
    chance = random.Random(fleet.seed + 2)
    made: list[tuple[Any, ...]] = list(islice(_runs(fleet, now, chance), count))
    made.sort(key=lambda run: run[_PLACE["created"]])
    recent = now - timedelta(days=_STEPS_OF_DAYS)
    steps = (step for run in made if run[_PLACE["created"]] > recent for step in _steps_of(run))
    _bulk(database, RUNS, made)
    _bulk(database, STEPS, steps)
    return len(made)


def space_samples(database: Database, now: datetime, used: int, folder: Path) -> None:
    """Hourly for 60 days and daily before, of a repository that has grown to `used` bytes on the disk of a folder."""
    disk = shutil.disk_usage(folder)
    rows = []
    for hours in [*range(60 * 24), *range(60 * 24, 360 * 24, 24)]:
        since = min(hours * (used // 3000), used * 3 // 4)
        free = min(disk.free + since, disk.total)
        rows.append((HOST, "default", now - timedelta(hours=hours), used - since, free, disk.total))
    _bulk(database, SPACE, rows)


def resolved_alerts(database: Database, fleet: Fleet, now: datetime, count: int = 20_000) -> None:
    """Alerts that are over."""
    chance = random.Random(fleet.seed + 3)

    def rows() -> Iterator[tuple[Any, ...]]:
        for _ in range(count):
            vm = chance.choice(fleet.vms)
            raised = now - timedelta(seconds=chance.randrange(3600, 300 * 86400))
            resolved = raised + timedelta(hours=chance.randrange(1, 48))
            values: dict[str, Any] = {
                "id": f"{chance.getrandbits(128):032x}",
                "host": HOST,
                "kind": chance.choice((AlertKind.RUN_FAILED, AlertKind.OVERDUE, AlertKind.RUN_LATE)),
                "severity": Severity.CRITICAL,
                "rank": 0,
                "subject_kind": SubjectKind.VM,
                "subject_key": vm.uuid,
                "subject_name": vm.name,
                "subject_uuid": vm.uuid,
                "raised": raised,
                "last_seen": resolved,
                "resolved": resolved,
                "facts": json.dumps({"error": _FAILURES[0][1]}),
            }
            yield tuple(values.get(name) for name in ALERTS.c.keys())  # noqa: SIM118 - of columns

    _bulk(database, ALERTS, rows())


_COLUMNS = RUNS.c.keys()
_PLACE = {name: place for place, name in enumerate(_COLUMNS)}


def _runs(fleet: Fleet, now: datetime, chance: random.Random) -> Iterator[tuple[Any, ...]]:
    """Day by day into the past, without end."""
    day = 0
    while True:
        midnight = (now - timedelta(days=day)).replace(hour=0, minute=0, second=0, microsecond=0)
        for schedule in fleet.schedules:
            for due in _due_on(schedule, midnight):
                if due > now - timedelta(minutes=5):
                    continue
                for vm in schedule.vms:
                    if not vm.never or day < 3:
                        yield _run(schedule, vm, due, chance, failing=vm.never or (vm.fails and day < 3))
        day += 1


def _due_on(schedule: FleetSchedule, midnight: datetime) -> Iterable[datetime]:
    timing = schedule.timing
    if schedule.type == "hourly":
        return [midnight + timedelta(hours=hour, minutes=timing.minute) for hour in range(24)]
    if schedule.type == "weekly" and midnight.weekday() != timing.weekday:
        return []
    if schedule.type == "monthly" and midnight.day != timing.day:
        return []
    return [midnight + timedelta(hours=timing.hour, minutes=timing.minute)]


def _run(
    schedule: FleetSchedule, vm: FleetVm, due: datetime, chance: random.Random, *, failing: bool
) -> tuple[Any, ...]:
    created = due + timedelta(seconds=chance.uniform(0.5, 2.0))
    started = created + timedelta(seconds=chance.expovariate(1 / 60))
    ended = started + timedelta(seconds=5 + chance.expovariate(1 / 40))
    draw = chance.random()
    state = RunState.SUCCEEDED
    if failing or draw < 0.012:
        state = RunState.FAILED
    elif draw < 0.015:
        state = RunState.CANCELLED
    elif draw < 0.017:
        state = RunState.INTERRUPTED
    values: dict[str, Any] = {
        "id": f"{chance.getrandbits(128):032x}",
        "vm_name": vm.name,
        "vm_uuid": vm.uuid,
        "kind": RunKind.BACKUP,
        "trigger": Trigger.SCHEDULE,
        "host": HOST,
        "repository": "default",
        "requested_mode": schedule.mode,
        "state": state,
        "created": created,
        "schedule_id": schedule.id,
        "schedule_name": schedule.name,
        "due": due,
        "late": draw > 0.998,
        "attempt": 1,
        "started": started,
        "ended": ended,
        "done": 0,
        "total": 0,
        "bytes_read": 0,
        "bytes_stored": 0,
        "cancel_requested": state is RunState.CANCELLED,
    }
    if state is RunState.SUCCEEDED:
        demoted = chance.random() < 0.01
        read = int(vm.size * (0.4 if demoted else 0.01) * chance.uniform(0.5, 1.5))
        values |= {
            "step": "advance",
            "done": read,
            "total": read,
            "mode": Mode.FULL if demoted else Mode.INCREMENTAL,
            "reason": chance.choice(_DEMOTIONS) if demoted else None,
            "detail": "libvirt no longer knows the newest point's checkpoint" if demoted else None,
            "point": f"{vm_folder(vm.name, vm.uuid)}/{stamp(created)}",
            "consistency": "filesystem",
            "bytes_read": read,
            "bytes_stored": read * 2 // 5,
        }
    elif state is not RunState.CANCELLED:
        code, error, hint = chance.choice(_FAILURES)
        values |= {"step": "copy", "error_code": code, "error": error, "hint": hint}
    return tuple(map(values.get, _COLUMNS))


def _steps_of(run: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    started, ended = run[_PLACE["started"]], run[_PLACE["ended"]]
    each = (ended - started) / len(_STEPS)
    for number, name in enumerate(_STEPS, 1):
        began = started + each * (number - 1)
        yield run[0], number, name, began, began + each


def _bulk(database: Database, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    """Insert without the indexes, which are made anew at the end."""
    names = ", ".join(table.c.keys())
    for index in table.indexes:
        index.drop(database.engine)
    if database.engine.dialect.name == "postgresql":
        with database.transaction(write=True) as connection:
            cursor: Any = connection.connection.cursor()
            with cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row([value.value if isinstance(value, Enum) else value for value in row])
    else:
        insert = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(table.c))})"
        pending = iter(rows)
        with database.transaction(write=True) as connection:
            while batch := list(islice(pending, _BATCH)):
                connection.exec_driver_sql(insert, [tuple(map(_sqlite, row)) for row in batch])
    for index in table.indexes:
        index.create(database.engine)


def _sqlite(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value.value if isinstance(value, Enum) else value
