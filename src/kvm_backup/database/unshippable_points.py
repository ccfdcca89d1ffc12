"""What cannot be shipped, in the database."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, func, insert, select

from kvm_backup.database.engine import Database
from kvm_backup.database.lines_by_place import LinesByPlace, Place
from kvm_backup.database.tables import UNSHIPPABLE as TABLE
from kvm_backup.domain.waiting import Unshippable, UnshippableSum

_NAMES = 5


class UnshippablePoints(LinesByPlace[Unshippable]):
    """What the remotes of one host cannot get."""

    def __init__(self, database: Database, host: str) -> None:
        super().__init__(database, host, TABLE, _line)

    def page(self, *, remote: str | None = None, search: str | None = None, limit: int = 50) -> list[Unshippable]:
        """The first of them by the VM's name; `search` is a part of that."""
        query = self._filtered(select(TABLE), remote, search)
        query = query.order_by(TABLE.c.vm_name, TABLE.c.remote, TABLE.c.folder).limit(limit)
        return self._lines(query)

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

    def save(self, changed: Sequence[Unshippable], gone: Iterable[Place] = ()) -> None:
        """Write what is new or changed, and forget what is no longer so."""
        places = [*gone, *(line.place for line in changed)]
        if not places:
            return
        rows = [{"host": self._host, **_values(line)} for line in changed]
        with self._database.transaction(write=True) as connection:
            self._forget(connection, places)
            if rows:
                connection.execute(insert(TABLE), rows)

    def _names(self, connection: Connection, remote: str) -> tuple[str, ...]:
        query = select(TABLE.c.vm_name).where(TABLE.c.host == self._host, TABLE.c.remote == remote, TABLE.c.next_full)
        return tuple(connection.execute(query.order_by(TABLE.c.vm_name).limit(_NAMES)).scalars())


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
