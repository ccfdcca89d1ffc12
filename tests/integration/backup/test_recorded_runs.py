"""What the history and the log tell of real backups: good ones, one that is cancelled, one that is killed."""

import json
import os
import time
from datetime import datetime

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.product import Json, Product, Running

pytestmark = pytest.mark.vm

SLOW = {"KVM_BACKUP_BACKUP__COMPRESSION_LEVEL": "19"}
"""With it the copy of the noisy disk takes many seconds, so that it can be met half way."""
STEPS = ["prepare", "begin", "copy", "publish", "advance"]


@pytest.fixture(scope="module")
def product(module_lab: Lab) -> Product:
    return Product(module_lab.folder / "product", variables=SLOW)


@pytest.fixture(scope="module")
def small(module_lab: Lab) -> LabVm:
    vm = module_lab.create_vm("small", [DiskSpec(size=16 * MIB)], guest=False)
    vm.write_blocks("vda", 0, 4 * MIB, 0x11)
    return vm


@pytest.fixture(scope="module")
def noisy(module_lab: Lab) -> LabVm:
    image = module_lab.folder / "noise.raw"
    with image.open("wb") as file:
        for _ in range(384):
            file.write(os.urandom(MIB))
    image.chmod(0o666)
    return module_lab.create_vm("noisy", [DiskSpec(image=image, image_format="raw")], guest=False)


def newest(product: Product, vm: LabVm) -> Json:
    """`run show` of the newest run of a VM."""
    [run] = product.run("run", "list", "--json", "--limit", "1", "--vm", vm.name).succeeded().json
    found: Json = product.run("run", "show", "--json", run["id"][:8]).succeeded().json
    return found


def copying(product: Product, vm: LabVm) -> Running:
    """A backup that has begun to copy."""
    running = product.start_backup(vm.name)
    running.wait_for(event="step", step="copy")
    return running


def test_a_good_backup_is_in_the_history_and_the_log_as_it_was(product: Product, small: LabVm) -> None:
    finished = product.backup(small.name)
    run = newest(product, small)
    assert (run["state"], run["vm_uuid"], run["trigger"]) == ("succeeded", small.uuid, "command")
    same = ("point", "mode", "reason", "detail", "consistency", "bytes_read", "bytes_stored", "error")
    assert {key: run[key] for key in same} == {key: finished[key] for key in same}
    assert (run["reason"], run["done"], run["done"] > 0) == ("no-point", run["total"], True)
    assert [step["name"] for step in run["steps"]] == STEPS
    times = [datetime.fromisoformat(run["created"])]
    for step in run["steps"]:
        times += [datetime.fromisoformat(step["started"]), datetime.fromisoformat(step["ended"])]
    assert [*times, datetime.fromisoformat(run["ended"])] == sorted([*times, datetime.fromisoformat(run["ended"])])
    lines = product.run("run", "logs", "--json", run["id"]).succeeded().events
    assert [line["step"] for line in lines if line["event"] == "step"] == STEPS
    assert {(line["run"], line["vm"]) for line in lines} == {(run["id"], small.name)}
    assert (lines[0]["event"], lines[-1]["event"], lines[-1]["point"]) == ("started", "finished", run["point"])


def test_a_backup_by_uuid_is_in_the_history_under_the_vms_name(product: Product, small: LabVm) -> None:
    product.backup(small.uuid)
    run = newest(product, small)
    assert (run["vm_name"], run["vm_uuid"], run["mode"]) == (small.name, small.uuid, "incremental")


def test_a_backup_of_a_vm_that_is_not_there_is_refused_and_no_run(product: Product) -> None:
    refused = product.run("backup", "nosuch-vm").failed(4)
    assert refused.stderr.startswith("error: there is no VM named 'nosuch-vm'\nHINT: ")
    [event] = product.run("backup", "nosuch-vm", "--json").failed(4).events
    assert (event["event"], event["vm"], event["error_code"]) == ("finished", "nosuch-vm", "vm-not-found")
    assert product.run("run", "list", "--json", "--vm", "nosuch-vm").succeeded().json == []


def test_a_schedule_whose_vm_is_not_there_is_a_failed_run_with_its_hint(product: Product) -> None:
    product.run("schedule", "add", "n", "--vms", "nosuch-vm", "--type", "daily", "--time", "02:00").succeeded()
    product.run("schedule", "run", "n").failed(4)
    [run] = product.run("run", "list", "--json", "--vm", "nosuch-vm").succeeded().json
    assert (run["state"], run["error_code"], run["vm_uuid"]) == ("failed", "vm-not-found", None)
    assert run["hint"]


def test_a_backup_is_cancelled_from_another_process_and_leaves_nothing(product: Product, noisy: LabVm) -> None:
    with copying(product, noisy) as running:
        run = newest(product, noisy)
        assert (run["state"], run["step"], run["total"] or 384 * MIB) == ("running", "copy", 384 * MIB)
        follower = product.start("run", "logs", run["id"], "--follow", "--json")
        asked = product.run("run", "cancel", run["id"]).succeeded()
        assert "asked to end" in asked.stdout
        ended = running.finish()
    assert (ended.status, ended.finished["error_code"]) == (1, "cancelled")
    after = newest(product, noisy)
    assert (after["id"], after["state"], after["cancel_requested"]) == (run["id"], "cancelled", True)
    with follower:
        lines = [json.loads(line) for line in follower.finish().stdout.splitlines()]
    assert (lines[0]["event"], lines[-1]["event"], lines[-1]["state"]) == ("started", "finished", "cancelled")
    assert product.leftovers(noisy.name) == []
    assert product.points(noisy.name) == []


def test_a_killed_backup_is_marked_as_interrupted_and_done_again_by_a_retry(product: Product, noisy: LabVm) -> None:
    with copying(product, noisy) as running:
        while newest(product, noisy)["done"] == 0:  # progress is written about once a second
            time.sleep(0.2)
        running.kill()
    killed = newest(product, noisy)
    assert (killed["state"], killed["error_code"], killed["step"]) == ("interrupted", "interrupted", "copy")
    assert 0 < killed["done"] < killed["total"] == 384 * MIB
    assert all(step["ended"] for step in killed["steps"])
    product.environment["KVM_BACKUP_BACKUP__COMPRESSION_LEVEL"] = "1"
    done = product.run("run", "retry", killed["id"], "--json").succeeded()
    again = newest(product, noisy)
    assert (again["state"], again["trigger"], again["attempt"]) == ("succeeded", "retry", 2)
    assert (again["point"], again["id"] != killed["id"]) == (done.finished["point"], True)
    assert product.run("run", "show", "--json", killed["id"]).json["state"] == "interrupted"
