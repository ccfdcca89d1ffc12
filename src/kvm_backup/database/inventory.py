"""The inventory: one row for each VM of this host, with all that lists of VMs show, so that a page asks one table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.inventory_rows import record_of, values_of
from kvm_backup.database.tables import HOSTS, VMS, storable
from kvm_backup.domain.errors import VmNotFoundError
from kvm_backup.domain.inventory import HostFacts, ProtectionCounts, VmRecord
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.vm import VmState

_BATCH = 500


@dataclass(frozen=True, slots=True)
class VmFilter:
    """Which VMs to list. `search` is a part of the name, or the beginning of the UUID; `gone` False leaves out those
    that libvirt no longer has, True lists only them. A `protection` is one of VMs that libvirt has."""

    search: str | None = None
    protection: Protection | None = None
    state: VmState | None = None
    gone: bool | None = None


@dataclass(frozen=True, slots=True)
class VmPoints:
    """The points of a VM in short; `failed_runs` is how many backups failed since one succeeded."""

    name: str
    overdue: bool
    last_point_at: datetime | None
    bytes_stored: int
    failed_runs: int


class VmSort(StrEnum):
    """What a list of VMs is sorted by."""

    PROTECTION = "protection"
    """The worst first; those that are gone come last."""
    NAME = "name"
    STATE = "state"
    LAST_POINT = "last-point"
    LAST_RUN = "last-run"
    NEXT_DUE = "next-due"
    SIZE = "size"
    STORED = "stored"
    POINTS = "points"


_SORTED_BY: dict[VmSort, tuple[Any, ...]] = {
    VmSort.PROTECTION: (VMS.c.gone_since, VMS.c.rank, VMS.c.missed, VMS.c.name),
    VmSort.NAME: (VMS.c.name,),
    VmSort.STATE: (VMS.c.state, VMS.c.name),
    VmSort.LAST_POINT: (VMS.c.last_point_at, VMS.c.name),
    VmSort.LAST_RUN: (VMS.c.last_run_at, VMS.c.name),
    VmSort.NEXT_DUE: (VMS.c.next_due, VMS.c.name),
    VmSort.SIZE: (VMS.c.virtual_size, VMS.c.name),
    VmSort.STORED: (VMS.c.bytes_stored, VMS.c.name),
    VmSort.POINTS: (VMS.c.points, VMS.c.name),
}
_WITH_NULLS = {VMS.c.gone_since, VMS.c.missed, VMS.c.state, VMS.c.last_point_at, VMS.c.last_run_at, VMS.c.next_due}


class Inventory:
    """The VMs of one host. Only the host's service writes; every method raises DatabaseError when that is away."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = storable(host)

    # What pages ask

    def page(
        self,
        which: VmFilter = VmFilter(),
        *,
        sort: VmSort = VmSort.PROTECTION,
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> list[VmRecord]:
        """Some VMs of a list. Where nothing is known of what it is sorted by, that counts as the least."""
        # Their keys first, which an index has: rows are wide, and most are only passed over.
        query = self._filtered(select(VMS.c.uuid), which)
        for column in (*_SORTED_BY[sort], VMS.c.uuid):
            ordered = column.desc() if descending else column.asc()
            if column in _WITH_NULLS:
                ordered = ordered.nulls_last() if descending else ordered.nulls_first()
            query = query.order_by(ordered)
        with self._database.transaction() as connection:
            uuids = list(connection.execute(query.offset(offset).limit(limit)).scalars())
            found = self._some(connection, uuids)
        return [found[uuid] for uuid in uuids]

    def count(self, which: VmFilter = VmFilter()) -> int:
        """How many VMs a list has in all."""
        query = self._filtered(select(func.count()).select_from(VMS), which)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def get(self, uuid: str) -> VmRecord:
        """A VM by its UUID. Raises VmNotFoundError."""
        found = self.some([uuid])
        if not found:
            raise _not_found(uuid)
        return found[uuid]

    def find(self, name: str) -> VmRecord:
        """A VM by its name, or its UUID; of several, the one that libvirt has. Raises VmNotFoundError."""
        wanted = storable(name)
        query = select(VMS).where(VMS.c.host == self._host, (VMS.c.name == wanted) | (VMS.c.uuid == wanted))
        query = query.order_by(VMS.c.gone_since.desc().nulls_first()).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise _not_found(name)
        return record_of(row)

    def some(self, uuids: Iterable[str]) -> dict[str, VmRecord]:
        """VMs by their UUIDs, those that there are."""
        with self._database.transaction() as connection:
            return self._some(connection, [storable(uuid) for uuid in uuids])

    def _some(self, connection: Connection, uuids: Sequence[str]) -> dict[str, VmRecord]:
        found: list[VmRecord] = []
        for at in range(0, len(uuids), _BATCH):
            some = VMS.c.uuid.in_(uuids[at : at + _BATCH])
            found += map(record_of, connection.execute(select(VMS).where(VMS.c.host == self._host, some)))
        return {record.uuid: record for record in found}

    def named(self, names: Iterable[str]) -> dict[str, VmRecord]:
        """VMs that libvirt has, by what schedules call them: their names or UUIDs."""
        wanted = sorted({storable(name) for name in names})
        found: dict[str, VmRecord] = {}
        with self._database.transaction() as connection:
            for at in range(0, len(wanted), _BATCH):
                for column in (VMS.c.name, VMS.c.uuid):  # one by one: each has its index
                    query = select(VMS).where(VMS.c.host == self._host, column.in_(wanted[at : at + _BATCH]))
                    for record in map(record_of, connection.execute(query)):
                        if not record.gone:
                            found[record.uuid] = found[record.name] = record
        return {name: found[name] for name in wanted if name in found}

    def counts(self) -> ProtectionCounts:
        """How many VMs are how well protected."""
        gone = VMS.c.gone_since.is_not(None)
        query = select(gone, VMS.c.rank, func.count()).where(VMS.c.host == self._host).group_by(gone, VMS.c.rank)
        counted = dict.fromkeys(("gone", *(protection.value for protection in Protection)), 0)
        with self._database.transaction() as connection:
            for is_gone, rank, number in connection.execute(query):
                counted["gone" if is_gone else list(Protection)[rank].value] += number
        return ProtectionCounts(**counted)

    def points_of_all(self) -> list[VmPoints]:
        """What is known of the points of every VM that libvirt has, by name; only numbers, for metrics."""
        columns = (VMS.c[field.name] for field in fields(VmPoints))
        query = select(*columns).where(VMS.c.host == self._host, VMS.c.gone_since.is_(None))
        with self._database.transaction() as connection:
            return [VmPoints(*row) for row in connection.execute(query.order_by(VMS.c.name))]

    def host_facts(self) -> HostFacts:
        """When this host was last looked at."""
        wanted = select(HOSTS.c.listed, HOSTS.c.away_since, HOSTS.c.away_error, HOSTS.c.examined)
        with self._database.transaction() as connection:
            row = connection.execute(wanted.where(HOSTS.c.host == self._host)).first()
        return HostFacts() if row is None else HostFacts(**row._mapping)

    # What the service writes

    def load(self) -> dict[str, VmRecord]:
        """Every VM by its UUID."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(VMS).where(VMS.c.host == self._host))
            return {record.uuid: record for record in map(record_of, rows)}

    def save(self, changed: Sequence[VmRecord], removed: Sequence[str] = ()) -> None:
        """Write the rows of VMs that are new or changed, and forget others by their UUIDs."""
        if not changed and not removed:
            return
        with self._database.transaction(write=True) as connection:
            for at in range(0, len(changed), _BATCH):
                values = [values_of(record) | {"host": self._host} for record in changed[at : at + _BATCH]]
                connection.execute(_upsert(connection, VMS, ("host", "uuid")), values)
            for at in range(0, len(removed), _BATCH):
                some = VMS.c.uuid.in_(removed[at : at + _BATCH])
                connection.execute(delete(VMS).where(VMS.c.host == self._host, some))

    def note_host(self, facts: HostFacts) -> None:
        """Write when this host was looked at."""
        values = {
            "host": self._host,
            "listed": facts.listed,
            "away_since": facts.away_since,
            "away_error": facts.away_error,
            "examined": facts.examined,
        }
        with self._database.transaction(write=True) as connection:
            connection.execute(_upsert(connection, HOSTS, ("host",), tuple(values)), [values])

    def _filtered(self, query: Select[Any], which: VmFilter) -> Select[Any]:
        query = query.where(VMS.c.host == self._host)
        if which.search:
            text = storable(which.search)
            query = query.where(
                VMS.c.name.icontains(text, autoescape=True) | VMS.c.uuid.startswith(text.lower(), autoescape=True)
            )
        if which.protection is not None:
            query = query.where(VMS.c.gone_since.is_(None), VMS.c.rank == which.protection.rank)
        if which.state is not None:
            query = query.where(VMS.c.gone_since.is_(None), VMS.c.state == which.state)
        if which.gone is not None:
            query = query.where(VMS.c.gone_since.is_not(None) if which.gone else VMS.c.gone_since.is_(None))
        return query


def _upsert(connection: Connection, table: Any, key: tuple[str, ...], names: Iterable[str] | None = None) -> Any:
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    changed = [name for name in (names or table.c.keys()) if name not in key]
    return insert.on_conflict_do_update(
        index_elements=list(key), set_={name: insert.excluded[name] for name in changed}
    )


def _not_found(reference: str) -> VmNotFoundError:
    return VmNotFoundError(
        phrase("no VM is called {reference!r}", reference=reference[:100]),
        hint=phrase("See the VMs of this host with 'kvm-backup vm list'."),
    )
