"""The two databases that the contract holds for: an SQLite file, and a PostgreSQL server of the tests' own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from kvm_backup.database.engine import sqlite_url
from tests.postgresql import Server, running_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server for all tests of a session."""
    with running_server() as server:
        yield server


@pytest.fixture
def empty_database(postgresql: Server) -> URL:
    """A database of its own on the PostgreSQL server."""
    return postgresql.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "state" / "kvm-backup.db")
    made: URL = request.getfixturevalue("empty_database")
    return made
