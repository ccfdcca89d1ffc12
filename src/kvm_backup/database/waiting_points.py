"""What waits to be shipped, and what is known of remotes, in the database."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, case, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.lines_by_place import LinesByPlace, Place
from kvm_backup.database.tables import REMOTES, WAITING, storable
from kvm_backup.domain.waiting import RemoteFacts, Waiting, WaitingSum

_BATCH = 500


class WaitingPoints(LinesByPlace[Waiting]):
    """The queue of one host, and what is known of its remotes."""

    def __init__(self, database: Database, host: str) -> None:
        super().__init__(database, host, WAITING, _waiting)

    # What pages ask

    def page(
        self,
        *,
        first: Collection[Place] = (),
        remote: str | None = None,
        search: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> list[Waiting]:
        """Some of what waits: the places in `first`, then whatever waits longest."""
        query = self._filtered(select(WAITING), remote, search)
        if first:
            places = (and_(WAITING.c.remote == storable(one), WAITING.c.folder == folder) for one, folder in first)
            query = query.order_by(case((or_(*places), 0), else_=1))
        query = query.order_by(WAITING.c.since, WAITING.c.remote, WAITING.c.folder)
        return self._lines(query.offset(offset).limit(limit))

    def get(self, remote: str, folder: str) -> Waiting | None:
        """What waits of one VM for one remote."""
        query = select(WAITING).where(
            WAITING.c.host == self._host, WAITING.c.remote == storable(remote), WAITING.c.folder == storable(folder)
        )
        return next(iter(self._lines(query)), None)

    def sums(self) -> dict[str, WaitingSum]:
        """All that waits, by remote."""
        query = (
            select(
                WAITING.c.remote,
                func.count().label("vms"),
                func.sum(WAITING.c.count).label("points"),
                func.sum(WAITING.c.bytes).label("bytes"),
                func.min(WAITING.c.since, type_=WAITING.c.since.type).label("since"),
            )
            .where(WAITING.c.host == self._host)
            .group_by(WAITING.c.remote)
        )
        with self._database.transaction() as connection:
            return {
                row.remote: WaitingSum(int(row.vms), int(row.points), int(row.bytes), row.since)
                for row in connection.execute(query)
            }

    def remotes(self) -> dict[str, RemoteFacts]:
        """What is known of each remote that was ever looked at."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(REMOTES).where(REMOTES.c.host == self._host))
            return {
                row.remote: RemoteFacts(row.remote, row.points, row.bytes, row.vms, row.shipped_at) for row in rows
            }

    # What the service writes

    def save(self, changed: Sequence[Waiting], gone: Iterable[Place] = ()) -> None:
        """Write what is new or changed, and forget what waits no longer."""
        places = list(gone)
        if not changed and not places:
            return
        with self._database.transaction(write=True) as connection:
            self._forget(connection, places)
            for at in range(0, len(changed), _BATCH):
                self._put(connection, WAITING, [_values(one) for one in changed[at : at + _BATCH]])

    def note_remote(self, facts: RemoteFacts) -> None:
        """Write what is known of a remote."""
        values = {
            "remote": facts.remote,
            "points": facts.points,
            "bytes": facts.bytes,
            "vms": facts.vms,
            "shipped_at": facts.shipped_at,
        }
        with self._database.transaction(write=True) as connection:
            self._put(connection, REMOTES, [values])

    def forget_remote(self, remote: str) -> None:
        """One that the settings no longer name."""
        with self._database.transaction(write=True) as connection:
            connection.execute(
                delete(REMOTES).where(REMOTES.c.host == self._host, REMOTES.c.remote == storable(remote))
            )

    def _put(self, connection: Any, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
        key = [column.name for column in table.primary_key]
        changes = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in key}
        connection.execute(
            insert.on_conflict_do_update(index_elements=key, set_=changes),
            [{"host": self._host, **row} for row in rows],
        )


def _values(waiting: Waiting) -> dict[str, Any]:
    return {
        "remote": waiting.remote,
        "folder": waiting.folder,
        "vm_name": waiting.vm_name,
        "vm_uuid": waiting.vm_uuid,
        "count": len(waiting.points),
        "bytes": waiting.bytes,
        "since": waiting.since,
        "points": json.dumps({point: since.isoformat() for point, since in waiting.points.items()}),
    }


def _waiting(row: Row[Any]) -> Waiting:
    points = {point: datetime.fromisoformat(since) for point, since in json.loads(row.points).items()}
    return Waiting(row.remote, row.folder, row.vm_name, row.vm_uuid, row.bytes, points)
