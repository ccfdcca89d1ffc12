"""Real OpenSSH servers for tests: each on a port of loopback, with keys and accounts of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import SshConnection

ADD_ONLY = Path(__file__).parents[3] / "scripts/kvm-backup-add-only"


def make_key(file: Path, kind: str = "ed25519") -> str:
    """A new key pair; returns the public one."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file], check=True)
    return file.with_name(f"{file.name}.pub").read_text(encoding="utf-8").strip()


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    """Fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """One sshd, and the configuration file of ssh that reaches it.

    The accounts `shell`, `rrsync`, `adder` (rrsync that is told to add only), `keeper` (can only add) and `reader`
    are Hosts of that file. It runs from the beginning; the end of a `with` block stops it.
    """

    root: Path
    host: str = "127.0.0.1"
    namespace: str = ""
    """The network namespace that it runs in; `host` is an address of that."""
    port: int = field(default_factory=free_port)
    _sshd: subprocess.Popen[bytes] | None = None

    ACCOUNTS: ClassVar = {
        "shell": "",
        "rrsync": 'command="/usr/bin/rrsync -no-lock {store}",restrict ',
        "adder": 'command="/usr/bin/rrsync -wo -no-del -no-overwrite -no-lock {store}",restrict ',
        "keeper": f'command="{ADD_ONLY} {{store}}",restrict ',
        "reader": 'command="/usr/bin/rrsync -ro {store}",restrict ',
    }

    def __post_init__(self) -> None:
        self.store.mkdir(parents=True)
        self.new_host_key()
        keys = {name: make_key(self.root / name) for name in self.ACCOUNTS}
        self.authorized.write_text(
            "".join(f"{options.format(store=self.store)}{keys[name]}\n" for name, options in self.ACCOUNTS.items())
        )
        self.know_host()
        hosts = "".join(f"Host {name}\n  IdentityFile {self.root / name}\n" for name in self.ACCOUNTS)
        self.config.write_text(
            f"{hosts}Host *\n  HostName {self.host}\n  Port {self.port}\n  User root\n  IdentitiesOnly yes\n"
            f"  HostKeyAlias server\n  UserKnownHostsFile {self.known_hosts}\n"
        )
        (self.root / "sshd_config").write_text(
            f"ListenAddress {self.host}:{self.port}\nHostKey {self.root}/host_key\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {self.authorized}\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            # What this host's own account does at each login is none of it.
            f"SetEnv HOME={self.root}\n"
        )
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def config(self) -> Path:
        return self.root / "ssh_config"

    @property
    def authorized(self) -> Path:
        return self.root / "authorized_keys"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    def add_account(self, name: str, options: str) -> None:
        """Another Host of the configuration, and what its key may do."""
        key = make_key(self.root / name)
        with self.authorized.open("a") as keys:
            keys.write(f"{options}{key}\n")
        config = self.config.read_text()
        self.config.write_text(f"Host {name}\n  IdentityFile {self.root / name}\n{config}")

    def new_host_key(self) -> None:
        for old in self.root.glob("host_key*"):
            old.unlink()
        make_key(self.root / "host_key")

    def know_host(self) -> None:
        public = (self.root / "host_key.pub").read_text(encoding="utf-8").split()
        self.known_hosts.write_text(f"server {public[0]} {public[1]}\n")

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        self._sshd = subprocess.Popen(
            [*inside, "/usr/sbin/sshd", "-D", "-e", "-f", self.root / "sshd_config"], stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def stop(self) -> None:
        if self._sshd is not None:
            self.cut()
            self._sshd.terminate()
            self._sshd.wait()
            self._sshd = None

    def cut(self) -> None:
        """Kill what serves the connections that are open now; the server goes on."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all that serves the connections that are open now."""
        for process in self._serving():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def serves(self, program: str) -> bool:
        """Whether a connection runs that program here."""
        return bool(self.serving(program))

    def serving(self, program: str) -> list[int]:
        """The processes of that program that connections run here, oldest last."""
        return [process for process in self._serving() if self._name(process) == program]

    def is_connected(self) -> bool:
        return bool(self._serving())

    def _serving(self) -> list[int]:
        assert self._sshd is not None
        found: list[int] = []
        waiting = self._children(self._sshd.pid)
        while waiting:
            process = waiting.pop()
            found.append(process)
            waiting += self._children(process)
        return found[::-1]

    @staticmethod
    def _name(process: int) -> str:
        with suppress(OSError):
            return Path(f"/proc/{process}/comm").read_text().strip()
        return ""

    def address(self, account: str = "shell") -> SshAddress:
        return SshAddress(account, str(self.store) if account == "shell" else "/")

    def connection(self, account: str = "shell", alive_interval: int = 15) -> SshConnection:
        return SshConnection(self.address(account), config=self.config, alive_interval=alive_interval)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    @staticmethod
    def _children(pid: int) -> list[int]:
        with suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []
