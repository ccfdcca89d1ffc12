"""Tables with a line for each VM and remote of a host: what waits to be shipped, and what cannot be."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Row, Table, and_, delete, func, or_, select

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import storable

_BATCH = 200

Place = tuple[str, str]
"""A remote's name, and the folder of a VM."""


class _Placed(Protocol):
    @property
    def place(self) -> Place: ...


Line = TypeVar("Line", bound=_Placed)


class LinesByPlace(Generic[Line]):
    """Of one host, in `table`; `line_of` reads a row. Only the host's service writes; every method raises
    DatabaseError when the database is away.
    """

    def __init__(self, database: Database, host: str, table: Table, line_of: Callable[[Row[Any]], Line]) -> None:
        self._database = database
        self._host = storable(host)
        self._table = table
        self._line_of = line_of

    def count(self, *, remote: str | None = None, search: str | None = None) -> int:
        """How many lines there are in all; `search` is a part of the VM's name."""
        query = self._filtered(select(func.count()).select_from(self._table), remote, search)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def of_vm(self, vm_uuid: str) -> list[Line]:
        """Those of one VM, by remote."""
        columns = self._table.c
        query = select(self._table).where(columns.host == self._host, columns.vm_uuid == storable(vm_uuid))
        return self._lines(query.order_by(columns.remote, columns.folder))

    def load(self) -> dict[Place, Line]:
        """Everything."""
        return {line.place: line for line in self._lines(select(self._table).where(self._table.c.host == self._host))}

    def _lines(self, query: Any) -> list[Line]:
        with self._database.transaction() as connection:
            return [self._line_of(row) for row in connection.execute(query)]

    def _filtered(self, query: Any, remote: str | None, search: str | None) -> Any:
        columns = self._table.c
        query = query.where(columns.host == self._host)
        if remote:
            query = query.where(columns.remote == storable(remote))
        if search:
            query = query.where(columns.vm_name.icontains(storable(search), autoescape=True))
        return query

    def _forget(self, connection: Connection, places: Sequence[Place]) -> None:
        columns = self._table.c
        for at in range(0, len(places), _BATCH):
            some = [
                and_(columns.remote == storable(remote), columns.folder == storable(folder))
                for remote, folder in places[at : at + _BATCH]
            ]
            connection.execute(delete(self._table).where(columns.host == self._host, or_(*some)))
