"""What a VM, or somebody with it, does in mid-copy, and what is done behind our back between two runs."""

import subprocess
import threading
from collections.abc import Callable

import pytest

from lab import Lab
from tests.integration.backup.witness import same_disks
from tests.integration.faults.stopped_run import StoppedRun, stopped_at
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm

SLOW = "19"
"""A compression level that leaves a test time to act while the copy goes on."""


@pytest.fixture(scope="module")
def victim(module_lab: Lab) -> Victim:
    """A running VM with a chain."""
    made = make_victim(module_lab, "changing", KVM_BACKUP_BACKUP__COMPRESSION_LEVEL=SLOW)
    made.product.backup(made.vm.name)
    return made


@pytest.fixture(autouse=True)
def _running(victim: Victim) -> None:
    """A test that failed leaves the VM as it likes; the next one does not suffer from that."""
    if victim.vm.state == "shut off":
        victim.vm.start()


def while_it_goes_on(run: StoppedRun, deed: Callable[[], object]) -> None:
    """Do what makes QEMU wait for its reader, beside the run that goes on."""
    thread = threading.Thread(target=deed)
    thread.start()
    run.go_on()
    thread.join(60)
    assert not thread.is_alive()


def test_a_vm_switched_off_in_mid_copy_is_backed_up_as_a_stopped_one(victim: Victim) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words("full")) as run:
        while_it_goes_on(run, victim.vm.destroy)
        ended = run.finish().succeeded()
    assert any("trying once more" in event.get("message", "") for event in ended.events)
    assert victim.vm.state == "shut off"
    assert victim.leftovers() == []
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), victim.witness.copy(victim.vm))
    victim.vm.start()
    victim.is_well()
    victim.recovers()


def test_a_vm_whose_qemu_is_killed_in_mid_copy_is_backed_up_as_a_stopped_one(victim: Victim) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        victim.vm.kill_qemu()
        ended = run.finish().succeeded()
    # The bitmaps died unsaved with QEMU: only everything is safe.
    assert ended.finished["mode"] == "full"
    assert ended.finished["reason"] in ("bitmap-missing", "bitmap-inconsistent")
    assert victim.leftovers() == []
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), victim.witness.copy(victim.vm))
    victim.vm.start()
    victim.is_well()
    victim.recovers()


def test_a_vm_restarted_in_mid_copy_is_not_mistaken_for_the_one_that_was_read(victim: Victim) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        victim.vm.kill_qemu()
        victim.vm.start()
        victim.write()
        ended = run.finish().succeeded()
    assert ended.finished["mode"] == "full"
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), victim.witness.copy(victim.vm))
    victim.is_well()
    victim.recovers()


def test_a_vm_suspended_and_resumed_in_mid_copy_does_not_disturb(victim: Victim) -> None:
    victim.write(4)
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        while_it_goes_on(run, victim.vm.suspend)
        ended = run.finish().succeeded()
    assert victim.vm.state == "paused"
    victim.vm.resume()
    assert ended.finished["mode"] == "incremental"
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), reference)
    victim.is_well()
    victim.recovers()


def test_a_job_that_somebody_ends_in_mid_copy_is_begun_once_more(victim: Victim) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        while_it_goes_on(run, lambda: victim.vm.domain.abortJob())
        ended = run.finish().succeeded()
    assert ended.finished["mode"] == "incremental"
    assert victim.leftovers() == []
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), victim.witness.copy(victim.vm))
    victim.is_well()
    victim.recovers()


def test_another_programs_job_makes_the_vm_busy_and_is_left_alone(victim: Victim) -> None:
    socket = victim.product.state / "foreign.sock"
    victim.product.state.chmod(0o777)
    victim.vm.domain.backupBegin(
        f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/></domainbackup>", None, 0
    )
    try:
        ended = victim.product.run(*victim.backup_words()).failed(1)
        assert ended.finished["error_code"] == "vm-busy"
        assert victim.has_job()
    finally:
        victim.vm.domain.abortJob()
        victim.product.state.chmod(0o711)
    victim.is_well()
    victim.recovers()


@pytest.mark.parametrize("metadata_only", [False, True], ids=["with-its-bitmap", "its-record-only"])
def test_a_checkpoint_deleted_behind_our_back_makes_the_next_run_full(victim: Victim, metadata_only: bool) -> None:
    (name,) = victim.checkpoints()
    victim.vm.domain.checkpointLookupByName(name).delete(2 if metadata_only else 0)
    victim.write()
    made = victim.recovers(expected="full")
    assert made["reason"] == "checkpoint-missing"
    victim.is_well()
    victim.recovers()


def test_a_bitmap_deleted_behind_our_back_makes_the_next_run_full(victim: Victim) -> None:
    (name,) = victim.checkpoints()
    victim.vm.destroy()
    subprocess.run(["qemu-img", "bitmap", "--remove", victim.vm.disk("vda"), name], check=True)
    victim.vm.start()
    victim.write()
    made = victim.recovers(expected="full")
    assert made["reason"] == "bitmap-missing"
    victim.is_well()
    victim.recovers()


def test_a_checkpoint_deleted_in_mid_copy_harms_neither_this_point_nor_the_next(victim: Victim) -> None:
    victim.write(4)
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, "step:publish", *victim.backup_words()) as run:
        for name in victim.checkpoints():
            victim.vm.domain.checkpointLookupByName(name).delete(0)
        ended = run.finish().succeeded()
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), reference)
    victim.write()
    victim.recovers(expected="full")


@pytest.mark.parametrize("instant", ["begun", "progress:copy", "step:publish"])
def test_libvirtd_restarted_under_a_run_does_not_disturb_it(
    victim: Victim, instant: str, restart_libvirtd: Callable[[], None]
) -> None:
    victim.write(4)
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        restart_libvirtd()
        ended = run.finish().succeeded()
    assert ended.finished["mode"] == "incremental"
    assert not victim.has_job()
    assert victim.leftovers() == []
    same_disks(victim.witness.restored(ended.finished["point"], "qcow2"), reference)
    victim.is_well()
    victim.recovers()
