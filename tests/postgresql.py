"""A PostgreSQL server of the tests' own: made, started, stopped and removed by them."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, create_engine, text

_SERVERS = Path("/usr/lib/postgresql")
PASSWORD = "h3llo:w%rld@x"


@dataclass(frozen=True)
class Server:
    """A server on a port of this host, as the user postgres, for PostgreSQL refuses root."""

    folder: Path
    programs: Path
    user: str | None
    port: int

    @property
    def url(self) -> URL:
        """Of the database that every server has."""
        return URL.create("postgresql+psycopg", "keeper", PASSWORD, "127.0.0.1", self.port, "postgres")

    def new_database(self) -> URL:
        """An empty database."""
        name = f"test_{uuid4().hex}"
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url.set(database=name)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off"
        self._control("-w", "-t", "60", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it and its connections at once."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self._control("-m", "immediate", "-w", "stop")

    def make(self) -> None:
        """Make its files, with one user who has a password."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            for path in (self.folder, secret):
                shutil.chown(path, self.user)
        how = ["--auth=scram-sha-256", f"--pwfile={secret}", "--username=keeper", "--encoding=UTF8", "--no-sync"]
        self._run([self.programs / "initdb", "-D", self.folder / "data", "--locale=C.UTF-8", *how])

    def _control(self, *words: str) -> None:
        self._run([self.programs / "pg_ctl", "-D", self.folder / "data", *words])

    def _run(self, command: Sequence[str | Path]) -> None:
        done = subprocess.run(
            command,
            user=self.user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that runs, of the newest version that is installed; nothing of it stays."""
    versions = sorted(_SERVERS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert versions, "PostgreSQL is not installed: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="kvm-backup-pg-", dir="/tmp"))
    server = Server(folder, versions[-1].parent, "postgres" if os.geteuid() == 0 else None, _free_port())
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
