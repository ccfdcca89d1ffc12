"""Verifies, restores and prunes in the service: killed at an instant, started again, cancelled, told to end."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvm_backup.services.recording import CANCEL_SECONDS
from lab import Lab
from tests.acceptance.service import Service, second_attempt, until
from tests.integration.backup.witness import same_disks
from tests.integration.faults.restorable import TARGETS, Restorable, reset
from tests.integration.faults.stopped_run import StoppedRun, stopped_at
from tests.integration.product import Json

pytestmark = pytest.mark.vm


class Bench(Restorable):
    """The same with the product's service."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.lab = lab
        self.product = self.victim.product
        self.service = Service(self.product)
        with self.service.start():
            pass  # it makes the queue

    def killed_at(self, instant: str, *words: str | Path, repository: str = "") -> str:
        """Ask for a run, and kill the service when it has come to that instant of it; its id."""
        run_id = self.service.ask(*words, repository=repository)
        with stopped_at(self.product, instant, "daemon") as service:
            service.kill()
        assert self.service.run_of(run_id)["state"] == "running"
        return run_id

    def disks(self) -> dict[str, Path]:
        return {target: self.vm.disk(target) for target in TARGETS}

    def vms(self) -> list[str]:
        """Those of this test; other tests have theirs on the same host."""
        names = (domain.name() for domain in self.lab.connection().listAllDomains())
        return sorted(name for name in names if name.startswith(self.lab.prefix))


@pytest.fixture(scope="module")
def bench(module_lab: Lab) -> Bench:
    return Bench(module_lab)


@pytest.fixture
def new_vm(bench: Bench) -> Iterator[tuple[str, Path]]:
    """A name, and a folder for disks; the VM is taken away at the end."""
    name, folder = bench.lab.full_name("reborn"), bench.lab.folder / "images"
    yield name, folder
    if name in bench.vms():
        made = bench.lab.adopt(name)
        if made.state == "running":
            made.destroy()
        made.domain.undefine()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_verify_that_was_killed_is_done_again(bench: Bench) -> None:
    run = bench.service.ended_after_the_restart(bench.killed_at("step:verify", "verify", bench.point))
    second_attempt(run)
    assert (run["kind"], run["point"], run["task"]["deep"]) == ("verify", bench.point, True)


@pytest.mark.parametrize("instant", ["progress:restore", "first-file-published", "files-published", "restored"])
def test_a_restore_to_a_folder_that_was_killed_is_done_again_or_was_complete(bench: Bench, instant: str) -> None:
    folder = bench.lab.folder / f"to-{instant.replace(':', '-')}"
    run = bench.service.ended_after_the_restart(bench.killed_at(instant, "to", bench.point, folder))
    second_attempt(run)
    same_disks({target: folder / f"{target}.qcow2" for target in TARGETS}, bench.then)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "instant", ["progress:restore", "first-file-published", "files-published", "vm-defined", "vm-started", "restored"]
)
def test_a_restore_as_a_new_vm_that_was_killed_makes_that_vm_and_no_other(
    bench: Bench, new_vm: tuple[str, Path], instant: str
) -> None:
    before = bench.vms()
    run = bench.service.ended_after_the_restart(bench.killed_at(instant, "as", bench.point, *new_vm))
    second_attempt(run)
    name, folder = new_vm
    assert [vm for vm in bench.vms() if vm not in before] == [name]
    reborn = bench.lab.adopt(name)
    assert reborn.state == "running"
    reborn.destroy()
    same_disks({target: reborn.disk(target) for target in TARGETS}, bench.then)
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}-{target}.qcow2" for target in TARGETS]


def test_a_new_vm_whose_name_was_taken_meanwhile_is_left_alone(bench: Bench, new_vm: tuple[str, Path]) -> None:
    name, folder = new_vm
    run_id = bench.killed_at("progress:restore", "as", bench.point, name, folder)
    bench.product.run("restore", "--as", name, "--disks-in", folder, "--", bench.point).succeeded()
    uuid = bench.lab.adopt(name).uuid
    run = bench.service.ended_after_the_restart(run_id)
    assert (run["state"], run["error_code"]) == ("failed", "target-exists")
    assert bench.lab.adopt(name).uuid == uuid


@pytest.mark.parametrize(
    ("instant", "hint"),
    [
        ("progress:verify", "had written nothing yet"),
        ("progress:restore", "disks are as they were before"),
        ("first-disk-exchanged", "disks are as they were before"),
        ("disks-exchanged", "disks are those of the point"),
    ],
)
def test_a_restore_in_place_that_was_killed_is_not_done_again_and_its_disks_are_of_one_time(
    bench: Bench, instant: str, hint: str
) -> None:
    reset(bench)
    run = bench.service.ended_after_the_restart(bench.killed_at(instant, "in-place", bench.point))
    assert (run["state"], run["error_code"]) == ("interrupted", "interrupted"), run
    assert hint in run["hint"]
    same_disks(bench.disks(), bench.then if instant == "disks-exchanged" else bench.now)
    assert bench.victim.leftovers() == []
    with bench.service.start():
        assert bench.service.run_of(run["id"])["state"] == "interrupted"
    bench.run(["--in-place", "--yes"])
    same_disks(bench.disks(), bench.then)


def test_a_vm_that_was_started_after_the_kill_is_left_alone(bench: Bench) -> None:
    reset(bench)
    run_id = bench.killed_at("disks-written", "in-place", bench.point)
    bench.vm.start()
    run = bench.service.ended_after_the_restart(run_id)
    assert run["state"] == "interrupted"
    assert "doctor --clean" in run["hint"]
    assert bench.vm.state == "running"
    bench.vm.destroy()
    same_disks(bench.disks(), bench.now)
    assert bench.victim.leftovers() == ["restore-in-place"]
    bench.product.doctor("--clean")
    same_disks(bench.disks(), bench.now)


def test_a_prune_that_was_killed_goes_on(bench: Bench) -> None:
    repository = bench.lab.folder / "pruned"
    bench.product.run("repository", "init", repository, "--name", "pruned").succeeded()
    kept = [bench.product.backup(bench.vm.name, None, "pruned") for _ in range(2)][-1]
    assert kept["mode"] == "incremental"
    settings = bench.product.settings.read_text()
    bench.product.configure("[retention]\nlast = 1\ndaily = 0\nweekly = 0\nmonthly = 0\n" + settings)
    run_id = bench.killed_at("progress:prune", "prune", kept["point"].split("/")[0], repository="pruned")
    run = bench.service.ended_after_the_restart(run_id)
    bench.product.configure(settings)
    second_attempt(run)
    assert [(point["id"], point["mode"]) for point in bench.product.points(bench.vm.name, "pruned")] == [
        (kept["point"], "full")
    ]
    assert bench.product.verify("--all", "--deep", "-r", "pruned")[0] == 0
    restored = bench.product.restore(kept["point"], bench.lab.folder / "kept", repository="pruned")
    same_disks(restored, bench.victim.witness.copy(bench.vm, *TARGETS))


# While the service goes on


def stop_and(act: Callable[[StoppedRun], None], bench: Bench, instant: str, *words: str | Path) -> Json:
    run_id = bench.service.ask(*words)
    with stopped_at(bench.product, instant, "daemon") as service:
        act(service)
        service.go_on()
        until(lambda: bench.service.run_of(run_id)["ended"] is not None, "end the run", pause=0.3)
        return bench.service.run_of(run_id)


@pytest.mark.parametrize("way", ["verify", "to", "as", "in-place"])
def test_a_run_of_the_service_is_cancelled_and_leaves_nothing(
    bench: Bench, new_vm: tuple[str, Path], way: str
) -> None:
    reset(bench)
    name, folder = new_vm
    words: dict[str, list[str | Path]] = {"to": [bench.lab.folder / "cancelled"], "as": [name, folder]}
    instant = "progress:verify" if way == "verify" else "progress:restore"

    def cancel(_service: StoppedRun) -> None:
        [run] = [run for run in bench.service.runs() if run["state"] == "running"]
        bench.product.run("run", "cancel", run["id"]).succeeded()
        time.sleep(CANCEL_SECONDS)  # behind it the run looks at once, and not when it may have ended

    run = stop_and(cancel, bench, instant, way, bench.point, *words.get(way, []))
    assert (run["state"], run["error_code"]) == ("cancelled", "cancelled")
    assert not (bench.lab.folder / "cancelled").exists()
    assert not folder.exists()
    assert name not in bench.vms()
    same_disks(bench.disks(), bench.now)
    assert bench.victim.leftovers() == []


def test_a_service_that_is_told_to_end_leaves_a_restore_as_a_new_vm_for_its_next_start(
    bench: Bench, new_vm: tuple[str, Path]
) -> None:
    run_id = bench.service.ask("as", bench.point, *new_vm)
    bench.service.told_to_end_in("restore")
    assert (bench.service.run_of(run_id)["state"], new_vm[0] in bench.vms()) == ("waiting", False)
    second_attempt(bench.service.ended_after_the_restart(run_id))
    assert new_vm[0] in bench.vms()


def test_a_service_that_is_told_to_end_ends_a_restore_in_place_for_good(bench: Bench) -> None:
    reset(bench)
    run_id = bench.service.ask("in-place", bench.point)
    bench.service.told_to_end_in("restore")
    run = bench.service.run_of(run_id)
    assert (run["state"], run["error_code"]) == ("interrupted", "interrupted")
    assert bench.service.ended_after_the_restart(run_id) == run
    same_disks(bench.disks(), bench.now)
    assert bench.victim.leftovers() == []


def test_a_damaged_point_is_found_by_the_service_and_named_in_the_history(bench: Bench) -> None:
    image = bench.product.path_of(bench.point) / "vda.qcow2"
    whole = image.read_bytes()
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), bytes(512), len(whole) // 2)
    try:
        run_id = bench.service.ask("verify", bench.point)
        run = bench.service.ended_after_the_restart(run_id)
    finally:
        image.write_bytes(whole)
    assert (run["state"], run["error_code"], run["point"]) == ("failed", "damaged-point", bench.point)
    assert run["detail"].startswith(f"{bench.point}: vda.qcow2: ")
