"""What goes wrong between two servers, as a message that says what to do, and gone once its cause is gone."""

import os
from contextlib import suppress
from datetime import UTC, datetime, time
from pathlib import Path
from typing import ClassVar

import pytest

from kvm_backup.domain.bandwidth import BandwidthPlan, Hours
from kvm_backup.domain.errors import (
    CancelledError,
    HostKeyError,
    RemoteAccessError,
    RemoteSetupError,
    RemoteUnreachableError,
)
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
    """4 MiB to send."""
    made = tmp_path / "files"
    made.mkdir()
    (made / "vda.qcow2").write_bytes(os.urandom(4 << 20))
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


def test_a_transfer_that_is_cancelled_ends_at_once_and_leaves_no_program(server: Server, folder: Path) -> None:
    with server.connection() as connection:
        with pytest.raises(CancelledError):
            Transfer(connection, watch=Once(1)).up(folder, f"{server.store}/cancelled", "--inplace")
        wait_until(lambda: not server.serves("rsync"))
        assert connection.run("echo still there").stdout == "still there\n"


def test_a_server_without_rsync_is_told(server: Server, folder: Path) -> None:
    server.add_account("bare", 'command="PATH=/nonexistent /bin/sh -c \\"$SSH_ORIGINAL_COMMAND\\"" ')
    with server.connection("bare") as connection, pytest.raises(RemoteSetupError, match="rsync cannot be started"):
        Transfer(connection).up(folder, "/files")


def test_an_account_that_only_adds_cannot_list(server: Server, tmp_path: Path) -> None:
    with server.connection("adder") as connection, pytest.raises(RemoteAccessError, match="may only add"):
        Transfer(connection).down("/", tmp_path)


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


def test_a_limit_is_given_to_rsync_and_another_hour_gives_another_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "vda.qcow2").write_bytes(os.urandom(2 << 20))

    class Clock(NoWatch):
        """Goes on to the next hour once rsync runs with the limit of this one."""

        hour = 12
        limits: ClassVar[list[str]] = []

        def check(self) -> None:
            for limit in limits_of_children():
                if limit not in self.limits:
                    self.limits.append(limit)
                    self.hour += 1

        def now(self) -> datetime:
            return datetime(2026, 11, 22, self.hour, 30, tzinfo=UTC)

    clock = Clock()
    plan = BandwidthPlan(1 << 20, (Hours(time(12), time(13), 8 << 10),))
    with server.connection() as connection:
        Transfer(connection, plan=plan, now=clock.now, watch=clock).up(
            tmp_path / "files", f"{server.store}/files", "--append"
        )
    assert clock.limits == ["--bwlimit=8", "--bwlimit=1024"]
    assert (server.store / "files" / "vda.qcow2").read_bytes() == (tmp_path / "files" / "vda.qcow2").read_bytes()


def limits_of_children() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    words: list[str] = []
    for child in children:
        with suppress(OSError):
            words += Path(f"/proc/{child}/cmdline").read_text().split("\0")
    return [word for word in words if word.startswith("--bwlimit=")]
