"""Accounts that do not answer as rsync does: the cause is told, and nobody waits for ever."""

import os
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteSetupError, RemoteUnreachableError
from kvm_backup.repository.ssh import account, connection, transfer
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.points import TOKEN, big_shipment, files_of
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

OURS = 'eval \\"exec $SSH_ORIGINAL_COMMAND\\"'


def send(server: Server, login: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "one").write_bytes(b"1")
    with server.connection(login) as opened:
        Transfer(opened).up(folder, f"{server.store}/files")


@pytest.mark.parametrize(
    ("command", "text"),
    [(f"echo Welcome to the nas; {OURS}", "Welcome to the nas"), ("/usr/sbin/nologin", "not available")],
)
def test_what_an_account_prints_by_itself_is_told(server: Server, tmp_path: Path, command: str, text: str) -> None:
    server.add_account("noisy", f'command="{command}" ')
    with pytest.raises(RemoteSetupError, match=text) as told:
        send(server, "noisy", tmp_path / "files")
    assert "nologin" in told.value.hint


def test_an_account_that_ends_at_once_is_not_called_away(server: Server, tmp_path: Path) -> None:
    server.add_account("gone", 'command="exit 0" ')
    with pytest.raises(RemoteUnreachableError, match="before it said anything") as told:
        send(server, "gone", tmp_path / "files")
    assert "authorized_keys" in told.value.hint


def test_a_server_whose_rsync_hangs_is_given_up_for_now(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SILENCE", 2)
    server.add_account("hangs", 'command="exec sleep 600" ')
    with pytest.raises(RemoteUnreachableError, match="does nothing any more") as told:
        send(server, "hangs", tmp_path / "files")
    assert told.value.retryable


def test_a_server_whose_login_shell_hangs_is_given_up_for_now(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_ANSWER_SECONDS", 2)
    server.add_account("hangs", 'command="exec sleep 600" ')
    with server.connection("hangs") as opened, pytest.raises(RemoteUnreachableError, match="did not end") as told:
        account_of(opened)
    assert told.value.retryable
    assert "its disk may hang" in told.value.hint


def test_a_shipment_whose_digests_hang_there_is_given_up_for_now_and_goes_on_with_what_arrived(
    server: Server, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 5)
    hung = server.root / "hung"
    hung.touch()
    hangs = f"case $SSH_ORIGINAL_COMMAND in *openssl*) [ ! -e {hung} ] || exec sleep 600;; esac"
    server.add_account("hangs", f'command="{hangs}; {OURS}" ')
    shipment = big_shipment(shelf, os.urandom(4 << 20))
    address = SshAddress("hangs", str(server.store))
    with Remote(address, config=server.config, token=TOKEN) as remote:
        remote.found(shelf.root)
        with pytest.raises(RemoteUnreachableError, match="the server is there"):
            remote.ship(shipment)
        assert not (server.store / shipment.manifest.id).exists()
        hung.unlink()
        assert remote.ship(shipment).moved.literal == 0
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_large_point_may_take_the_time_that_reading_it_takes() -> None:
    day = 86400
    assert connection.patience_for(0) == connection.PATIENCE
    assert 0.9 * day < connection.patience_for(900 << 30) < 1.2 * day


def test_a_login_shell_that_hands_on_no_lines_is_none_for_us(server: Server) -> None:
    # csh ends a quoted word at the end of its line.
    lines = "case $SSH_ORIGINAL_COMMAND in *$'\\n'*) echo Unmatched >&2; exit 1;; esac"
    server.add_account("csh", f'command="{lines}; {OURS}" ')
    with server.connection("csh") as csh:
        assert csh.run("echo here").stdout == "here\n"
        assert account_of(csh) is Account.RSYNC
