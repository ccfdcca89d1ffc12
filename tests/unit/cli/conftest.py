"""The command `kvm-backup` as a process of its own, with a state folder of its own and without libvirt."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked import run_forked
from tests.unit.builders import Shelf

COMMAND = Path(sys.executable).with_name("kvm-backup")


@dataclass(frozen=True)
class Ended:
    """What a command left. `error` is what it printed on standard error."""

    status: int
    output: str
    error: str


@dataclass
class Command:
    """Runs `kvm-backup`; `environment` is what differs from a clean one."""

    environment: dict[str, str]

    def __call__(self, *arguments: str | bytes, **environment: str) -> Ended:
        status, output, error = run_forked(arguments, {**self.environment, **environment})
        return Ended(status, output.decode(), error.decode())

    def started(self, *arguments: str, **environment: str) -> Ended:
        """The same by the program of that name, from the very beginning."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def command(tmp_path: Path) -> Command:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    return Command(
        kept
        | {
            "PYTHONUTF8": "1",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "KVM_BACKUP_CONFIG": str(_empty(tmp_path / "kvm-backup.toml")),
            "KVM_BACKUP_STATE_DIR": str(tmp_path / "state"),
            "KVM_BACKUP_LIBVIRT__URI": "qemu+unix:///system?socket=/nonexistent",
        }
    )


def _empty(path: Path) -> Path:
    path.write_text("")
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """The default repository of `command`."""
    (tmp_path / "state").mkdir()
    return Shelf(tmp_path / "state" / "repository")
