"""The two databases that the contract holds for: an SQLite file, and a PostgreSQL server of the tests' own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, create_engine, text

from kvm_backup.database.engine import sqlite_url

_SERVERS = Path("/usr/lib/postgresql")
PASSWORD = "h3llo:w%rld@x"


def _programs() -> Path:
    versions = sorted(_SERVERS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert versions, "PostgreSQL is not installed: apt-get install postgresql"
    return versions[-1].parent


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """A server on a socket in a folder of its own, as the user postgres, for PostgreSQL refuses root."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="kvm-backup-pg-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user:
        for path in (folder, secret):
            shutil.chown(path, user)
    data, programs = folder / "data", _programs()
    making: list[str | Path] = [
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--username=keeper",
        "--encoding=UTF8",
        "--no-sync",
    ]
    server = f"-k {folder} -c listen_addresses= -c fsync=off"
    try:
        _run([programs / "initdb", "-D", data, "--locale=C.UTF-8", *making], user, folder)
        start: list[str | Path] = [
            programs / "pg_ctl",
            "-D",
            data,
            "-w",
            "-t",
            "60",
            "-l",
            folder / "log",
            "-o",
            server,
            "start",
        ]
        _run(start, user, folder)
        yield URL.create("postgresql+psycopg", "keeper", PASSWORD, database="postgres", query={"host": str(folder)})
    finally:
        if (data / "postmaster.pid").exists():
            _run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], user, folder)
        shutil.rmtree(folder)


def _run(command: Sequence[str | Path], user: str | None, folder: Path) -> None:
    done = subprocess.run(
        command, user=user, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def empty_database(postgresql: URL) -> URL:
    """A database of its own on the PostgreSQL server."""
    name = f"test_{uuid4().hex}"
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgresql.set(database=name)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "state" / "kvm-backup.db")
    made: URL = request.getfixturevalue("empty_database")
    return made
