"""One service for a state folder, seen by others, also when it was killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.database.history import History
from kvm_backup.domain.errors import ServiceRunningError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.task import BackupTask
from kvm_backup.runtime.heartbeat import Heartbeat, only_service, read_heartbeat, service_runs, write_heartbeat
from kvm_backup.runtime.notify import notify
from kvm_backup.runtime.recovery import mark_lost_runs
from kvm_backup.services.own_runs import OwnRuns
from tests.unit.runtime.conftest import Clock

HOLDER = """
import sys, time
from pathlib import Path
from kvm_backup.runtime.heartbeat import only_service
with only_service(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def other_service(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_service_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with other_service(tmp_path) as process:
        write_heartbeat(tmp_path, Heartbeat(process.pid, "host", "2026", "2026"))
        assert service_runs(tmp_path)
        with pytest.raises(ServiceRunningError, match=f"process {process.pid}"), only_service(tmp_path):
            pass


def test_one_that_was_killed_is_not_there_any_more(tmp_path: Path) -> None:
    with other_service(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not service_runs(tmp_path)
        with only_service(tmp_path):
            assert service_runs(tmp_path)
    assert not service_runs(tmp_path)


def test_where_there_never_was_one_there_is_none(tmp_path: Path) -> None:
    assert not service_runs(tmp_path / "missing")
    assert read_heartbeat(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{", "5"])
def test_a_damaged_heartbeat_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "daemon.json").write_text(content)
    assert read_heartbeat(tmp_path) is None


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_on_the_socket_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@kvm-backup-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=Serving")
        assert listener.recv(100) == b"READY=1\nSTATUS=Serving"


def test_without_systemd_or_with_a_deaf_one_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


def test_runs_that_nobody_does_any_more_are_marked_interrupted(
    tmp_path: Path, history: History, clock: Clock
) -> None:
    own = OwnRuns(tmp_path / "own")
    for run_id in ("lost", "queued", "mine", "other-host"):
        host = "elsewhere" if run_id == "other-host" else "host"
        request = RunRequest(run_id, host, "web", BackupTask(Mode.FULL), "default", Trigger.COMMAND, clock.now)
        history.create(replace(request, schedule_id=f"schedule of {run_id}").as_run())
    clock.move(minutes=5)
    history.create(
        RunRequest("just-made", "host", "web", BackupTask(Mode.FULL), "default", Trigger.COMMAND, clock.now).as_run()
    )
    said: list[str] = []
    settled: list[str | None] = []
    with own.hold("mine"):
        mark_lost_runs(
            history, own, lambda: {"queued"}, host="host", now=clock.now, say=said.append, settled=settled.append
        )
    states = {run.id: run.state.value for run in history.newest()}
    assert states.pop("lost") == "interrupted"
    assert set(states.values()) == {"queued"}
    assert len(said) == 1
    assert settled == ["schedule of lost"]
    assert history.get("lost").error_code == "interrupted"
    assert clock.now - history.get("lost").created == timedelta(minutes=5)
