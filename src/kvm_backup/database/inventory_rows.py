"""Rows of the inventory, and the values that they hold as JSON."""

import json
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.inventory import PointFacts, RunFacts, VmDisk, VmRecord
from kvm_backup.domain.protection import Newest, Promise
from kvm_backup.domain.timing import ScheduleType, Timing

_POINT_FIELDS = [field.name for field in fields(PointFacts) if field.name != "newest"]
_RUN_FIELDS = [field.name for field in fields(RunFacts) if field.name != "usual"]
_PLAIN = (
    "uuid",
    "name",
    "state",
    "gone_since",
    "virtual_size",
    "protection",
    "overdue",
    "promised",
    "missed",
    "next_due",
)


def values_of(record: VmRecord) -> dict[str, Any]:
    """The columns of a VM's row, without the host."""
    return {
        **{name: getattr(record, name) for name in _PLAIN},
        **{name: getattr(record.points, name) for name in _POINT_FIELDS},
        **{name: getattr(record.runs, name) for name in _RUN_FIELDS},
        "disks": json.dumps([_disk_fields(disk) for disk in record.disks]),
        "newest": json.dumps(
            {name: [_iso(newest.data), _iso(newest.any)] for name, newest in record.points.newest.items()}
        ),
        "promises": json.dumps([_promise_fields(promise) for promise in record.promises]),
        "usual_seconds": int(record.runs.usual.total_seconds()),
        "rank": record.protection.rank,
    }


def record_of(row: Row[Any]) -> VmRecord:
    """A VM from its row."""
    held = row._mapping
    newest = {name: Newest(*map(_moment, pair)) for name, pair in json.loads(held["newest"]).items()}
    return VmRecord(
        **{name: held[name] for name in _PLAIN},
        points=PointFacts(**{name: held[name] for name in _POINT_FIELDS}, newest=newest),
        runs=RunFacts(**{name: held[name] for name in _RUN_FIELDS}, usual=timedelta(seconds=held["usual_seconds"])),
        disks=tuple(map(_disk, json.loads(held["disks"]))),
        promises=tuple(map(_promise, json.loads(held["promises"]))),
    )


def _disk_fields(disk: VmDisk) -> dict[str, Any]:
    return {
        "target": disk.target,
        "format": disk.format,
        "virtual_size": disk.virtual_size,
        "left_out": disk.left_out,
    }


def _disk(held: dict[str, Any]) -> VmDisk:
    left_out = held["left_out"]
    return VmDisk(
        held["target"], held["format"], held["virtual_size"], None if left_out is None else LeftOut(left_out)
    )


def _promise_fields(promise: Promise) -> dict[str, Any]:
    timing = promise.timing
    return {
        "schedule": promise.schedule_id,
        "timing": [timing.type, timing.minute, timing.hour, timing.weekday, timing.day, timing.expression],
        "repository": promise.repository,
        "snapshot": promise.snapshot,
        "since": promise.since.isoformat(),
    }


def _promise(held: dict[str, Any]) -> Promise:
    kind, *rest = held["timing"]
    return Promise(
        schedule_id=held["schedule"],
        timing=Timing(ScheduleType(kind), *rest),
        repository=held["repository"],
        snapshot=held["snapshot"],
        since=datetime.fromisoformat(held["since"]),
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
