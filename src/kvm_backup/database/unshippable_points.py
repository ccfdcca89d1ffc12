"""What cannot be shipped, in the database."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, and_, case, delete, func, insert, or_, select

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import UNSHIPPABLE as TABLE
from kvm_backup.database.tables import storable
from kvm_backup.domain.waiting import Unshippable, UnshippableSum

_BATCH = 200
_NAMES = 5

Place = tuple[str, str]
"""A remote's name, and the folder of a VM."""


class UnshippablePoints:
    """Of one host. Only its service writes; every method raises DatabaseError when that is away."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = storable(host)

    def page(self, *, remote: str | None = None, search: str | None = None, limit: int = 50) -> list[Unshippable]:
        """The first of them by the VM's name; `search` is a part of that."""
        query = self._filtered(select(TABLE), remote, search)
        query = query.order_by(TABLE.c.vm_name, TABLE.c.remote, TABLE.c.folder).limit(limit)
        with self._database.transaction() as connection:
            return [_line(row) for row in connection.execute(query)]

    def count(self, *, remote: str | None = None, search: str | None = None) -> int:
        """How many lines `page` has without a limit."""
        query = self._filtered(select(func.count()).select_from(TABLE), remote, search)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def of_vm(self, vm_uuid: str) -> list[Unshippable]:
        """Those of one VM, by remote."""
        query = select(TABLE).where(TABLE.c.host == self._host, TABLE.c.vm_uuid == storable(vm_uuid))
        with self._database.transaction() as connection:
            return [_line(row) for row in connection.execute(query.order_by(TABLE.c.remote, TABLE.c.folder))]

    def sums(self) -> dict[str, UnshippableSum]:
        """All of them, by remote."""
        full = TABLE.c.next_full
        query = (
            select(
                TABLE.c.remote,
                func.count().label("vms"),
                func.sum(TABLE.c.count).label("points"),
                func.sum(case((full, 1), else_=0)).label("full_vms"),
                func.sum(case((full, TABLE.c.count), else_=0)).label("full_points"),
            )
            .where(TABLE.c.host == self._host)
            .group_by(TABLE.c.remote)
        )
        with self._database.transaction() as connection:
            return {
                row.remote: UnshippableSum(
                    int(row.vms),
                    int(row.points),
                    int(row.full_vms),
                    int(row.full_points),
                    self._names(connection, row.remote) if row.full_vms else (),
                )
                for row in connection.execute(query).all()
            }

    def load(self) -> dict[Place, Unshippable]:
        """Everything."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(TABLE).where(TABLE.c.host == self._host))
            return {line.place: line for line in map(_line, rows)}

    def save(self, changed: Sequence[Unshippable], gone: Iterable[Place] = ()) -> None:
        """Write what is new or changed, and forget what is no longer so."""
        places = [*gone, *(line.place for line in changed)]
        if not places:
            return
        rows = [{"host": self._host, **_values(line)} for line in changed]
        with self._database.transaction(write=True) as connection:
            for at in range(0, len(places), _BATCH):
                some = [
                    and_(TABLE.c.remote == storable(remote), TABLE.c.folder == storable(folder))
                    for remote, folder in places[at : at + _BATCH]
                ]
                connection.execute(delete(TABLE).where(TABLE.c.host == self._host, or_(*some)))
            if rows:
                connection.execute(insert(TABLE), rows)

    def _names(self, connection: Any, remote: str) -> tuple[str, ...]:
        query = select(TABLE.c.vm_name).where(TABLE.c.host == self._host, TABLE.c.remote == remote, TABLE.c.next_full)
        return tuple(connection.execute(query.order_by(TABLE.c.vm_name).limit(_NAMES)).scalars())

    def _filtered(self, query: Any, remote: str | None, search: str | None) -> Any:
        query = query.where(TABLE.c.host == self._host)
        if remote:
            query = query.where(TABLE.c.remote == storable(remote))
        if search:
            query = query.where(TABLE.c.vm_name.icontains(storable(search), autoescape=True))
        return query


def _values(line: Unshippable) -> dict[str, Any]:
    return {
        "remote": line.remote,
        "folder": line.folder,
        "vm_name": line.vm_name,
        "vm_uuid": line.vm_uuid,
        "count": len(line.points),
        "next_full": line.next_full,
        "unsure": line.unsure,
        "points": json.dumps(line.points),
    }


def _line(row: Row[Any]) -> Unshippable:
    return Unshippable(
        row.remote,
        row.folder,
        row.vm_name,
        row.vm_uuid,
        tuple(json.loads(row.points)),
        row.next_full,
        row.unsure,
    )
