"""The first meeting with a server: whose key is known, what is written down, and what never is."""

import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import HostKeyError, RemoteUnreachableError, StorageError
from kvm_backup.repository.ssh.host_keys import is_known, shown_key, trust
from tests.integration.ship.servers import Server, make_key


def log_in(server: Server) -> None:
    with server.connection() as connection:
        assert connection.run("echo in").stdout == "in\n"


def configure(server: Server, *lines: str) -> None:
    """Before all else that is said of all hosts: ssh takes the first value."""
    server.config.write_text("".join(f"{line}\n" for line in lines) + server.config.read_text())


def second_host_key(server: Server) -> str:
    """Give the server a key of another kind beside its own; returns the line for known_hosts."""
    public = make_key(server.root / "host_key_ecdsa", "ecdsa").split()
    with (server.root / "sshd_config").open("a") as settings:
        settings.write(f"HostKey {server.root}/host_key_ecdsa\n")
    server.stop()
    server.start()
    return f"server {public[0]} {public[1]}\n"


def test_an_unknown_host_is_refused_until_its_key_is_trusted(server: Server) -> None:
    server.known_hosts.unlink()
    with pytest.raises(HostKeyError, match="not known"), server.connection():
        pass
    assert not is_known(server.address(), server.config)
    key = shown_key(server.address(), server.config)
    told = subprocess.run(["ssh-keygen", "-l", "-f", server.root / "host_key.pub"], capture_output=True, check=True)
    assert key.fingerprint.split()[1] in told.stdout.decode()
    assert not server.known_hosts.exists()
    assert trust(server.address(), key, server.config) == server.known_hosts
    assert is_known(server.address(), server.config)
    log_in(server)


def test_what_known_hosts_held_stays_as_it_was_and_a_link_stays_one(server: Server, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.write_bytes(b"other.example ssh-ed25519 AAAA \xff a comment in no encoding, and no newline")
    before = real.read_bytes()
    server.known_hosts.unlink()
    server.known_hosts.symlink_to(real)
    trust(server.address(), shown_key(server.address(), server.config), server.config)
    assert server.known_hosts.is_symlink()
    assert real.read_bytes().startswith(before + b"\nserver ssh-ed25519 ")
    log_in(server)


def test_a_key_that_is_known_already_is_not_written_a_second_time(server: Server) -> None:
    before = server.known_hosts.read_bytes()
    trust(server.address(), shown_key(server.address(), server.config), server.config)
    assert server.known_hosts.read_bytes() == before


def test_names_are_hashed_where_the_users_ssh_hashes_them(server: Server) -> None:
    server.known_hosts.unlink()
    configure(server, "HashKnownHosts yes")
    trust(server.address(), shown_key(server.address(), server.config), server.config)
    assert server.known_hosts.read_text().startswith("|1|")
    assert is_known(server.address(), server.config)
    log_in(server)


def test_every_file_of_known_hosts_counts_and_the_first_is_written(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "new" / "own"
    configure(server, f"UserKnownHostsFile {own} {server.known_hosts}")
    assert is_known(server.address(), server.config)
    server.known_hosts.write_text("")
    assert not is_known(server.address(), server.config)
    assert trust(server.address(), shown_key(server.address(), server.config), server.config) == own
    assert is_known(server.address(), server.config)
    assert server.known_hosts.read_text() == ""


@pytest.mark.parametrize("nowhere", ["none", "/dev/null"])
def test_where_ssh_keeps_no_known_hosts_that_is_told(server: Server, nowhere: str) -> None:
    configure(server, f"UserKnownHostsFile {nowhere}")
    key = shown_key(server.address(), server.config)
    with pytest.raises(StorageError, match="known hosts"):
        trust(server.address(), key, server.config)


def test_any_key_of_a_server_with_several_makes_it_known(server: Server) -> None:
    line = second_host_key(server)
    server.known_hosts.write_text(line)
    assert is_known(server.address(), server.config)
    log_in(server)


def test_a_key_of_another_kind_that_the_server_has_no_more_counts_as_changed(server: Server) -> None:
    public = make_key(server.root / "foreign", "ecdsa").split()
    server.known_hosts.write_text(f"server {public[0]} {public[1]}\n")
    with pytest.raises(HostKeyError, match="another host key"):
        is_known(server.address(), server.config)


def test_a_changed_key_is_told_as_such_and_never_added_beside_the_old_one(server: Server) -> None:
    server.stop()
    server.new_host_key()
    server.start()
    before = server.known_hosts.read_bytes()
    key = shown_key(server.address(), server.config)
    with pytest.raises(HostKeyError, match="another host key") as changed:
        is_known(server.address(), server.config)
    assert "ssh-keygen -R" in changed.value.hint
    with pytest.raises(HostKeyError, match="another host key"):
        trust(server.address(), key, server.config)
    assert server.known_hosts.read_bytes() == before
    server.know_host()
    assert is_known(server.address(), server.config)
    log_in(server)


def test_a_revoked_key_is_neither_known_nor_added(server: Server) -> None:
    server.known_hosts.write_text(f"@revoked {server.known_hosts.read_text()}")
    key = shown_key(server.address(), server.config)
    with pytest.raises(HostKeyError, match="revoked"):
        trust(server.address(), key, server.config)
    with pytest.raises(HostKeyError, match="revoked"), server.connection():
        pass


def test_of_a_server_that_is_away_nothing_is_said(server: Server) -> None:
    server.stop()
    with pytest.raises(RemoteUnreachableError):
        is_known(server.address(), server.config)
    with pytest.raises(RemoteUnreachableError):
        shown_key(server.address(), server.config)
