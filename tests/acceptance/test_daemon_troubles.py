"""The service in the steps that last but a moment, on a full disk, and at a due time that really comes."""

import errno
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lab import Lab, LabVm
from tests.acceptance.service import SLOW, Service, busy_vm, freeze, until
from tests.integration.faults.small_file_systems import tmpfs
from tests.integration.product import Product

pytestmark = pytest.mark.vm

MANAGER = Path(__file__).parents[2] / "schedule_manager.py"


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    return busy_vm(module_lab, "busy")


@pytest.fixture
def service(lab: Lab) -> Service:
    return Service(Product(lab.folder / "product", SLOW))


@pytest.mark.parametrize("step", ["prepare", "begin", "publish"])
def test_killed_as_a_step_begins_the_run_is_finished_after_the_restart_with_one_good_point(
    service: Service, vm: LabVm, step: str
) -> None:
    due = service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step=step)
        freeze(running)
        running.kill()
    with service.start():
        until(lambda: service.runs()[0]["state"] == "succeeded", "finish the run", pause=0.3)
    run = service.runs()[0]
    assert (datetime.fromisoformat(run["due"]), run["attempt"], run["error"]) == (due, 2, None)
    assert [point.name for point in service.points(vm)] == [run["point"].split("/")[1]]
    assert not list(service.product.repository.glob("*/.partial-*"))
    assert service.product.verify("--all")[0] == 0
    assert service.product.leftovers(vm.name) == []


class FullDisk:
    """A small file system for the state folder, which is filled to the last byte and freed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OSError) as caught:
            (self.folder / "probe").write_bytes(b"x" * 65536)
        assert caught.value.errno == errno.ENOSPC

    def free(self) -> None:
        (self.folder / "filler").unlink()
        (self.folder / "probe").unlink()


@pytest.fixture
def disk(lab: Lab) -> Iterator[FullDisk]:
    with tmpfs(lab.folder / "small", "48m") as folder:
        yield FullDisk(folder)


def test_a_state_disk_that_is_full_for_a_while_loses_no_run(lab: Lab, vm: LabVm, disk: FullDisk) -> None:
    outside = lab.folder / "outside"
    service = Service(Product(disk.folder / "product"))
    service.product.run("repository", "init", outside, "--name", "outside").succeeded()
    service.product.configure(
        # A QEMU that was started before does not see what is mounted later.
        f'default_repository = "outside"\nscratch_dir = "{outside}-scratch"\nruntime_dir = "{outside}-run"\n{SLOW}'
        f'[[repository]]\nname = "outside"\npath = "{outside}"\n'
    )
    due = service.schedule("night", vm.name)

    def points() -> list[Path]:
        return list(outside.glob(f"*--{vm.uuid[:8]}/2*"))

    with service.start() as running:
        service.wait_for_line(vm, event="step", step="copy")
        disk.fill()
        until(lambda: len(points()) == 1, "make the point though nothing can be noted")
        disk.free()
        run = service.wait_for_run("succeeded")
        until(lambda: service.schedule_named("night")["status"] == "scheduled", "settle the schedule")
        assert running.process.poll() is None
    assert datetime.fromisoformat(run["due"]) == due
    assert [point.name for point in points()] == [run["point"].split("/")[1]]


def test_a_schedule_that_is_made_while_the_service_runs_is_run_at_its_minute(service: Service, vm: LabVm) -> None:
    with service.start() as running:
        words = ("add", "now", "--vms", vm.name, "--type", "cron", "--time", "* * * * *")
        subprocess.run(["/usr/bin/python3", MANAGER, *words], env=service.product.environment, check=True)
        due = datetime.fromisoformat(service.schedule_named("now")["next_run"])
        until(lambda: bool(service.runs()), "run what is due", pause=0.5)
        service.product.run("schedule", "disable", service.schedule_named("now")["id"]).succeeded()
        until(lambda: service.runs()[-1]["state"] == "succeeded", "finish the run", pause=0.3)
        running.signal(signal.SIGTERM)
        assert running.finish().status == 0
    run = service.runs()[-1]
    assert (datetime.fromisoformat(run["due"]), run["late"], run["trigger"]) == (due, False, "schedule")
    assert timedelta(0) <= datetime.fromisoformat(run["created"]) - due < timedelta(seconds=30)
