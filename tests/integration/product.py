"""Drives the product as its user does: the command `kvm-backup`, as a process, with a state folder of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from tests.forked import run_forked

COMMAND = Path(sys.executable).with_name("kvm-backup")
SECONDS = 240.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command that ended left: its exit code and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.stdout)

    @property
    def events(self) -> list[Json]:
        """Standard output as lines of JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def finished(self) -> Json:
        """The last event of the only VM of a backup."""
        found = [event for event in self.events if event["event"] == "finished"]
        assert len(found) == 1, self
        return found[0]

    def succeeded(self) -> Self:
        """Itself, when the exit code is 0."""
        assert self.status == 0, f"exit code {self.status}\n{self.stdout}\n{self.stderr}"
        return self

    def failed(self, status: int) -> Self:
        """Itself, when it ended with this exit code and one clear error: no traceback, and a hint."""
        assert self.status == status, f"exit code {self.status}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        assert "unexpected" not in self.stderr, self.stderr
        return self


@dataclass(slots=True)
class Running:
    """A command that goes on; use it as a context manager, which kills what still runs at its end."""

    process: subprocess.Popen[str]
    stderr: IO[str]
    lines: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.stderr.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, **wanted: object) -> Json:
        """Read events until one has all these values, as wait_for(event="step", step="copy"); that event."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.lines.append(line)
            event: Json = json.loads(line)
            if all(event.get(key) == value for key, value in wanted.items()):
                return event
        raise AssertionError(f"it ended without {wanted}: {self.finish()}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.process.wait(30)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self, timeout: float = SECONDS) -> Ended:
        """Wait until it ends by itself."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        status = self.process.wait(timeout)
        self.stderr.seek(0)
        return Ended(status, "".join(self.lines), self.stderr.read())


class Product:
    """The installed command with its own state folder, which QEMU's user must be able to enter.

    `settings` is the text of its settings file. What `variables` sets wins over everything.
    """

    def __init__(self, state: Path, settings: str = "", variables: Mapping[str, str] | None = None) -> None:
        self.state = state
        self.state.mkdir(mode=0o711)
        self.state.chmod(0o711)
        self.settings = state / "kvm-backup.toml"
        self.configure(settings)
        # What widens or colours the tester's own terminal is no concern of the product's output here.
        own = {"COLUMNS", "LINES", "FORCE_COLOR", "TERM"}
        others = {
            key: value for key, value in os.environ.items() if key not in own and not key.startswith("KVM_BACKUP_")
        }
        self.environment = others | {
            "KVM_BACKUP_STATE_DIR": str(state),
            "KVM_BACKUP_CONFIG": str(self.settings),
            **(variables or {}),
        }

    @property
    def repository(self) -> Path:
        """The folder of the default repository."""
        return self.state / "repository"

    def configure(self, settings: str) -> None:
        """Replace the settings file."""
        self.settings.write_text(settings)

    def run(self, *words: str | Path, stdin: str | None = None) -> Ended:
        """Run a command to its end. Without `stdin` there is nothing to read, and in no case a terminal.

        What `start` runs is started from the very beginning, as a user does.
        """
        status, output, error = run_forked(words, self.environment, stdin=stdin or "", timeout=SECONDS)
        return Ended(status, output.decode(), error.decode())

    def start(self, *words: str | Path) -> Running:
        """Start a command and return while it runs."""
        stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - Running closes it
        process = subprocess.Popen(
            [COMMAND, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        return Running(process, stderr)

    def backup(self, vm: str, mode: str | None = None, repository: str | Path | None = None) -> Json:
        """Make a point, which must succeed; the last event (`point`, `mode`, `reason`, ...)."""
        done = self.run(*self.backup_words(vm, mode, repository)).succeeded()
        assert done.finished["error"] is None, done
        return done.finished

    def start_backup(self, vm: str, mode: str | None = None, repository: str | Path | None = None) -> Running:
        """Start a backup, to be followed by its events."""
        return self.start(*self.backup_words(vm, mode, repository))

    def backup_words(self, vm: str, mode: str | None = None, repository: str | Path | None = None) -> Sequence[str]:
        """The words of a backup's command line."""
        return ["backup", "--json", *_option("--mode", mode), *_option("--repository", repository), "--", vm]

    def points(self, vm: str | None = None, repository: str | Path | None = None) -> list[Json]:
        """`point list --json`, oldest first; none, for a VM that has none, is no error here."""
        name = [] if vm is None else ["--", vm]
        done = self.run("point", "list", "--json", *_option("--repository", repository), *name)
        if vm is None or done.json:
            done.succeeded()
        rows = done.json
        assert isinstance(rows, list)
        return rows

    def point(self, point: str, repository: str | Path | None = None) -> Json:
        """`point show --json`."""
        shown = self.run("point", "show", "--json", *_option("--repository", repository), "--", point)
        found: Json = shown.succeeded().json
        return found

    def path_of(self, point: str, repository: Path | None = None) -> Path:
        """The folder of a point, by its id."""
        return (repository or self.repository) / point

    def restore(
        self, point: str, to: Path, image_format: str = "qcow2", repository: str | Path | None = None
    ) -> dict[str, Path]:
        """Restore to a folder, which must succeed; the disk's file by target."""
        options = ["--json", "--format", image_format, *_option("--repository", repository)]
        done = self.run("restore", "--to", to, *options, "--", point).succeeded()
        return {disk["disk"]: Path(disk["path"]) for disk in done.events[-1]["disks"]}

    def verify(self, *words: str | Path) -> tuple[int, list[Json]]:
        """`verify --json`: its exit code and a verdict for each point."""
        done = self.run("verify", "--json", *words)
        assert done.status in (0, 1), done
        return done.status, done.events

    def leftovers(self, vm: str) -> list[Json]:
        """What `doctor` finds left behind of one VM; other VMs of this host belong to other tests."""
        return [one for one in self.doctor()["leftovers"] if one["vm"] == vm]

    def doctor(self, *options: str) -> Json:
        """`doctor --json`: `checks` and `leftovers`."""
        done = self.run("doctor", "--json", *options)
        assert done.stdout, done
        found: Json = done.json
        return found


def _option(name: str, value: object | None) -> list[str]:
    return [] if value is None else [name, str(value)]
