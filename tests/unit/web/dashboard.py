"""The product's own server as a process of its own, with a state folder that nobody else has."""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import httpx

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.account import Role

COMMAND = Path(sys.prefix) / "bin" / "kvm-backup"
PASSWORD = "a long sentence of nobody"
PATIENCE = 60.0
_ADDRESS = re.compile(r"^dashboard: (https?://[^\s]+)$", re.MULTILINE)


@dataclass
class Dashboard:
    """`kvm-backup serve` on a free port. `settings` are variables, such as KVM_BACKUP_WEB__HOST."""

    state: Path
    settings: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (str(COMMAND), "serve")
    process: "subprocess.Popen[bytes] | None" = None
    said: str = ""

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        own = {
            "PYTHONUTF8": "1",
            "KVM_BACKUP_LANG": "en",
            "KVM_BACKUP_CONFIG": str(self._no_settings()),
            "KVM_BACKUP_STATE_DIR": str(self.state),
            "KVM_BACKUP_TIMEZONE": "Europe/Paris",
            "KVM_BACKUP_LIBVIRT__URI": "qemu+unix:///system?socket=/nonexistent",
            "KVM_BACKUP_WEB__PORT": "0",
        }
        return kept | own | self.settings

    @cached_property
    def application(self) -> Application:
        """The same state folder, from this process."""
        return Application(check({"state_dir": str(self.state), "timezone": "Europe/Paris"}, None))

    def _no_settings(self) -> Path:
        self.state.mkdir(parents=True, exist_ok=True)
        file = self.state.parent / "kvm-backup.toml"
        file.touch()
        return file

    def start(self) -> "Dashboard":
        """Start it without waiting."""
        self.process = subprocess.Popen(
            self.program,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return self

    def wait_for_line(self, pattern: "re.Pattern[str]") -> "re.Match[str]":
        """Read what it says until a line matches."""
        assert self.process is not None
        assert self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stderr, selectors.EVENT_READ)
            while not (found := pattern.search(self.said)):
                assert ready.select(max(0.0, deadline - time.monotonic())), self.said
                chunk = os.read(self.process.stderr.fileno(), 65536)
                assert chunk, f"it ended and said: {self.said}"
                self.said += chunk.decode()
        return found

    @cached_property
    def url(self) -> str:
        """Where it serves, as it says itself; without a user its next line is an invitation."""
        return self.wait_for_line(_ADDRESS)[1]

    def client(self, **options: object) -> httpx.Client:
        """Somebody who has not logged in."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)  # type: ignore[arg-type]

    def logged_in(self, role: Role = Role.ADMINISTRATOR, **options: object) -> httpx.Client:
        """A browser of a user with this role, who has the role's name."""
        accounts = self.application.accounts
        if role.value not in {account.name for account in accounts.all()}:
            accounts.add(role.value, role, PASSWORD)
        with self.client() as visitor:
            form = visitor.get("/login")
            fields = {"csrf": csrf_of(form.text), "name": role.value, "password": PASSWORD}
            answer = visitor.post("/login", data=fields)
            assert answer.status_code == 303, answer.text
            return self.client(cookies=visitor.cookies, **options)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Tell it to end; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        self.said += self.process.communicate(timeout=PATIENCE)[1].decode()
        return self.process.returncode

    def ended(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        assert self.process is not None
        self.said += self.process.communicate(timeout=PATIENCE)[1].decode()
        return self.process.returncode


@contextmanager
def running(dashboard: Dashboard) -> Iterator[Dashboard]:
    """Started, and gone at the end whatever happens."""
    dashboard.start()
    try:
        yield dashboard
    finally:
        if dashboard.process is not None and dashboard.process.poll() is None:
            dashboard.process.kill()
            dashboard.process.communicate()


def csrf_of(page: str) -> str:
    """The token of the first form of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]
