"""A host's name on a database that several hosts share: only one service at a time may go by it.

Two hosts of one name would do each other's runs. On PostgreSQL a name is a lock that the server gives up when the
connection ends. An SQLite file is of one state folder, whose own lock keeps a second service away.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from kvm_backup.database.engine import Database
from kvm_backup.domain.errors import ServiceRunningError
from kvm_backup.domain.phrase import phrase

_PATIENCE = 5.0
"""Seconds until the server has noticed that a service which was killed on this host is gone."""
_PAUSE = 0.2
_NOTICES_A_DEAD_HOST = ("tcp_keepalives_idle = 20", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 4")
"""So that a host which lost its power gets its name back within the minute."""


class NameClaim:
    """The claim of one service on the name of its host. Used by one thread."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = host
        self._connection: Connection | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the service goes on. Raises ServiceRunningError, DatabaseError."""
        self._take(_PATIENCE)
        try:
            yield
        finally:
            self._drop()

    def renew(self) -> None:
        """Make sure that the name is still ours, or take it again: the server may have been away.

        Raises ServiceRunningError when another service goes by it now, DatabaseError.
        """
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except SQLAlchemyError:
                self._drop()
        if self._connection is None:
            self._take(0.0)

    def _take(self, patience: float) -> None:
        if self._database.engine.dialect.name != "postgresql":
            return
        deadline = time.monotonic() + patience
        while not self._taken():
            if time.monotonic() >= deadline:
                raise ServiceRunningError(
                    phrase("another service works for a host called {host} on this database", host=self._host),
                    hint=phrase("Hosts that share a database need different names: the setting 'host' gives one."),
                )
            time.sleep(_PAUSE)

    def _taken(self) -> bool:
        try:
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection = connection
            for setting in _NOTICES_A_DEAD_HOST:
                connection.execute(text(f"SET {setting}"))
            taken = connection.execute(text("SELECT pg_try_advisory_lock(:name)"), {"name": _number(self._host)})
            if taken.scalar_one():
                return True
        except SQLAlchemyError as error:
            self._drop()
            raise self._database.in_our_words(error) from error
        self._drop()
        return False

    def _drop(self) -> None:
        """Give the name up: the connection must not go back to the pool with the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()


def _number(host: str) -> int:
    """What stands for a name among PostgreSQL's advisory locks, which are numbers of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"kvm-backup host {host}".encode()).digest()[:8], "big", signed=True)
