"""SIGKILL in every step of an incremental of a running VM: alone, and together with the guard."""

import pytest

from lab import Lab
from tests.integration.backup.witness import same_disks
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm

BEFORE_IT_IS_VISIBLE = ["begun", "progress:copy", "step:publish", "manifest-written"]


@pytest.fixture(scope="module")
def victim(module_lab: Lab) -> Victim:
    """One VM for all: each test leaves it with a chain that goes on."""
    made = make_victim(module_lab, "victim")
    made.product.backup(made.vm.name)
    return made


def write_unless_reading(victim: Victim, instant: str) -> None:
    """The lab's writes make QEMU wait for its NBD clients: for ever, when one stands still."""
    if instant != "progress:copy":
        victim.write()


@pytest.mark.parametrize("instant", BEFORE_IT_IS_VISIBLE)
def test_a_run_killed_before_the_rename_is_undone_by_its_guard_and_the_chain_goes_on(
    victim: Victim, instant: str
) -> None:
    points = victim.product.points()
    checkpoints = victim.checkpoints()
    victim.write(4)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        write_unless_reading(victim, instant)
        run.kill()
    victim.is_well()
    assert not victim.has_job()
    assert victim.product.points() == points
    kept = {"unfinished-point"} if instant != "manifest-written" else {"unfinished-point", "checkpoint"}
    assert set(victim.leftovers()) == kept
    assert set(checkpoints) <= set(victim.checkpoints())
    victim.recovers()


@pytest.mark.parametrize("instant", BEFORE_IT_IS_VISIBLE)
def test_what_a_run_and_its_guard_left_that_died_together_is_removed_by_the_next_run(
    victim: Victim, instant: str
) -> None:
    points = victim.product.points()
    victim.write(4)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        write_unless_reading(victim, instant)
        run.kill_with_guard()
    victim.is_well()
    job = ["backup-job"] if instant in ("begun", "progress:copy") else []
    assert victim.has_job() == bool(job)
    assert {"unfinished-point", "checkpoint", *job} <= set(victim.leftovers())
    assert victim.product.points() == points
    victim.recovers()


@pytest.mark.parametrize(("instant", "with_guard"), [("renamed", False), ("renamed", True), ("step:advance", True)])
def test_a_run_killed_after_the_rename_has_made_a_whole_point_and_the_next_builds_on_it(
    victim: Victim, instant: str, with_guard: bool
) -> None:
    points = victim.product.points()
    victim.write(4)
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        victim.write()
        run.kill_with_guard() if with_guard else run.kill()
    victim.is_well()
    assert not victim.has_job()
    victim.every_point_is_whole()
    (made,) = [point for point in victim.product.points() if point not in points]
    same_disks(victim.witness.restored(made["id"], "qcow2"), reference)
    assert "checkpoint" in victim.leftovers()
    assert victim.recovers()["bytes_read"] < 8 * 1024 * 1024
    assert victim.product.points()[-1]["parent"] == made["id"]


def test_doctor_removes_by_hand_what_died_together(victim: Victim) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        run.kill_with_guard()
    assert victim.leftovers() != []
    victim.product.run("doctor", "--clean", "--json")
    assert victim.leftovers() == []
    assert not victim.has_job()
    victim.is_well()
    victim.recovers()
