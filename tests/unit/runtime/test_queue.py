"""The queue on the real DBOS, in processes of their own that are killed."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.task import BackupTask, ShipTask
from kvm_backup.runtime.queue import DurableQueue, QueueClient, Relay

PATIENCE = 60.0
WORKER = """
import resource, signal, sys, time
from pathlib import Path
from kvm_backup.runtime.queue import DurableQueue, Suspended
folder = Path(sys.argv[1])

def note(line):
    with (folder / "notes").open("a") as file:
        file.write(line + "\\n")

def execute(request, step):
    def work(name):
        note(f"{name} {request.run_id}")
        while not (folder / f"go-{name}-{request.run_id}").exists():
            if (folder / "end").exists():
                note(f"suspended {request.run_id}")
                raise Suspended
            time.sleep(0.02)
        return {}
    step("first", lambda: work("first"))
    step("second", lambda: work("second"))
    note(f"done {request.run_id}")

queue = DurableQueue(database_url=f"sqlite:///{folder}/queue.db", host="host", parallel=2, execute=execute, say=note)
queue.start()
note("started")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
turn = 0
while not (folder / "end").exists():
    # Like a full disk: no file may grow beyond a size that the database has long passed.
    room = 20_000 if (folder / "full").exists() else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    turn += 1
    if turn % 50 == 0:
        try:
            queue.take_up_orphans()
        except Exception as error:
            note(f"trouble {type(error).__name__}")
    time.sleep(0.02)
time.sleep(1)
queue.stop()
note("stopped")
"""


class Worker:
    """A process that works on the queue of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        count = self.notes().count("started")
        self.process = subprocess.Popen([sys.executable, "-c", WORKER, str(self.folder)])
        self.until(lambda: self.notes().count("started") == count + 1)

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def enqueue(self, *requests: RunRequest) -> None:
        client = QueueClient(database_url=f"sqlite:///{self.folder}/queue.db")
        for request in requests:
            client.enqueue(request)
        client.close()

    def let(self, *names: str) -> None:
        for name in names:
            (self.folder / f"go-{name}").touch()

    def live_runs(self) -> set[str]:
        client = QueueClient(database_url=f"sqlite:///{self.folder}/queue.db")
        try:
            return client.live_runs()
        finally:
            client.close()

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def worker(tmp_path: Path) -> "Worker":
    return Worker(tmp_path)


def request(run_id: str, vm: str) -> RunRequest:
    return RunRequest(
        run_id=run_id,
        host="host",
        vm=vm,
        task=BackupTask(Mode.FULL),
        repository="default",
        trigger=Trigger.COMMAND,
        created=datetime(2026, 11, 22, tzinfo=UTC),
    )


def test_a_run_killed_in_a_step_goes_on_with_that_step_after_the_restart(worker: Worker) -> None:
    worker.start()
    worker.let("first-r1")
    worker.enqueue(request("r1", "web"))
    worker.until(lambda: "second r1" in worker.notes())
    worker.kill()
    assert worker.live_runs() == {"r1"}
    worker.let("second-r1")
    worker.start()
    worker.until(lambda: "done r1" in worker.notes())
    worker.kill()
    assert worker.notes().count("first r1") == 1
    assert worker.notes().count("second r1") == 2
    assert not [line for line in worker.notes() if line.startswith("dbos")]


def test_two_runs_of_one_vm_never_go_on_at_once_and_no_more_than_the_limit_of_all(worker: Worker) -> None:
    worker.start()
    worker.enqueue(request("a1", "a"), request("a2", "a"), request("b1", "b"), request("c1", "c"))
    worker.until(lambda: len([line for line in worker.notes() if line.startswith("first")]) == 2)
    time.sleep(2)
    going = [line.split()[1] for line in worker.notes() if line.startswith("first")]
    assert len(going) == 2
    assert {"a1", "a2"} - set(going)
    runs = ("a1", "a2", "b1", "c1")
    worker.let(*(f"{step}-{run}" for run in runs for step in ("first", "second")))
    worker.until(lambda: {f"done {run}" for run in runs} <= set(worker.notes()))
    notes = worker.notes()
    worker.kill()
    assert notes.index("done a1") < notes.index("first a2")


def shipment(run_id: str, vm: str, remote: str) -> RunRequest:
    return replace(request(run_id, vm), task=ShipTask(f"{vm}--1a2b3c4d"), repository=remote)


def test_what_ships_keeps_no_backup_waiting_and_goes_to_each_server_one_at_a_time_of_a_vm(worker: Worker) -> None:
    worker.start()
    worker.enqueue(shipment("s1", "a", "nas"), shipment("s2", "a", "nas"), shipment("s3", "a", "far"))
    worker.until(lambda: {"first s1", "first s3"} <= set(worker.notes()))
    worker.enqueue(request("a1", "a"), request("b1", "b"))
    worker.until(lambda: {"first a1", "first b1"} <= set(worker.notes()))
    assert "first s2" not in worker.notes()
    worker.let("first-s1", "second-s1", "first-s2", "second-s2")
    worker.until(lambda: "done s2" in worker.notes())
    worker.kill()


def test_a_shipment_that_was_killed_goes_on_after_the_restart_in_its_own_queue(worker: Worker) -> None:
    worker.start()
    worker.enqueue(shipment("s1", "a", "nas"))
    worker.until(lambda: "first s1" in worker.notes())
    worker.kill()
    worker.let("first-s1", "second-s1")
    worker.start()
    worker.until(lambda: "done s1" in worker.notes())
    worker.kill()


def test_a_run_that_is_queued_twice_is_done_once(worker: Worker) -> None:
    worker.start()
    worker.let("first-r1", "second-r1", "first-r2", "second-r2")
    again = replace(request("r1", "web"), created=datetime(2027, 1, 1, tzinfo=UTC))
    worker.enqueue(request("r1", "web"), again)
    worker.until(lambda: "done r1" in worker.notes())
    worker.enqueue(again, request("r2", "web"))
    worker.until(lambda: "done r2" in worker.notes())
    worker.kill()
    assert worker.notes().count("first r1") == 1


def test_a_run_that_is_suspended_is_taken_up_by_the_next_start(worker: Worker) -> None:
    worker.start()
    worker.enqueue(request("r1", "web"))
    worker.until(lambda: "first r1" in worker.notes())
    (worker.folder / "end").touch()
    worker.until(lambda: "stopped" in worker.notes())
    assert worker.process is not None
    assert worker.process.wait(PATIENCE) == 0
    (worker.folder / "end").unlink()
    worker.let("first-r1", "second-r1")
    worker.start()
    worker.until(lambda: "done r1" in worker.notes())
    worker.kill()
    assert worker.notes().count("first r1") == 2


def test_a_disk_that_is_full_for_a_while_loses_no_run_and_holds_up_no_other_of_the_vm(worker: Worker) -> None:
    worker.start()
    worker.enqueue(request("r1", "web"), request("r2", "web"))
    worker.until(lambda: "first r1" in worker.notes())
    (worker.folder / "full").touch()
    time.sleep(0.5)
    worker.let("first-r1", "second-r1", "first-r2", "second-r2")
    time.sleep(5)
    assert "done r2" not in worker.notes()
    (worker.folder / "full").unlink()
    worker.until(lambda: {"done r1", "done r2"} <= set(worker.notes()))
    worker.until(lambda: worker.live_runs() == set())
    worker.kill()


def test_a_run_whose_wait_was_computed_while_the_clock_was_years_ahead_begins_now(worker: Worker) -> None:
    worker.start()
    worker.let("first-early", "second-early")
    client = QueueClient(database_url=f"sqlite:///{worker.folder}/queue.db")
    client.enqueue(request("early", "web"), delay=365 * 86400)
    client.enqueue(request("later", "db"), delay=1800)
    worker.until(lambda: "done early" in worker.notes())
    assert client.live_runs() == {"later"}
    client.close()
    worker.kill()


def test_a_queue_whose_file_was_moved_away_goes_on_in_a_new_one_with_what_waited(worker: Worker) -> None:
    worker.start()
    worker.enqueue(request("going", "web"), request("waiting", "web"))
    worker.until(lambda: "first going" in worker.notes())
    for part in worker.folder.glob("queue.db*"):
        part.rename(worker.folder / f"old-{part.name}")
    worker.let("first-going", "second-going", "first-waiting", "second-waiting", "first-new", "second-new")
    worker.until(lambda: any("opened anew" in note for note in worker.notes()))
    worker.enqueue(request("new", "db"))
    worker.until(lambda: {"done going", "done waiting", "done new"} <= set(worker.notes()))
    assert worker.notes().count("done waiting") == 1
    assert (worker.folder / "queue.db").stat().st_mode & 0o077 == 0
    worker.kill()


def test_a_queue_whose_file_is_no_database_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseError, match="the queue of runs cannot be used"):
        QueueClient(database_url=f"sqlite:///{tmp_path}/queue.db").live_runs()
    said: list[str] = []
    queue = DurableQueue(
        database_url=f"sqlite:///{tmp_path}/queue.db",
        host="host",
        parallel=1,
        execute=lambda _request, _step: None,
        say=said.append,
    )
    with pytest.raises(DatabaseError, match="the queue of runs cannot be used: file is not a database"):
        queue.start()
    queue.stop()
    assert not any("\n" in line or "SELECT" in line for line in said)


def test_complaints_are_one_line_without_statements_and_not_repeated() -> None:
    said: list[str] = []
    relay = Relay(said.append)
    trace = 'polling: Traceback (most recent call last):\n  File "x", line 1\nsqlite3.OperationalError: locked\n[SQL]'
    for text in (
        trace,
        "listing: (sqlite3.OperationalError) locked\n[SQL: SELECT 1]",
        trace,
        "attempt 1",
        "attempt 2",
    ):
        relay.handle(logging.LogRecord("dbos", logging.WARNING, "", 0, text, None, None))
    assert said == [
        "dbos: polling: sqlite3.OperationalError: locked",
        "dbos: listing: (sqlite3.OperationalError) locked",
        "dbos: attempt 1",
    ]


def test_a_run_that_waits_for_its_next_try_begins_at_once_when_it_is_hastened_and_no_other_does(
    worker: Worker,
) -> None:
    ships = [replace(request(name, f"vm-{name}"), task=ShipTask("f"), repository="nas") for name in ("a", "b")]
    worker.start()
    client = QueueClient(database_url=f"sqlite:///{worker.folder}/queue.db")
    try:
        client.enqueue(*(one.again() for one in ships), delay=1800)
        assert client.hasten("host", {"a", "unknown"}) == {"a"}
        worker.until(lambda: "first a" in worker.notes())
        assert "first b" not in worker.notes()
        assert client.hasten("host", {"a"}) == set()
    finally:
        client.close()
    worker.let("first-a", "second-a")
    worker.until(lambda: "done a" in worker.notes())
