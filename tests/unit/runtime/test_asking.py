"""What the web page asks for: refused at once where it can be, else queued once and done, in any process."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import (
    BadArgumentError,
    DatabaseError,
    KvmBackupError,
    PointNotFoundError,
    RepositoryNotFoundError,
    RunNotFoundError,
    ScheduleNotFoundError,
    TargetExistsError,
    VmNotFoundError,
    VmRunningError,
)
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import AsNewVm, BackupTask, InPlace, PruneTask, RestoreTask, ToFolder, VerifyTask
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.runtime.queue import DurableQueue, StepRunner
from kvm_backup.services.schedules.commands import NewSchedule
from tests.unit.builders import VM_UUID, Shelf

PATIENCE = 60.0


@dataclass
class Host:
    """In place of libvirt: it has one VM, which runs."""

    vm_name: str = "web"

    def vm(self, name: str) -> Vm:
        if name in (self.vm_name, VM_UUID):
            return Vm(self.vm_name, VM_UUID, VmState.RUNNING, ())
        raise VmNotFoundError(f"no VM is called {name!r}", hint="Look.")


@dataclass
class Service:
    """The queue's worker in this process. `done` are the requests that it did."""

    application: Application
    done: list[RunRequest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def execute(self, request: RunRequest, step: StepRunner) -> None:
        step(request.kind.value, dict)
        self.done.append(request)
        self.application.history.start(request.run_id)
        self.application.history.finish(request.run_id, RunState.SUCCEEDED, RunResult())

    def wait_for(self, runs: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.done) < runs:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "state").mkdir()
    return Shelf(tmp_path / "state" / "repository")


@pytest.fixture
def application(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(tmp_path / "kvm-backup.toml"))
    (tmp_path / "kvm-backup.toml").write_text("")
    monkeypatch.setenv("KVM_BACKUP_STATE_DIR", str(tmp_path / "state"))
    made = Application.from_environment()
    vars(made)["hypervisor"] = cast("Hypervisor", Host())
    return made


@pytest.fixture
def service(application: Application) -> Iterator[Service]:
    made = Service(application)
    queue = DurableQueue(
        database_url=application.queue.url,
        host=application.host,
        parallel=4,
        execute=made.execute,
        say=made.said.append,
    )
    queue.start()
    yield made
    queue.stop()


def test_each_kind_is_queued_and_done_by_the_service_of_the_same_process(
    application: Application, service: Service, shelf: Shelf, tmp_path: Path
) -> None:
    point = shelf.add()
    folder = point.id.split("/")[0]
    asked = [
        application.queue.backup(VM_UUID, Mode.FULL, None, "zoé"),
        application.queue.verify(point.id, None, "zoé", deep=True),
        application.queue.verify_vm(VM_UUID),
        application.queue.restore(point.id, ToFolder(str(tmp_path / "to"))),
        application.queue.restore(point.id, AsNewVm("web2", str(tmp_path))),
        application.queue.restore(point.id, InPlace(stop=True)),
        application.queue.prune(folder),
        *application.queue.verify_all(),
        *application.queue.prune_all(),
    ]
    service.wait_for(len(asked))
    assert {run.id for run in asked} == {request.run_id for request in service.done}
    assert [run.state for run in asked] == [RunState.QUEUED] * len(asked)
    assert {run.trigger for run in asked} == {Trigger.WEB}
    assert {run.vm_name for run in asked} == {"web"}
    assert {run.vm_uuid for run in asked} == {VM_UUID}
    tasks = {request.run_id: request.task for request in service.done}
    assert [tasks[run.id] for run in asked[:4]] == [
        BackupTask(Mode.FULL),
        VerifyTask(folder, point.id, deep=True),
        VerifyTask(folder),
        RestoreTask(point.id, ToFolder(str(tmp_path / "to"))),
    ]
    assert tasks[asked[6].id] == PruneTask(folder)


def test_who_asked_is_told_by_the_log_of_the_run(application: Application, service: Service) -> None:
    run = application.queue.backup("web", Mode.FULL, None, "zoé")
    service.wait_for(1)
    [queued] = [line for line in application.log_reader(run.id).new_lines() if line["event"] == "queued"]
    assert {key: queued[key] for key in ("vm", "kind", "trigger", "user")} == {
        "vm": "web", "kind": "backup", "trigger": "web", "user": "zoé",
    }  # fmt: skip


def test_a_request_that_many_put_into_the_queue_at_once_is_done_once(
    application: Application, service: Service
) -> None:
    request = application.requests.backup("web", Mode.FULL, None)
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        application.queue.enqueue(request)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = application.queue.backup("web", Mode.INCREMENTAL)
    service.wait_for(2)
    assert [one.run_id for one in service.done] == [request.run_id, last.id]
    assert len(application.history.newest()) == 2


def test_runs_of_one_vm_are_done_in_the_order_in_which_they_were_asked_for(
    application: Application, service: Service
) -> None:
    asked = [application.queue.backup("web", Mode.FULL).id for _ in range(6)]
    service.wait_for(6)
    assert [one.run_id for one in service.done] == asked
    assert len({run_id[:8] for run_id in asked}) == 6


def test_asking_leaves_the_services_ear_for_its_queue_open(application: Application, service: Service) -> None:
    application.queue.backup("web", Mode.FULL)
    logging.getLogger("dbos").warning("it thunders")
    assert any("it thunders" in line for line in service.said)


def refused(application: Application, ask: Callable[[], object]) -> KvmBackupError:
    with pytest.raises(KvmBackupError) as error:
        ask()
    assert application.history.newest() == []
    return error.value


def test_what_cannot_be_done_is_refused_before_it_is_queued(
    application: Application, shelf: Shelf, tmp_path: Path
) -> None:
    point = shelf.add().id
    (tmp_path / "web3-vda.qcow2").touch()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "vda.qcow2").touch()
    restore = application.queue.restore
    for ask, kind in [
        (lambda: application.queue.backup("ghost", Mode.FULL), VmNotFoundError),
        (lambda: application.queue.backup("web", Mode.FULL, "nas"), RepositoryNotFoundError),
        (lambda: application.queue.verify("web--1a2b3c4d/20200101T000000Z"), PointNotFoundError),
        (lambda: application.queue.verify("../../etc"), PointNotFoundError),
        (lambda: application.queue.verify_vm("ghost"), PointNotFoundError),
        (lambda: application.queue.prune("../.."), PointNotFoundError),
        (lambda: restore("web--1a2b3c4d/20200101T000000Z", AsNewVm("web2")), PointNotFoundError),
        (lambda: restore(point, AsNewVm("web", str(tmp_path))), TargetExistsError),
        (lambda: restore(point, AsNewVm("web3", str(tmp_path))), TargetExistsError),
        (lambda: restore(point, AsNewVm("a/b", str(tmp_path))), BadArgumentError),
        (lambda: restore(point, AsNewVm("web2", "images")), BadArgumentError),
        (lambda: restore(point, ToFolder("restored")), BadArgumentError),
        (lambda: restore(point, ToFolder(str(tmp_path / "to"))), TargetExistsError),
        (lambda: restore(point, InPlace()), VmRunningError),
        (lambda: application.queue.schedule("nosuch"), ScheduleNotFoundError),
        (lambda: application.queue.cancel("nosuch"), RunNotFoundError),
        (lambda: application.queue.retry("nosuch"), RunNotFoundError),
    ]:
        assert isinstance(refused(application, ask), kind), kind


def test_without_a_queue_the_run_has_failed_and_says_why(application: Application) -> None:
    with pytest.raises(DatabaseError, match="queue"):
        application.queue.backup("web", Mode.FULL)
    [run] = application.history.newest()
    assert (run.state, run.error_code) == (RunState.FAILED, "database")


def test_a_schedule_that_is_run_by_hand_is_a_run_for_each_of_its_vms(
    application: Application, service: Service
) -> None:
    made = application.schedules.add(NewSchedule("night", ["web", "db", "web2"], "daily", "02:00", "full"))
    runs = application.queue.schedule(made.id[:8], "zoé")
    service.wait_for(3)
    assert [(run.vm_name, run.schedule_id, run.schedule_name, run.due) for run in runs] == [
        (vm, made.id, "night", None) for vm in ("web", "db", "web2")
    ]
    after = application.schedules.find(made.id)
    assert (after.status, after.next_run) == ("running", made.next_run)
    assert after.last_run is not None


def ended(application: Application, request: RunRequest, state: RunState = RunState.FAILED) -> Run:
    run = application.history.create(request.as_run())
    application.history.start(run.id)
    application.history.finish(run.id, state, RunResult(error="no", error_code="no-space"))
    return application.history.get(run.id)


def test_a_retry_asks_for_the_same_once_more_and_counts_on(
    application: Application, service: Service, shelf: Shelf
) -> None:
    point = shelf.add().id
    requests = [
        application.requests.backup("web", Mode.SNAPSHOT, None),
        application.requests.verify_point(point, None, deep=True),
        application.requests.restore(point, AsNewVm("web2", start=True), None),
        application.requests.prune_folder(point.split("/")[0], None),
    ]
    for request in requests:
        again = application.queue.retry(ended(application, request).id, "zoé")
        assert (again.kind, again.attempt, again.state) == (request.kind, 2, RunState.QUEUED)
    service.wait_for(len(requests))
    assert sorted(map(repr, (one.task for one in service.done))) == sorted(repr(one.task) for one in requests)
    assert {one.asked_by for one in service.done} == {"zoé"}


def test_a_restore_in_place_is_not_done_again_without_another_confirmation(
    application: Application, shelf: Shelf
) -> None:
    run = ended(application, application.requests.restore(shelf.add().id, InPlace(stop=True), None))
    with pytest.raises(BadArgumentError, match="confirmed each time"):
        application.queue.retry(run.id)
    assert application.history.newest() == [replace(run, steps=())]


def test_a_run_in_the_queue_is_cancelled_at_once_and_its_log_tells_by_whom(application: Application) -> None:
    run = application.history.create(application.requests.backup("web", Mode.FULL, None).as_run())
    assert application.queue.cancel(run.id, "zoé").state is RunState.CANCELLED
    [line] = application.log_reader(run.id).new_lines()
    assert (line["event"], line["user"]) == ("cancel", "zoé")
    with pytest.raises(BadArgumentError, match="has ended"):
        application.queue.cancel(run.id)


def test_what_a_run_was_asked_to_do_is_in_the_history_of_its_kind(application: Application, shelf: Shelf) -> None:
    request = application.requests.restore(shelf.add().id, AsNewVm("wéb\n2", start=True), None)
    run = ended(application, request)
    assert (run.kind, run.task) == (RunKind.RESTORE, request.task)
    assert json.loads(json.dumps(request.as_json()))["task"]["target"]["way"] == "new-vm"
