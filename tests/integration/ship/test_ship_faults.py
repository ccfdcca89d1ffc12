"""What goes wrong between two servers, as a message that says what to do, and gone once its cause is gone."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time
from pathlib import Path

import pytest

from kvm_backup.domain.bandwidth import BandwidthPlan, Hours
from kvm_backup.domain.errors import (
    CancelledError,
    HostKeyError,
    NoSpaceError,
    RemoteAccessError,
    RemoteSetupError,
    RemoteUnreachableError,
)
from kvm_backup.repository.ssh.remote_points import mirror_manifests
from kvm_backup.repository.ssh.transfer import NoWatch, Transfer
from tests.integration.ship.servers import Server, make_key, wait_until


class Once(NoWatch):
    """Calls something when the first bytes were dealt with."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.happened = False

    def reached(self, total: int) -> None:
        if total >= self._size and not self.happened:
            self.happened = True
            self.happen()

    def happen(self) -> None:
        raise CancelledError("cancelled by the test", hint="None.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """32 MiB to send."""
    made = tmp_path / "files"
    made.mkdir()
    (made / "vda.qcow2").write_bytes(os.urandom(32 << 20))
    return made


def test_a_host_key_that_changed_is_refused_until_the_new_one_is_known(server: Server) -> None:
    server.stop()
    server.new_host_key()
    server.start()
    with pytest.raises(HostKeyError, match="another host key") as refused, server.connection():
        pass
    assert "ssh-keygen -R" in refused.value.hint
    server.know_host()
    with server.connection() as connection:
        assert connection.run("echo in").stdout == "in\n"


def test_a_key_that_was_revoked_is_told_and_works_again_when_it_is_back(server: Server) -> None:
    before = server.authorized.read_text()
    server.authorized.write_text(make_key(server.root / "other") + "\n")
    with pytest.raises(RemoteAccessError, match="refused the login"), server.connection():
        pass
    server.authorized.write_text(before)
    with server.connection() as connection:
        assert connection.run("echo in").stdout == "in\n"


def test_a_server_that_is_away_can_be_tried_again(server: Server) -> None:
    server.stop()
    with pytest.raises(RemoteUnreachableError) as away, server.connection():
        pass
    assert away.value.retryable
    assert "refused" in away.value.message


def test_a_connection_that_nobody_answers_any_more_is_given_up(server: Server, folder: Path) -> None:
    class Silence(Once):
        def happen(self) -> None:
            server.signal(signal.SIGSTOP)

    silence = Silence(1 << 20)
    with (
        pytest.raises(RemoteUnreachableError),
        server.connection(alive_interval=1) as connection,
    ):
        Transfer(connection, watch=silence).up(folder, f"{server.store}/silent", "--inplace")
    assert silence.happened


def test_a_transfer_that_is_cancelled_ends_at_once_and_leaves_no_program(server: Server, folder: Path) -> None:
    with server.connection() as connection:
        with pytest.raises(CancelledError):
            Transfer(connection, watch=Once(1)).up(folder, f"{server.store}/cancelled", "--inplace")
        wait_until(lambda: not server.serves("rsync"))
        assert connection.run("echo still there").stdout == "still there\n"


def test_a_full_disk_is_told_and_what_arrived_stays(server: Server, folder: Path) -> None:
    with small_disk(server.store), server.connection("rrsync") as connection:
        with pytest.raises(NoSpaceError) as full:
            Transfer(connection).up(folder, "/some", "--inplace")
        assert full.value.retryable
        assert (server.store / "some" / "vda.qcow2").stat().st_size > 0


def test_a_server_without_rsync_is_told(server: Server, folder: Path) -> None:
    key = make_key(server.root / "bare")
    with server.authorized.open("a") as keys:
        keys.write(f'command="PATH=/nonexistent /bin/sh -c \\"$SSH_ORIGINAL_COMMAND\\"" {key}\n')
    config = server.config.read_text()
    server.config.write_text(f"Host bare\n  IdentityFile {server.root / 'bare'}\n{config}")
    with server.connection("bare") as connection, pytest.raises(RemoteSetupError, match="rsync cannot be started"):
        Transfer(connection).up(folder, "/files")


def test_an_account_that_only_adds_cannot_list(server: Server, tmp_path: Path) -> None:
    with server.connection("adder") as connection, pytest.raises(RemoteAccessError, match="may not"):
        mirror_manifests(Transfer(connection), tmp_path / "mirror")


def test_a_folder_that_is_missing_is_told(server: Server, tmp_path: Path) -> None:
    server.store.rmdir()
    with server.connection() as connection, pytest.raises(RemoteSetupError, match="folder"):
        Transfer(connection).down(str(server.store), tmp_path)


def test_another_transfer_on_a_locked_account_can_be_tried_again(server: Server, folder: Path) -> None:
    server.authorized.write_text(server.authorized.read_text().replace(" -no-lock", ""))

    class Second(Once):
        def happen(self) -> None:
            with server.connection("adder") as other, pytest.raises(RemoteUnreachableError, match="another transfer"):
                Transfer(other).up(folder, "/second")

        def check(self) -> None:
            if self.happened:
                raise CancelledError("the other one was refused", hint="None.")

    second = Second(1)
    with server.connection("adder") as connection, pytest.raises(CancelledError):
        Transfer(connection, plan=BandwidthPlan(64 << 10), watch=second).up(folder, "/first")
    wait_until(lambda: not server.serves("rsync"))
    with server.connection("adder") as connection:
        Transfer(connection).up(folder, "/second")
    assert (server.store / "second" / "vda.qcow2").read_bytes() == (folder / "vda.qcow2").read_bytes()


def test_another_limit_holds_for_a_transfer_that_goes_on(server: Server, folder: Path) -> None:
    class Clock(NoWatch):
        """Slow hours, in which the files would take for ever, end after the first bytes."""

        moved = 0

        def reached(self, total: int) -> None:
            self.moved = total

        def now(self) -> datetime:
            return datetime.fromisoformat("2026-11-22T13:00" if self.moved else "2026-11-22T12:00")

    clock = Clock()
    plan = BandwidthPlan(None, (Hours(time(12), time(13), 8 << 10),))
    with server.connection() as connection:
        Transfer(connection, plan=plan, now=clock.now, watch=clock).up(folder, f"{server.store}/files", "--append")
    assert (server.store / "files" / "vda.qcow2").read_bytes() == (folder / "vda.qcow2").read_bytes()


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """16 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)
