"""The catalogue: a cache of every manifest, so that listing thousands of points asks one table.

It holds nothing that the files do not: `rescan` makes it anew, and a catalogue of another version is dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, Index, String, create_engine, delete, event, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.point import MANIFEST_FILE, Manifest, parse, serialize
from kvm_backup.repository.local import DamagedPoint, LocalRepository

CACHE_VERSION = 1


class Base(DeclarativeBase):
    """Tables of the catalogue."""


class PointRow(Base):
    """One readable point. `manifest` is the manifest file's text; `modified` its time stamp in nanoseconds."""

    __tablename__ = "points"
    __table_args__ = (Index("points_by_vm", "repository", "vm_name", "id"),)

    repository: Mapped[str] = mapped_column(String(36), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    vm_name: Mapped[str]
    vm_uuid: Mapped[str] = mapped_column(String(36))
    modified: Mapped[int]
    manifest: Mapped[str]


class Catalogue:
    """The points of all repositories, in one SQLite file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> "Catalogue":
        """Open or make the catalogue. Raises StorageError."""
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(engine, "connect", _be_patient)
        catalogue = cls(engine)
        with catalogue._session() as session:
            connection = session.connection()
            version = connection.execute(text("PRAGMA user_version")).scalar()
            if version != CACHE_VERSION:
                if inspect(connection).has_table(PointRow.__tablename__):
                    Base.metadata.drop_all(connection)
                Base.metadata.create_all(connection)
                connection.execute(text(f"PRAGMA user_version = {CACHE_VERSION}"))
        return catalogue

    def refresh(self, repository: LocalRepository, *, everything: bool = False) -> list[DamagedPoint]:
        """Bring the catalogue in line with the files; returns the points that cannot be read.

        Only manifests that are new or changed are read, all of them with `everything`.
        """
        damaged: list[DamagedPoint] = []
        with self._session() as session:
            known: dict[str, int] = (
                {}
                if everything
                else {
                    row.id: row.modified
                    for row in session.execute(
                        select(PointRow.id, PointRow.modified).where(PointRow.repository == repository.id)
                    )
                }
            )
            seen: set[str] = set()
            for folder in repository.folders():
                for name in repository.stamps(folder):
                    point_id = f"{folder.name}/{name}"
                    modified = _modified(folder / name / MANIFEST_FILE)
                    if modified is not None and known.get(point_id) == modified:
                        seen.add(point_id)
                        continue
                    point = repository.examine(point_id)
                    if isinstance(point, DamagedPoint):
                        damaged.append(point)
                        continue
                    session.merge(_row(repository, point, modified or 0))
                    seen.add(point_id)
            self._forget_all_but(session, repository, seen)
        return damaged

    def points(self, repository: LocalRepository, vm: str | None = None) -> list[Manifest]:
        """The points of a repository, of one VM (name or UUID) if given, by VM and time."""
        query = select(PointRow.id, PointRow.manifest).where(PointRow.repository == repository.id)
        if vm is not None:
            query = query.where((PointRow.vm_name == vm) | (PointRow.vm_uuid == vm))
        with self._session() as session:
            rows = session.execute(query.order_by(PointRow.vm_name, PointRow.id)).all()
        return [parse(manifest.encode(), point_id) for point_id, manifest in rows]

    @staticmethod
    def _forget_all_but(session: Session, repository: LocalRepository, seen: set[str]) -> None:
        rows: Sequence[str] = session.scalars(select(PointRow.id).where(PointRow.repository == repository.id)).all()
        for point_id in set(rows) - seen:
            session.execute(delete(PointRow).where(PointRow.repository == repository.id, PointRow.id == point_id))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise StorageError(
                f"the catalogue {self._engine.url.database} cannot be used: {error}",
                hint="It is only a cache: remove the file, then run 'kvm-backup repository rescan'.",
            ) from error


def _be_patient(connection: object, _record: object) -> None:
    """Readers do not wait for a writer, and a crash leaves no damage."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _modified(path: Path) -> int | None:
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None


def _row(repository: LocalRepository, point: Manifest, modified: int) -> PointRow:
    return PointRow(
        repository=repository.id,
        id=point.id,
        vm_name=point.vm_name,
        vm_uuid=point.vm_uuid,
        modified=modified,
        manifest=serialize(point).decode(),
    )
