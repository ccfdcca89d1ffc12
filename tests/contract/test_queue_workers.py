"""The queue on each database: workers that tick at once, and a server that is away."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import URL

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.run import RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.runtime.queue import QueueClient
from kvm_backup.services.schedules.file import ScheduleFile
from tests.postgresql import PASSWORD, running_server

PATIENCE = 90.0
DUE = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
WORKER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo
from sqlalchemy import make_url
from kvm_backup.database.engine import Database
from kvm_backup.database.history import History
from kvm_backup.domain.run import RunResult, RunState
from kvm_backup.runtime.queue import DurableQueue
from kvm_backup.runtime.tick import Scheduler
from kvm_backup.services.schedules.file import ScheduleFile
shared, state, host, history_url, queue_url = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
history = History(Database.open(make_url(history_url)), lambda: datetime.now(UTC))

def note(line):
    with (state / "notes").open("a") as file:
        file.write(line + "\\n")

def execute(request, step):
    def work():
        note(f"did {request.workflow_id}")
        return {}
    history.start(request.run_id)
    step("work", work)
    history.finish(request.run_id, RunState.SUCCEEDED, RunResult())

queue = DurableQueue(database_url=queue_url, host=host, parallel=4, execute=execute, say=note)
queue.start()
scheduler = Scheduler(
    file=ScheduleFile(state, ZoneInfo("UTC")), history=history, enqueue=queue.client.enqueue, zone=ZoneInfo("UTC"),
    clock=lambda: datetime.now(UTC), say=note, host=host, repository="default", catch_up=True,
)
note("ready")
while not (shared / "tick").exists():
    pass
note(f"queued {len(scheduler.tick().queued)}")
while not (shared / "end").exists():
    time.sleep(0.05)
queue.stop()
"""


@dataclass
class Workers:
    """Processes that each work on the queue of a host, and tick once, all at the same time."""

    folder: Path
    history: URL
    queue: URL
    running: list[tuple[Path, subprocess.Popen[bytes]]] = field(default_factory=list)

    def start(self, name: str, host: str, schedules: list[Schedule]) -> None:
        state = self.folder / name
        state.mkdir()
        ScheduleFile(state, ZoneInfo("UTC")).update(lambda _: schedules)
        urls = [url.render_as_string(hide_password=False) for url in (self.history, self.queue)]
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(self.folder), str(state), host, *urls])
        self.running.append((state, process))

    def notes(self) -> list[list[str]]:
        """The lines of each."""
        paths = [state / "notes" for state, _process in self.running]
        return [path.read_text().splitlines() if path.exists() else [] for path in paths]

    def tick_at_once(self) -> None:
        self.until(lambda: all("ready" in lines for lines in self.notes()))
        (self.folder / "tick").touch()
        self.until(lambda: all("queued" in "".join(lines) for lines in self.notes()))

    def end(self) -> None:
        (self.folder / "end").touch()
        for _state, process in self.running:
            assert process.wait(PATIENCE) == 0

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.notes()
            time.sleep(0.05)


@pytest.fixture
def workers(url: URL, tmp_path: Path) -> Iterator[Workers]:
    queue = sqlite_url(tmp_path / "queue.db") if url.get_backend_name() == "sqlite" else url
    made = Workers(tmp_path, url, queue)
    yield made
    for _state, process in made.running:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def schedules(count: int) -> list[Schedule]:
    return [
        Schedule(f"{number:032x}", f"n{number}", ("web", "db"), "daily", f"{DUE:%H:%M}", next_run=DUE)
        for number in range(count)
    ]


def test_two_workers_that_tick_the_same_schedules_at_once_start_each_due_time_once(workers: Workers) -> None:
    for name in ("one", "two"):
        workers.start(name, "alpha", schedules(5))
    workers.tick_at_once()
    history = History(Database.open(workers.history), lambda: datetime.now(UTC))
    workers.until(lambda: [run.state for run in history.newest()] == [RunState.SUCCEEDED] * 10)
    workers.end()
    did = [line for lines in workers.notes() for line in lines if line.startswith("did")]
    expected = {f"did schedule:alpha:{one.id}:{DUE.isoformat()}:{vm}" for one in schedules(5) for vm in ("web", "db")}
    assert sorted(did) == sorted(expected)


def test_hosts_with_copies_of_one_file_of_schedules_each_do_their_own(workers: Workers) -> None:
    hosts = ["alpha", "beta"]
    for host in hosts:
        workers.start(host, host, schedules(1))
    workers.tick_at_once()
    history = History(Database.open(workers.history), lambda: datetime.now(UTC))
    workers.until(lambda: [run.state for run in history.newest()] == [RunState.SUCCEEDED] * 4)
    workers.end()
    for host, lines in zip(hosts, workers.notes(), strict=True):
        did = {line for line in lines if line.startswith("did")}
        assert did == {f"did schedule:{host}:{'0' * 32}:{DUE.isoformat()}:{vm}" for vm in ("web", "db")}


def test_a_server_that_is_away_is_an_error_at_once_without_the_password() -> None:
    with running_server() as server:
        url = server.new_database().render_as_string(hide_password=False)
        worker = [sys.executable, "-c", _MAKE, url]
        assert subprocess.run(worker, check=False, timeout=PATIENCE).returncode == 0
        client = QueueClient(database_url=url)
        server.stop()
        for call in (client.live_runs, lambda: client.begun_on("alpha"), lambda: client.take_up("x", "host:alpha")):
            with pytest.raises(DatabaseError) as caught:
                call()
            assert PASSWORD not in caught.value.message + caught.value.hint
        server.start()
        assert client.live_runs() == set()
        client.close()


_MAKE = """
import sys
from kvm_backup.runtime.queue import DurableQueue
queue = DurableQueue(database_url=sys.argv[1], host="alpha", parallel=1, execute=lambda *_: None, say=print)
queue.start()
queue.stop()
"""
