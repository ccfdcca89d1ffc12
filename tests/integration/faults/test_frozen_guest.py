"""A real guest, frozen: whatever happens then, it is thawed and can write."""

import time

import pytest

from lab import DiskSpec, Lab, LabError
from lab.disks import MIB
from tests.integration.backup.witness import Witness
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.faults.victim import Victim
from tests.integration.product import Json, Product

pytestmark = pytest.mark.vm

STOP_AGENT_ONCE_FROZEN = "(until [ -e /run/qga.state.isfrozen ]; do sleep 0.01; done; kill -STOP $(pidof qemu-ga)) &"
"""The agent makes that file just before it freezes (qga/main.c, ga_set_frozen)."""


class Guest(Victim):
    """A victim whose guest writes by itself."""

    def write(self, mib: int = 1) -> None:
        self.vm.run(f"dd if=/dev/urandom of=/data/file bs=1M count={mib} conv=fsync")

    def recovers(self, mode: str | None = None, expected: str = "incremental") -> Json:
        # A freeze writes to the file system, so a copy to compare with needs a guest that stands still.
        self.vm.suspend()
        try:
            return Victim.recovers(self, mode, expected)
        finally:
            self.vm.resume()

    def is_well(self) -> None:
        assert self.vm.state == "running"
        assert not self.vm.frozen()
        self.vm.write_file("/data/proof", b"alive")
        self.vm.sync()
        assert self.vm.read_file("/data/proof") == b"alive"


@pytest.fixture(scope="module")
def guest(module_lab: Lab) -> Guest:
    """A booted guest with a chain."""
    product = Product(module_lab.folder / "product", "[backup]\nfreeze_timeout = 2\n")
    vm = module_lab.create_vm("guest", [DiskSpec(size=64 * MIB)])
    vm.wait_agent()
    made = Guest(product, Witness(product, module_lab.folder), vm)
    made.write(4)
    product.backup(vm.name)
    return made


def test_points_of_a_guest_with_an_agent_are_consistent(guest: Guest) -> None:
    guest.write()
    assert guest.product.backup(guest.vm.name)["consistency"] == "filesystem"
    guest.is_well()


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_a_run_killed_while_the_guest_is_frozen_is_followed_by_a_thaw(guest: Guest, mode: str) -> None:
    guest.write()
    instant = "before-snapshot" if mode == "snapshot" else "frozen"
    with stopped_at(guest.product, instant, *guest.backup_words(mode)) as run:
        assert guest.vm.frozen()
        run.kill()
    guest.is_well()
    assert guest.leftovers() == ["unfinished-point"]
    guest.recovers()


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_a_guest_whose_run_and_guard_died_together_is_thawed_by_the_next_run(guest: Guest, mode: str) -> None:
    guest.write()
    instant = "before-snapshot" if mode == "snapshot" else "frozen"
    with stopped_at(guest.product, instant, *guest.backup_words(mode)) as run:
        run.kill_with_guard()
    assert guest.vm.frozen()
    assert "frozen-guest" in guest.leftovers()
    guest.product.backup(guest.vm.name)
    guest.is_well()
    guest.recovers()


def test_doctor_thaws_a_guest_that_was_left_frozen(guest: Guest) -> None:
    with stopped_at(guest.product, "frozen", *guest.backup_words()) as run:
        run.kill_with_guard()
    guest.product.run("doctor", "--clean", "--json")
    guest.is_well()
    assert guest.leftovers() == []


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_a_failure_while_the_guest_is_frozen_thaws_it(guest: Guest, mode: str) -> None:
    guest.write()
    instant = "before-snapshot" if mode == "snapshot" else "frozen"
    with stopped_at(guest.product, instant, *guest.backup_words(mode)) as run:
        assert guest.vm.frozen()
        guest.vm.domain.destroy()
        run.finish()
    guest.vm.start()
    guest.vm.wait_agent()
    guest.is_well()
    guest.recovers(expected="incremental")


def test_an_agent_that_hangs_costs_the_consistency_but_not_the_backup(guest: Guest) -> None:
    guest.write()
    guest.vm.hang_agent()
    try:
        began = time.monotonic()
        made = guest.product.backup(guest.vm.name)
        assert time.monotonic() - began < 120
        assert (made["mode"], made["consistency"]) == ("incremental", "crash")
    finally:
        guest.vm.unhang_agent()
    guest.vm.wait_agent()
    guest.is_well()
    guest.recovers()


def test_an_agent_that_hangs_in_a_freeze_thaws_when_it_goes_on(guest: Guest) -> None:
    guest.write()
    guest.vm.run_without_agent(STOP_AGENT_ONCE_FROZEN)
    with stopped_at(guest.product, "begun", *guest.backup_words()) as run:
        # The agent froze, or was about to, and does not answer any more.
        with pytest.raises((LabError, Exception)):
            guest.vm.wait_agent(1)
        guest.vm.unhang_agent()
        ended = run.finish().succeeded()
    assert ended.finished["mode"] == "incremental"
    guest.vm.wait_agent()
    guest.is_well()
    assert guest.leftovers() == []
    guest.recovers()


def test_a_guest_that_shuts_down_in_mid_copy_is_backed_up_as_a_stopped_vm(guest: Guest) -> None:
    guest.write(4)
    with stopped_at(guest.product, "step:copy", *guest.backup_words("full")) as run:
        guest.vm.domain.shutdownFlags(1)  # VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        # libvirt cannot take it down before the job has ended: for half a minute for each channel of the VM.
        guest.vm.wait_state("in shutdown")
        ended = run.finish().succeeded()
    assert (ended.finished["error"], ended.finished["consistency"]) == (None, "filesystem")
    guest.vm.start()
    guest.vm.wait_agent()
    guest.is_well()
    guest.recovers()
