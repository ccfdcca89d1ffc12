"""`schedule run`: the VMs of a schedule at once, into its repository, within the limit."""

from pathlib import Path

import pytest

from lab import Lab, LabVm
from tests.acceptance.service import SLOW, Service, busy_vm
from tests.integration.product import Ended, Product

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vms(module_lab: Lab) -> list[LabVm]:
    return [busy_vm(module_lab, "busy-a"), busy_vm(module_lab, "busy-b")]


def run_now(service: Service, vms: list[LabVm], *options: str | Path) -> Ended:
    words = ("--type", "daily", "--time", "02:00", "--vms", *(vm.name for vm in vms))
    made = service.product.run("schedule", "add", "night", "--json", *options, *words).succeeded().json
    return service.product.run("schedule", "run", made["id"], "--json").succeeded()


def order(done: Ended) -> list[str]:
    """When runs began and ended, without saying which."""
    return [event["event"] for event in done.events if event["event"] in ("started", "finished")]


def test_vms_of_a_schedule_are_backed_up_at_once_into_its_repository(lab: Lab, vms: list[LabVm]) -> None:
    service = Service(Product(lab.folder / "product", SLOW))
    other = lab.folder / "other"
    service.product.run("repository", "init", other).succeeded()
    assert order(run_now(service, vms, "--repository", other)) == ["started", "started", "finished", "finished"]
    assert all(len(list(other.glob(f"*--{vm.uuid[:8]}/2*"))) == 1 for vm in vms)
    assert [service.points(vm) for vm in vms] == [[], []]
    assert {run["state"] for run in service.runs()} == {"succeeded"}
    assert service.schedule_named("night")["status"] == "scheduled"


def test_no_more_at_once_than_the_setting_allows(lab: Lab, vms: list[LabVm]) -> None:
    service = Service(Product(lab.folder / "product", SLOW + "[scheduler]\nparallel = 1\n"))
    assert order(run_now(service, vms)) == ["started", "finished", "started", "finished"]
