"""A VM that is off: SIGKILL in every step, and what happens when it is started under our hands."""

import pytest

from lab import Lab
from lab.programs import run as run_program
from tests.integration.backup.witness import same_disks
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def victim(module_lab: Lab) -> Victim:
    """A VM that is off, with a chain."""
    made = make_victim(module_lab, "sleeper", mib=12)
    made.product.backup(made.vm.name)
    change(made)
    return made


def change(victim: Victim) -> None:
    """Have the VM write while it runs, and switch it off."""
    if victim.vm.state == "shut off":
        victim.vm.start()
    victim.write(4)
    victim.vm.destroy()


@pytest.mark.parametrize(
    ("instant", "with_guard"),
    [
        ("offline-checkpoint-made", False),
        ("offline-checkpoint-made", True),
        ("progress:copy", True),
        ("manifest-written", False),
    ],
)
def test_a_run_killed_before_the_rename_loses_nothing_of_the_chain(
    victim: Victim, instant: str, with_guard: bool
) -> None:
    change(victim)
    points = victim.product.points()
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        run.kill_with_guard() if with_guard else run.kill()
    assert victim.product.points() == points
    assert "unfinished-point" in victim.leftovers()
    assert ("checkpoint" in victim.leftovers()) == (with_guard or instant == "manifest-written")
    change(victim)
    victim.recovers()
    victim.vm.start()
    victim.is_well()
    victim.recovers()
    victim.vm.destroy()


def test_a_run_killed_after_the_rename_has_made_a_whole_point(victim: Victim) -> None:
    change(victim)
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, "renamed", *victim.backup_words()) as run:
        run.kill_with_guard()
    made = victim.product.points()[-1]
    same_disks(victim.witness.restored(made["id"], "qcow2"), reference)
    change(victim)
    victim.recovers()
    assert victim.product.points()[-1]["parent"] == made["id"]


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes-on", "is-off-again"])
def test_a_vm_started_while_its_disks_are_read_is_backed_up_once_more(victim: Victim, goes_on: bool) -> None:
    change(victim)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        victim.vm.start()
        victim.write()
        if not goes_on:
            victim.vm.destroy()
        ended = run.finish().succeeded()
    assert any("trying once more" in event.get("message", "") for event in ended.events)
    made = ended.finished
    assert (made["error"], made["mode"]) == (None, "incremental")
    assert victim.vm.state == ("running" if goes_on else "shut off")
    assert victim.leftovers() == []
    same_disks(victim.witness.restored(made["point"], "qcow2"), victim.witness.copy(victim.vm))
    if not goes_on:
        victim.vm.start()
    victim.is_well()
    victim.recovers()
    victim.vm.destroy()


def test_an_image_written_from_outside_while_it_is_read_is_read_once_more(victim: Victim) -> None:
    change(victim)
    image = victim.vm.disk("vda")
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        run_program(["qemu-io", "-f", "qcow2", "-c", "write -P 7 5M 1M", image])
        made = run.finish().succeeded().finished
    same_disks(victim.witness.restored(made["point"], "qcow2"), victim.witness.copy(victim.vm))
    victim.every_point_is_whole()
