"""The command `kvm-backup` as a process of its own, with a state folder of its own and without libvirt."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.builders import Shelf

COMMAND = Path(sys.executable).with_name("kvm-backup")
FORKER = Path(__file__).with_name("forker.py")


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
    forker: "subprocess.Popen[str]"
    streams: Path

    def __call__(self, *arguments: str | bytes, **environment: str) -> Ended:
        output, error = self.streams / "output", self.streams / "error"
        request = {
            "arguments": [os.fsdecode(argument) for argument in arguments],
            "environment": {**self.environment, **environment},
            "output": str(output),
            "error": str(error),
        }
        assert self.forker.stdin is not None
        assert self.forker.stdout is not None
        self.forker.stdin.write(json.dumps(request) + "\n")
        self.forker.stdin.flush()
        status = int(self.forker.stdout.readline())
        return Ended(status, output.read_text(), error.read_text())

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


@pytest.fixture(scope="session")
def forker() -> Iterator["subprocess.Popen[str]"]:
    """The process that `command` asks; see forker.py."""
    with subprocess.Popen(
        [sys.executable, "-X", "utf8", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def command(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, forker: "subprocess.Popen[str]") -> Command:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    return Command(
        kept
        | {
            "PYTHONUTF8": "1",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "KVM_BACKUP_CONFIG": str(_empty(tmp_path / "kvm-backup.toml")),
            "KVM_BACKUP_STATE_DIR": str(tmp_path / "state"),
            "KVM_BACKUP_LIBVIRT__URI": "qemu+unix:///system?socket=/nonexistent",
        },
        forker,
        tmp_path_factory.mktemp("streams"),
    )


def _empty(path: Path) -> Path:
    path.write_text("")
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """The default repository of `command`."""
    (tmp_path / "state").mkdir()
    return Shelf(tmp_path / "state" / "repository")
