"""The folder of a connection's socket: one that was left by a kill goes with the next connection, no other does."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvm_backup.repository.ssh.private_folder import private_folder
from tests.integration.ship.servers import Server, wait_until
from tests.integration.ship.test_master_ends import HOLD


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; its path is short, since a socket's must be."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    shutil.rmtree(made)


def folders(place: Path) -> set[Path]:
    return set(place.glob("kvm-backup-link-*"))


@contextmanager
def holder(server: Server, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is connected until it is told otherwise."""
    variables = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, server.config],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process


def test_what_a_killed_process_left_goes_with_the_next_connection(server: Server, place: Path) -> None:
    with holder(server, place) as process:
        [left] = folders(place)
        assert (left / "s").is_socket()
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_connected())
    assert folders(place) == {left}
    with server.connection():
        [own] = folders(place)
        assert own != left
    assert folders(place) == set()


def test_the_folder_of_a_connection_that_is_open_stays(server: Server, place: Path) -> None:
    with holder(server, place) as process:
        [theirs] = folders(place)
        with server.connection() as connection:
            assert connection.run("echo here").stdout == "here\n"
            assert len(folders(place)) == 2
        assert (theirs / "s").is_socket()
        process.communicate("")
    assert folders(place) == set()


def test_what_is_another_users_or_a_link_stays(server: Server, place: Path, tmp_path: Path) -> None:
    theirs, link = place / "kvm-backup-link-theirs", place / "kvm-backup-link-led"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    link.symlink_to(elsewhere)
    with server.connection():
        pass
    assert folders(place) == {theirs, link}
    assert (elsewhere / "file").exists()


def test_connections_that_begin_and_end_at_once_leave_each_other_their_folders(place: Path) -> None:
    def often(_number: int) -> None:
        for _ in range(100):
            with private_folder() as folder:
                (folder / "own").touch()
                assert (folder / "own").exists()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(often, range(8)))
    assert folders(place) == set()
