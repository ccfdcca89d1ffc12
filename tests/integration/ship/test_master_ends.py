"""The ssh that holds a connection: it ends when we do, and the user's options do not part it from us."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.servers import Server, wait_until

HOLD = """
import sys
from pathlib import Path
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import SshConnection
with SshConnection(SshAddress("shell", "/"), config=Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_connection_ends_when_who_opened_it_is_killed(server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, server.config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        [master] = children(holder.pid)
        assert name(master) == "ssh"
        os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: name(master) != "ssh")
    wait_until(lambda: not server.is_connected())


@pytest.mark.parametrize("option", ["ForkAfterAuthentication yes", "StdinNull yes"])
def test_options_of_the_user_that_would_part_us_from_ssh_do_not_count(
    server: Server, tmp_path: Path, option: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_bytes(b"1")
    with server.config.open("a") as config:
        config.write(f"  {option}\n")
    with server.connection() as connection:
        Transfer(connection).up(tmp_path / "files", f"{server.store}/files")
    assert (server.store / "files" / "one").read_bytes() == b"1"
    wait_until(lambda: not server.is_connected())


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


def name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
