"""The service is killed in the middle of a due run, and started again: one good point, and a true history."""

import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab import Lab, LabVm
from tests.acceptance.service import SLOW, Service, busy_vm, freeze, until
from tests.integration.product import Product

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    return busy_vm(module_lab, "busy")


@pytest.fixture
def service(lab: Lab) -> Service:
    return Service(Product(lab.folder / "product", SLOW))


def _one_good_point_and_a_true_history(service: Service, vm: LabVm, due: datetime, attempt: int) -> None:
    run = service.wait_for_run("succeeded")
    assert (run["trigger"], run["late"], run["attempt"]) == ("schedule", True, attempt), run
    assert datetime.fromisoformat(run["due"]) == due
    assert run["error"] is None
    points = service.points(vm)
    assert [point.name for point in points] == [run["point"].split("/")[1]]
    assert not list(service.product.repository.glob("*/.partial-*"))
    status, verdicts = service.product.verify("--all")
    assert (status, len(verdicts)) == (0, 1)
    assert service.product.leftovers(vm.name) == []
    until(lambda: service.schedule_named("night")["status"] == "scheduled", "settle the schedule")
    assert datetime.fromisoformat(service.schedule_named("night")["next_run"]) > datetime.now(UTC)


def test_killed_in_the_copy_it_is_done_again_after_the_restart_and_once(service: Service, vm: LabVm) -> None:
    due = service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step="copy")
        freeze(running)
        assert service.points(vm) == []
        running.kill()
    assert [run["state"] for run in service.runs()] == ["running"]
    with service.start():
        _one_good_point_and_a_true_history(service, vm, due, attempt=2)


def test_killed_when_the_point_was_just_published_no_second_one_is_made(service: Service, vm: LabVm) -> None:
    due = service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step="advance")
        freeze(running)
        published = service.points(vm)
        assert len(published) == 1
        running.kill()
    with service.start():
        until(lambda: service.runs()[0]["state"] == "succeeded", "end the run", pause=0.3)
        assert service.points(vm) == published
        run = service.runs()[0]
        assert run["point"].endswith(published[0].name)
        assert datetime.fromisoformat(run["due"]) == due
        assert len(service.runs()) == 1


def test_killed_in_a_script_after_the_run_the_backup_is_not_made_again(
    service: Service, vm: LabVm, tmp_path: Path
) -> None:
    called, go_on = tmp_path / "called", tmp_path / "go-on"
    script = tmp_path / "after"
    script.write_text(f'#!/bin/sh\nenv >> "{called}"\nwhile [ ! -e "{go_on}" ]; do sleep 0.05; done\n')
    script.chmod(0o755)
    due = service.schedule("night", vm.name, post_script=[str(script)])
    with service.start() as running:
        until(called.exists, "call the script")
        running.kill()
    go_on.touch()
    with service.start():
        _one_good_point_and_a_true_history(service, vm, due, attempt=2)
    told = dict(line.split("=", 1) for line in called.read_text().splitlines() if line.startswith("KVM_BACKUP_HOOK_"))
    assert told["KVM_BACKUP_HOOK_EVENT"] == "succeeded"
    assert told["KVM_BACKUP_HOOK_VM"] == vm.name
    assert told["KVM_BACKUP_HOOK_POINT"].endswith(service.points(vm)[0].name)
    assert called.read_text().count("KVM_BACKUP_HOOK_EVENT=") == 2


def test_told_to_end_it_cancels_the_copy_leaves_nothing_and_does_it_after_the_next_start(
    service: Service, vm: LabVm
) -> None:
    due = service.schedule("night", vm.name)
    service.told_to_end_in("copy")
    assert service.points(vm) == []
    assert not list(service.product.repository.glob("*/.partial-*"))
    assert service.product.leftovers(vm.name) == []
    assert [(run["state"], run["error_code"]) for run in service.runs()] == [("waiting", "interrupted")]
    with service.start():
        _one_good_point_and_a_true_history(service, vm, due, attempt=2)


def test_told_to_end_it_finishes_the_copy_where_that_is_wanted(service: Service, vm: LabVm) -> None:
    service.product.configure(SLOW + '[scheduler]\non_stop = "finish"\n')
    service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step="copy")
        running.signal(signal.SIGTERM)
        assert running.finish().status == 0
    assert [run["state"] for run in service.runs()] == ["succeeded"]
    assert len(service.points(vm)) == 1
