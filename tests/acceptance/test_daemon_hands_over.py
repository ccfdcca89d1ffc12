"""Commands while the service runs: it does the work, and they show it as if they did it themselves."""

import signal
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from tests.acceptance.service import SLOW, Service, busy_vm, freeze, until
from tests.integration.product import Product

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    return module_lab.create_vm("small", [DiskSpec(size=16 * 1024 * 1024)], guest=False)


@pytest.fixture(scope="module")
def busy(module_lab: Lab) -> LabVm:
    return busy_vm(module_lab, "busy")


@pytest.fixture
def service(lab: Lab) -> Service:
    return Service(Product(lab.folder / "product", SLOW))


def test_a_backup_prints_the_same_events_with_the_service_and_without(service: Service, vm: LabVm) -> None:
    alone = service.product.run(*service.product.backup_words(vm.name, "full")).succeeded()
    with service.start() as running:
        handed = service.product.run(*service.product.backup_words(vm.name, "full")).succeeded()
        said = Path(f"/proc/{running.pid}/cmdline").read_text()
    assert "daemon" in said
    kinds = ["started", "step", "mode", "finished"]
    shown = [[event for event in ended.events if event["event"] in kinds] for ended in (alone, handed)]
    assert [event["event"] for event in shown[0]] == [event["event"] for event in shown[1]]
    assert set(shown[0][-1]) == set(shown[1][-1])
    assert Path(shown[1][-1]["path"]) in service.points(vm)
    assert [run["state"] for run in service.runs()] == ["succeeded", "succeeded"]


def test_a_vm_that_is_not_there_ends_the_command_with_the_same_error_and_exit_code(service: Service) -> None:
    alone = service.product.run("backup", "no-such-vm")
    with service.start():
        handed = service.product.run("backup", "no-such-vm")
    assert (handed.status, handed.stderr) == (alone.status, alone.stderr) == (4, alone.stderr)


def test_a_run_in_the_service_is_cancelled_from_outside(service: Service, busy: LabVm) -> None:
    with service.start() as running, service.product.start_backup(busy.name) as command:
        service.wait_for_line(busy, event="step", step="copy")
        freeze(running)
        service.product.run("run", "cancel", service.runs()[0]["id"]).succeeded()
        running.signal(signal.SIGCONT)
        ended = command.finish()
        assert ended.failed(1).finished["error_code"] == "cancelled"
        assert service.wait_for_run("cancelled")["error_code"] == "cancelled"
        assert service.points(busy) == []


def test_ctrl_c_leaves_the_run_to_the_service(service: Service, busy: LabVm) -> None:
    with service.start() as running, service.product.start_backup(busy.name) as command:
        service.wait_for_line(busy, event="step", step="copy")
        freeze(running)
        command.wait_for(event="step", step="copy")
        command.signal(signal.SIGINT)
        ended = command.finish()
        running.signal(signal.SIGCONT)
        assert ended.failed(1).finished["error_code"] == "detached"
        assert service.runs()[0]["id"] in ended.finished["error"]
        assert service.wait_for_run("succeeded")["error"] is None


def test_a_second_ctrl_c_cancels_the_run(service: Service, busy: LabVm) -> None:
    with service.start() as running, service.product.start_backup(busy.name) as command:
        service.wait_for_line(busy, event="step", step="copy")
        freeze(running)
        command.wait_for(event="step", step="copy")
        command.signal(signal.SIGINT)
        command.wait_for(event="notice")
        command.signal(signal.SIGINT)
        command.wait_for(event="notice", message="cancelling")
        running.signal(signal.SIGCONT)
        assert command.finish().failed(1).finished["error_code"] == "cancelled"
        assert service.wait_for_run("cancelled")["vm_name"] == busy.name


def test_a_second_service_refuses_and_the_first_goes_on(service: Service, vm: LabVm) -> None:
    with service.start() as running:
        second = service.product.run("daemon").failed(1)
        assert f"process {running.pid}" in second.stderr
        assert service.product.backup(vm.name)["error"] is None


def test_a_script_before_the_run_that_fails_lets_nothing_begin(service: Service, vm: LabVm) -> None:
    service.schedule("night", vm.name, pre_script=["/bin/sh", "-c", "echo the database is locked; exit 3"])
    with service.start():
        run = service.wait_for_run("failed")
        until(lambda: service.schedule_named("night")["status"] == "failed", "show the failure")
    assert run["error_code"] == "hook"
    assert "ended with 3 and said: the database is locked" in run["error"]
    assert service.points(vm) == []
