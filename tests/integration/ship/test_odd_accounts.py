"""Accounts that do not answer as rsync does: the cause is told, and nobody waits for ever."""

from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteSetupError, RemoteUnreachableError
from kvm_backup.repository.ssh import transfer
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.servers import Server

OURS = 'eval \\"exec $SSH_ORIGINAL_COMMAND\\"'


def send(server: Server, account: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "one").write_bytes(b"1")
    with server.connection(account) as connection:
        Transfer(connection).up(folder, f"{server.store}/files")


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


def test_a_login_shell_that_hands_on_no_lines_is_none_for_us(server: Server) -> None:
    # csh ends a quoted word at the end of its line.
    lines = "case $SSH_ORIGINAL_COMMAND in *$'\\n'*) echo Unmatched >&2; exit 1;; esac"
    server.add_account("csh", f'command="{lines}; {OURS}" ')
    with server.connection("csh") as connection:
        assert connection.run("echo here").stdout == "here\n"
        assert account_of(connection) is Account.RSYNC
