"""Drives the service as its user does: a process, schedules that are overdue, and what the history tells."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.product import Json, Product, Running

PATIENCE = 120.0
ROOT = Path(__file__).parents[2]
DATA = 64 * MIB
SLOW = "[backup]\ncompression_level = 15\n"
"""Settings with which a processor copies about 10 MiB a second, so that there is time to interrupt it."""


def busy_vm(lab: Lab, name: str, size: int = DATA) -> LabVm:
    """A running VM whose disk takes seconds to copy with the settings `SLOW`; `size` in bytes."""
    image = lab.folder / f"{name}.raw"
    with image.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    image.chmod(0o666)
    return lab.create_vm(name, [DiskSpec(image=image, image_format="raw")], guest=False)


_ASK = """
import sys
from kvm_backup.bootstrap import Application
from kvm_backup.domain.task import AsNewVm, InPlace, ToFolder
application = Application.from_environment()
repository, kind, *words = sys.argv[1:]
match kind:
    case "verify":
        run = application.queue.verify(words[0], repository or None, "zoé", deep=True)
    case "prune":
        run = application.queue.prune(words[0], repository or None, "zoé")
    case _:
        targets = {
            "to": lambda folder: ToFolder(folder),
            "as": lambda name, disks_in: AsNewVm(name, disks_in, start=True),
            "in-place": InPlace,
        }
        run = application.queue.restore(words[0], targets[kind](*words[1:]), repository or None, "zoé")
print(run.id)
"""


class Service:
    """The service of one product; `start` it, and use what that gives as a context manager."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def start(self) -> Running:
        """Start it and wait until it has ticked."""
        before = datetime.now(UTC).isoformat()
        running = self.product.start("daemon")

        def ticked() -> bool:
            assert running.process.poll() is None, running.finish()
            beat = self.heartbeat()
            return beat.get("pid") == running.pid and (beat["ticked"] or "") >= before

        until(ticked, "tick")
        return running

    def schedule(self, name: str, vm: str, overdue: timedelta = timedelta(minutes=10), **extra: object) -> datetime:
        """Make a daily schedule that was due so long ago; the due time. `extra` are keys of its object."""
        self.product.run("schedule", "add", name, "--vms", vm, "--type", "daily", "--time", "02:00").succeeded()
        due = (datetime.now(UTC) - overdue).replace(microsecond=0)
        file = self.product.state / "scheduled_backups.json"
        held = json.loads(file.read_text())
        for entry in held:
            if entry["name"] == name:
                entry |= {"next_run": due.isoformat(), **extra}
        file.write_text(json.dumps(held))
        return due

    def schedule_named(self, name: str) -> Json:
        """The object of a schedule as the file holds it."""
        held: list[Json] = json.loads((self.product.state / "scheduled_backups.json").read_text())
        return next(entry for entry in held if entry["name"] == name)

    def runs(self) -> list[Json]:
        """The history, newest first."""
        found: list[Json] = self.product.run("run", "list", "--json").succeeded().json
        return found

    def run_of(self, run_id: str) -> Json:
        """The object of one run of the history."""
        found: Json = self.product.run("run", "show", run_id, "--json").succeeded().json
        return found

    def ask(self, *words: str | Path, repository: str = "") -> str:
        """Queue a run as the web page does: `verify` a point, `prune` a folder, restore a point `to` a folder, `as`
        a new VM with disks in a folder, or `in-place`. Its id.
        """
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, repository, *words],
            env=self.product.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return asked.stdout.strip()

    def told_to_end_in(self, step: str) -> None:
        """Run the service until it gets SIGTERM, when a run has dealt with the first bytes of that step."""
        subprocess.run(
            [sys.executable, "-m", "tests.integration.faults.driver", f"told-to-end:{step}", "daemon"],
            env=self.product.environment,
            check=True,
            capture_output=True,
            timeout=120,
            cwd=ROOT,
        )

    def ended_after_the_restart(self, run_id: str) -> Json:
        """Start the service, and wait until that run has ended; the run."""
        with self.start():
            until(lambda: self.run_of(run_id)["ended"] is not None, "end the run", pause=0.3)
            return self.run_of(run_id)

    def points(self, vm: LabVm) -> list[Path]:
        """The folders of the VM's points that are visible."""
        return sorted(self.product.repository.glob(f"*--{vm.uuid[:8]}/2*"))

    def wait_for_line(self, vm: LabVm, **wanted: object) -> None:
        """Wait until the log has a line of this VM with these values."""
        log = self.product.state / "logs" / "kvm-backup.jsonl"

        def there() -> bool:
            text = log.read_text() if log.exists() else ""
            lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            return any(line["vm"] == vm.name and wanted.items() <= line.items() for line in lines)

        until(there, f"log {wanted}", pause=0.005)

    def wait_for_run(self, state: str) -> Json:
        """Wait until the only run of the history is in this state."""
        until(lambda: [run["state"] for run in self.runs()] == [state], f"have one run that {state}", pause=0.3)
        return self.runs()[0]

    def heartbeat(self) -> Json:
        """What the service last said of itself; empty when it said nothing."""
        try:
            held: Json = json.loads((self.product.state / "daemon.json").read_text())
        except FileNotFoundError:
            return {}
        return held


def second_attempt(run: Json) -> None:
    """Whether a run that a page asked for was cut off once, and then went well."""
    assert (run["state"], run["attempt"], run["error"], run["trigger"]) == ("succeeded", 2, None, "web"), run


def until(condition: Callable[[], bool], what: str, *, pause: float = 0.05) -> None:
    """Wait for something that the product does by itself."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not {what} within {PATIENCE:.0f} s"
        time.sleep(pause)


def freeze(running: Running) -> None:
    """Stop the process where it is, so that a test can look before it kills."""
    running.signal(signal.SIGSTOP)
    until(lambda: Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt", "stand still")
