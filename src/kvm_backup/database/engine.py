"""The database: SQLite in the state folder, or PostgreSQL for many hosts. Opened, brought up to date, and its
failures put into our words; a password never is.
"""

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from kvm_backup.database.tables import VERSION, VERSION_TABLE
from kvm_backup.domain.errors import DatabaseError, NewerDatabaseError
from kvm_backup.domain.phrase import phrase

_PATIENCE = 30
"""Seconds to wait for another process that writes."""
_CONNECT_PATIENCE = 10
"""Seconds to wait for a PostgreSQL server to answer."""
MIGRATION_LOCK = 0x6B766D62
"""A number of our own (the letters kvmb) for PostgreSQL's advisory lock."""
_FileIdentity = tuple[int, int]
"""Device and inode."""
_WRITES = "kvm_backup_writes"
_DRIVERS = ("postgresql+psycopg", "postgresql")


def sqlite_url(path: Path) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def parse_url(value: str) -> URL:
    """The URL of a setting. Raises DatabaseError, without showing what may hold a password."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _DRIVERS or not url.database:
        raise DatabaseError(
            phrase("the setting database.url is no URL of a database"),
            hint=phrase(
                "Expected: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE. What came is not shown, "
                "because it may hold a password."
            ),
        )
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


class Database:
    """Connections to one database, which is of this program's version. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._opened: _FileIdentity | None = None
        self._opening = threading.Lock()

    @classmethod
    def open(cls, url: URL) -> Self:
        """Connect; make the tables or bring them up to date where that is needed.

        Raises DatabaseError, NewerDatabaseError.
        """
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, connect_args={"timeout": _PATIENCE}, hide_parameters=True)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = create_engine(
                url,
                connect_args={"connect_timeout": _CONNECT_PATIENCE, "application_name": "kvm-backup"},
                pool_pre_ping=True,
                hide_parameters=True,
            )
        database = cls(engine)
        database._bring_up_to_date()
        return database

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """A transaction. One that writes takes SQLite's lock at once, so that two never wait for each other.

        Raises DatabaseError.
        """
        self._follow_the_file()
        with self._transaction(write=write) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Connection]:
        try:
            with self.engine.execution_options(**{_WRITES: write}).begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self.in_our_words(error) from error

    def close(self) -> None:
        """Close the connections that nobody uses; SQLite then has all in its one file. Never raises."""
        if self._file is not None:
            # SQLite does so by itself only when the last connection of all is closed.
            with suppress(SQLAlchemyError, sqlite3.Error), self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    @property
    def _file(self) -> Path | None:
        """The SQLite file, when it is one."""
        url = self.engine.url
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    def _follow_the_file(self) -> None:
        """A file that was removed, or moved away because it was damaged, is made anew; its connections would go on
        with the one that nobody sees any more, for as long as this process lives.
        """
        path = self._file
        if path is None or _identity(path) == self._opened:
            return
        with self._opening:
            if _identity(path) == self._opened:
                return
            if not path.parent.is_dir():  # a disk that is not mounted, perhaps: nothing is made in its place
                raise self.in_our_words(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
            self.engine.dispose()
            self._bring_up_to_date()

    def _bring_up_to_date(self) -> None:
        # Several processes may be the first at once: one makes the tables, the others wait and find them made.
        with self._file_lock():
            with self._transaction() as connection:
                found = _version(connection)
            if found != VERSION:
                with self._transaction(write=True) as connection:
                    if self._file is None:
                        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
                    self._migrate(connection)
            self._opened = None if self._file is None else _identity(self._file)

    def _migrate(self, connection: Connection) -> None:
        found = _version(connection)  # again: another process may have been faster
        if found == VERSION:
            return
        if found is not None and found > VERSION:
            raise NewerDatabaseError(
                phrase(
                    "the database {where} is of version {found}, newer than {version},"
                    " the newest that this program knows",
                    where=self._where(),
                    found=found,
                    version=VERSION,
                ),
                hint=phrase("Use the version of KVM Backup that made it, or a newer one. Nothing was changed."),
            )
        # Imported only now: most commands find the database as it should be, and start quicker without.
        from alembic import command
        from alembic.config import Config

        config = Config()
        folder = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, VERSION)

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """For SQLite: one process at a time makes the file, switches it to WAL, makes the tables."""
        path = self._file
        if path is None:
            yield
            return
        try:
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self.in_our_words(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():  # SQLite itself would make a file that everybody may read
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            yield
        except OSError as error:
            raise self.in_our_words(error) from error
        finally:
            os.close(lock)

    def _where(self) -> str:
        return str(self._file or self.engine.url.render_as_string(hide_password=True))

    def in_our_words(self, error: Exception) -> DatabaseError:
        """A failure as the error that a user is told; without the password."""
        url = self.engine.url
        words = error.strerror if isinstance(error, OSError) else getattr(error, "orig", None)
        cause = str(words or error).strip().splitlines()
        shown = cause[0] if cause else type(error).__name__
        if url.password:
            shown = shown.replace(str(url.password), "***")
        hint = (
            phrase(
                "Check that the disk is not full and that this user may write there. A damaged file can be moved"
                " away: the history of runs is lost then, the restore points are not."
            )
            if self._file
            else phrase("Check that the server runs, and the user, password and rights in the setting database.url.")
        )
        return DatabaseError(
            phrase("the database {where} cannot be used: {cause}", where=self._where(), cause=shown), hint=hint
        )


def _identity(path: Path) -> _FileIdentity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _version(connection: Connection) -> str | None:
    """Of the database; None when it has no table of ours yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608
    return None if found is None else str(found)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    """Readers do not wait for a writer, a crash leaves no damage, and no transaction begins behind our back."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
