"""The catalogue: a cache of every manifest, so that listing thousands of points asks one table.

It holds nothing that the files do not: `rescan` makes it anew, and a catalogue of another version is dropped.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Index,
    Row,
    String,
    create_engine,
    delete,
    event,
    func,
    inspect,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest, Mode, parse, serialize
from kvm_backup.domain.point_facts import PointSummary
from kvm_backup.repository.durable import storage_error
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE
from kvm_backup.repository.local import DamagedPoint, LocalRepository

CACHE_VERSION = 3
_PATIENCE = 30
"""Seconds to wait for another process that writes."""
_WRITES = "kvm_backup_writes"


class Base(DeclarativeBase):
    """Tables of the catalogue."""


class PointRow(Base):
    """One readable point. `manifest` is the manifest file's text, `modified` its time stamp in nanoseconds, to which
    that of the mark of a point elsewhere is added. `elsewhere` is what that mark says, as JSON.

    The columns between them are what counting and chains need, so that it is not parsed for that. `bytes_stored` is
    what is here.
    """

    __tablename__ = "points"
    __table_args__ = (
        Index("points_by_vm", "repository", "vm_name", "id"),
        Index("points_by_vm_uuid", "repository", "vm_uuid", "id"),
    )

    repository: Mapped[str] = mapped_column(String(36), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    vm_name: Mapped[str]
    vm_uuid: Mapped[str] = mapped_column(String(36))
    modified: Mapped[int]
    uuid: Mapped[str] = mapped_column(String(36))
    created: Mapped[str] = mapped_column(String(40))
    mode: Mapped[str] = mapped_column(String(20))
    parent: Mapped[str | None] = mapped_column(String(200))
    parent_uuid: Mapped[str | None] = mapped_column(String(36))
    bytes_stored: Mapped[int]
    elsewhere: Mapped[str | None]
    manifest: Mapped[str]


class Catalogue:
    """The points of all repositories, in one SQLite file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> "Catalogue":
        """Open or make the catalogue. Raises StorageError, NoSpaceError."""
        try:
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path.parent) from error
        engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _PATIENCE})
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
        catalogue = cls(engine)
        with catalogue._session() as session:
            outdated = _version(session) != CACHE_VERSION
        if outdated:
            with catalogue._session(write=True) as session:
                _make_tables(session)
        return catalogue

    def refresh(self, repository: LocalRepository, *, everything: bool = False) -> list[DamagedPoint]:
        """Bring the catalogue in line with the files; returns the points that cannot be read.

        Only manifests that are new or changed are read, all of them with `everything`. Nothing is locked while
        files are read, so that a slow repository stops nobody.
        """
        known = self._known(PointRow.repository == repository.catalogue_key)
        return self._refresh(repository, repository.folders(), known, everything=everything)

    def refresh_folder(self, repository: LocalRepository, folder: str) -> list[DamagedPoint]:
        """The same for the points of one VM's folder, by its name; one that is gone is an empty one."""
        known = self._known(PointRow.repository == repository.catalogue_key, _inside(folder))
        return self._refresh(repository, [repository.root / folder], known)

    def _known(self, *which: ColumnElement[bool]) -> dict[str, int]:
        with self._session() as session:
            return {
                row.id: row.modified for row in session.execute(select(PointRow.id, PointRow.modified).where(*which))
            }

    def _refresh(
        self, repository: LocalRepository, folders: Iterable[Path], known: dict[str, int], *, everything: bool = False
    ) -> list[DamagedPoint]:
        damaged: list[DamagedPoint] = []
        changed: list[dict[str, object]] = []
        seen: set[str] = set()
        for folder in folders:
            for name in repository.stamps(folder):
                point_id = f"{folder.name}/{name}"
                modified = _modified(folder / name)
                if not everything and modified is not None and known.get(point_id) == modified:
                    seen.add(point_id)
                    continue
                point = repository.examine(point_id)
                if isinstance(point, DamagedPoint):
                    damaged.append(point)
                    continue
                changed.append(_row(repository, point, modified or 0))
                seen.add(point_id)
        gone = known.keys() - seen
        if changed or gone:
            with self._session(write=True) as session:
                for row in changed:
                    session.execute(insert(PointRow).values(row).on_conflict_do_update(set_=row))
                for point_id in gone:
                    mine = (PointRow.repository == repository.catalogue_key, PointRow.id == point_id)
                    session.execute(delete(PointRow).where(*mine, PointRow.modified == known[point_id]))
        return damaged

    def points(self, repository: LocalRepository, vm: str | None = None) -> list[Manifest]:
        """The points of a repository, of one VM (name or UUID) if given, by VM and time."""
        query = select(PointRow.id, PointRow.manifest).where(PointRow.repository == repository.catalogue_key)
        if vm is not None:
            # Each half has an index; SQLite would use none for an OR of both.
            mine = [
                select(PointRow.id).where(PointRow.repository == repository.catalogue_key, column == vm)
                for column in (PointRow.vm_name, PointRow.vm_uuid)
            ]
            query = query.where(PointRow.id.in_(union_all(*mine)))
        else:
            query = query.order_by(PointRow.vm_name, PointRow.id)
        with self._session() as session:
            rows = session.execute(query).all()
        points = [parse(manifest.encode(), point_id) for point_id, manifest in rows]
        # Sorted here, because SQLite would walk through all points in that order to find the few of a VM.
        return points if vm is None else sorted(points, key=lambda point: (point.vm_name, point.id))

    def elsewhere(self, repository: LocalRepository, vm_uuid: str | None = None) -> dict[str, tuple[str, ...]]:
        """The points of a repository, or of one VM in it, whose images are not here, and who holds them."""
        query = select(PointRow.id, PointRow.elsewhere).where(PointRow.repository == repository.catalogue_key)
        if vm_uuid is not None:
            query = query.where(PointRow.vm_uuid == vm_uuid)
        with self._session() as session:
            rows = session.execute(query.where(PointRow.elsewhere.is_not(None))).all()
        return {point_id: tuple(json.loads(names or "[]")) for point_id, names in rows}

    def vms(self, repository_id: str) -> set[str]:
        """The UUIDs of the VMs that have points in a repository, as it was when it was last looked through."""
        query = select(PointRow.vm_uuid).where(PointRow.repository == repository_id).distinct()
        with self._session() as session:
            return set(session.scalars(query))

    def vms_in(self, repository_id: str, folder: str) -> set[str]:
        """The same of one folder, by its name."""
        query = select(PointRow.vm_uuid).where(PointRow.repository == repository_id, _inside(folder)).distinct()
        with self._session() as session:
            return set(session.scalars(query))

    def summaries(self, repository_id: str, vm_uuids: Collection[str]) -> list[PointSummary]:
        """What counting needs of the points of some VMs, by VM and time."""
        columns = [PointRow.__table__.c[name] for name in _SUMMARY]
        query = select(*columns).where(PointRow.repository == repository_id, PointRow.vm_uuid.in_(vm_uuids))
        with self._session() as session:
            rows = session.execute(query.order_by(PointRow.vm_uuid, PointRow.id)).all()
        return [_summary(row) for row in rows]

    def parent(self, repository_id: str, point_id: str) -> str | None:
        """What a point builds on; None also for a point that is not known."""
        query = select(PointRow.parent).where(PointRow.repository == repository_id, PointRow.id == point_id)
        with self._session() as session:
            return session.scalars(query).one_or_none()

    def count(self, repository_id: str) -> int:
        """How many points a repository holds."""
        query = select(func.count()).select_from(PointRow).where(PointRow.repository == repository_id)
        with self._session() as session:
            return int(session.execute(query).scalar_one())

    def held(self, repository_id: str) -> tuple[int, int, int]:
        """What a repository holds, by its manifests: points, bytes, VMs."""
        query = select(
            func.count(), func.coalesce(func.sum(PointRow.bytes_stored), 0), func.count(PointRow.vm_uuid.distinct())
        ).where(PointRow.repository == repository_id)
        with self._session() as session:
            points, stored, vms = session.execute(query).one()
        return int(points), int(stored), int(vms)

    def bytes_stored(self, repository_id: str) -> int:
        """What the points of a repository take there, by their manifests."""
        query = select(func.coalesce(func.sum(PointRow.bytes_stored), 0)).where(PointRow.repository == repository_id)
        with self._session() as session:
            return int(session.execute(query).scalar_one())

    @contextmanager
    def _session(self, *, write: bool = False) -> Iterator[Session]:
        """A transaction. One that writes takes SQLite's lock at once, so that two never wait for each other."""
        try:
            engine = self._engine.execution_options(**{_WRITES: write})
            with Session(engine) as session, session.begin():
                yield session
        except (SQLAlchemyError, sqlite3.Error) as error:
            cause = str(getattr(error, "orig", None) or error)
            raise StorageError(
                phrase(
                    "the catalogue {database} cannot be used: {cause}",
                    database=self._engine.url.database,
                    cause=cause,
                ),
                hint=phrase("It is only a cache: remove the file, then run 'kvm-backup repository rescan'."),
            ) from error


def _inside(folder: str) -> ColumnElement[bool]:
    return PointRow.id.between(f"{folder}/", f"{folder}/\U0010ffff")


def _leave_transactions_to_us(connection: sqlite3.Connection, _record: object) -> None:
    """Readers do not wait for a writer, a crash leaves no damage, and no transaction begins behind our back."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(session: Session) -> int:
    return int(session.execute(text("PRAGMA user_version")).scalar_one())


def _make_tables(session: Session) -> None:
    connection = session.connection()
    if _version(session) == CACHE_VERSION:
        return  # another process was faster
    if inspect(connection).has_table(PointRow.__tablename__):
        Base.metadata.drop_all(connection)
    Base.metadata.create_all(connection)
    connection.execute(text(f"PRAGMA user_version = {CACHE_VERSION}"))


def _modified(point: Path) -> int | None:
    """Another number once a point's manifest changed, or where its images are."""
    try:
        manifest = (point / MANIFEST_FILE).stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None
    try:
        return manifest + (point / ELSEWHERE_FILE).stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return manifest


def _row(repository: LocalRepository, point: Manifest, modified: int) -> dict[str, object]:
    names = repository.elsewhere(point.id)
    return {
        "repository": repository.catalogue_key,
        "id": point.id,
        "vm_name": point.vm_name,
        "vm_uuid": point.vm_uuid,
        "modified": modified,
        "uuid": point.uuid,
        "created": point.created.isoformat(),
        "mode": point.mode.value,
        "parent": point.parent,
        "parent_uuid": point.parent_uuid,
        "bytes_stored": point.bytes_stored if names is None else sum(stored.bytes for stored in point.files),
        "elsewhere": None if names is None else json.dumps(names),
        "manifest": serialize(point).decode(),
    }


_SUMMARY = (
    "id",
    "vm_name",
    "vm_uuid",
    "uuid",
    "created",
    "mode",
    "parent",
    "parent_uuid",
    "bytes_stored",
    "elsewhere",
)
_NOWHERE = json.dumps(())


def _summary(row: Row[Any]) -> PointSummary:
    created, mode = datetime.fromisoformat(row.created), Mode(row.mode)
    return PointSummary(
        row.id,
        row.vm_name,
        row.vm_uuid,
        row.uuid,
        created,
        mode,
        row.parent,
        row.parent_uuid,
        row.bytes_stored,
        lost=row.elsewhere == _NOWHERE,
    )
