"""SIGTERM, SIGINT, SIGHUP and standing still: the run ends by itself and leaves nothing."""

import signal
import time

import pytest

from lab import Lab
from tests.integration.faults.stopped_run import stopped_at, wait_for_end
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def victim(module_lab: Lab) -> Victim:
    """A running VM with a chain."""
    made = make_victim(module_lab, "signalled")
    made.product.backup(made.vm.name)
    return made


@pytest.mark.parametrize(
    ("instant", "number"),
    [
        ("step:prepare", signal.SIGTERM),
        ("begun", signal.SIGTERM),
        ("progress:copy", signal.SIGTERM),
        ("progress:copy", signal.SIGINT),
        ("progress:copy", signal.SIGHUP),
    ],
)
def test_a_signal_ends_the_run_and_leaves_nothing(victim: Victim, instant: str, number: signal.Signals) -> None:
    points, checkpoints = victim.product.points(), victim.checkpoints()
    victim.write()
    with stopped_at(victim.product, instant, *victim.backup_words("full")) as run:
        run.signal(number)
        ended = run.finish()
    ended.failed(1)
    assert ended.finished["error_code"] == "cancelled"
    assert victim.leftovers() == []
    assert victim.checkpoints() == checkpoints
    assert victim.product.points() == points
    assert not victim.has_job()
    victim.is_well()


def test_the_chain_goes_on_after_all_these(victim: Victim) -> None:
    victim.recovers()


def test_a_signal_after_the_copy_does_not_lose_the_point(victim: Victim) -> None:
    victim.write()
    with stopped_at(victim.product, "step:publish", *victim.backup_words()) as run:
        run.signal(signal.SIGTERM)
        ended = run.finish().succeeded()
    assert ended.finished["error"] is None
    victim.recovers()


def test_impatient_ctrl_c_twice_leaves_nothing_either(victim: Victim) -> None:
    victim.write()
    with stopped_at(victim.product, "begun", *victim.backup_words("full")) as run:
        guard = run.guard
        run.signal(signal.SIGINT)
        run.go_on()
        run.signal(signal.SIGINT)
        ended = run.finish()
    assert ended.status == 1
    assert guard is not None
    wait_for_end(guard)
    assert not victim.has_job()
    assert victim.leftovers() == []
    victim.is_well()
    victim.recovers()


def test_vms_that_a_signal_kept_from_their_turn_count_as_failed(victim: Victim, module_lab: Lab) -> None:
    other = module_lab.create_vm("second", guest=False)
    with stopped_at(victim.product, "step:publish", "backup", "--json", victim.vm.name, other.name) as run:
        run.signal(signal.SIGTERM)
        ended = run.finish()
    assert ended.status == 3
    finished = {event["vm"]: event["error_code"] for event in ended.events if event["event"] == "finished"}
    assert finished == {victim.vm.name: None, other.name: "cancelled"}


def test_a_signal_ends_the_wait_for_another_run(victim: Victim) -> None:
    with stopped_at(victim.product, "step:prepare", *victim.backup_words()) as holder:
        victim.product.environment["KVM_BACKUP_BACKUP__LOCK_WAIT"] = "3600"
        with victim.product.start_backup(victim.vm.name) as waiting:
            waiting.wait_for(event="started")
            waiting.signal(signal.SIGTERM)
            ended = waiting.finish(60)
        assert ended.finished["error_code"] == "cancelled"
        holder.finish().succeeded()


def test_ctrl_z_does_not_stop_a_backup(victim: Victim) -> None:
    victim.write()
    with stopped_at(victim.product, "progress:copy", *victim.backup_words("full")) as run:
        run.signal(signal.SIGTSTP)
        run.finish().succeeded()


def test_a_run_that_stands_still_for_too_long_is_killed_by_its_guard(victim: Victim) -> None:
    victim.write()
    with stopped_at(victim.product, "progress:copy", *victim.backup_words("full")) as run:
        guard = run.guard
        assert guard is not None
        began = time.monotonic()
        wait_for_end(guard)
        assert time.monotonic() - began < 60
    assert not victim.has_job()
    assert victim.leftovers() == ["unfinished-point"]
    victim.is_well()
    victim.recovers()
