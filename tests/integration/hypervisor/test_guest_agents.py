"""Freezing and thawing real guests."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from kvm_backup.hypervisor import guest_agent, leftovers
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guest_agent import Freeze, Thaw
from kvm_backup.hypervisor.leftovers import LeftoverKind
from lab import Lab, LabVm
from tests.integration.hypervisor.bios_vm import wait_until

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def shared_guest(module_lab: Lab) -> LabVm:
    vm = module_lab.create_vm("agent")
    vm.wait_agent()
    return vm


@pytest.fixture
def guest_vm(shared_guest: LabVm) -> Iterator[LabVm]:
    yield shared_guest
    shared_guest.unhang_agent()
    shared_guest.wait_agent()
    libvirt_qemu.qemuAgentCommand(shared_guest.domain, '{"execute":"guest-fsfreeze-thaw"}', 10, 0)


def test_a_guest_is_frozen_until_it_is_thawed(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    uuid = guest_vm.domain.UUIDString()
    assert guest_agent.frozen(hypervisor, uuid) is False
    frozen = guest_agent.freeze(hypervisor, uuid)
    assert (frozen.result, frozen.reason) == (Freeze.FROZEN, None)
    assert frozen.count > 0
    assert guest_vm.frozen()
    assert guest_agent.frozen(hypervisor, uuid) is True
    assert guest_agent.thaw(hypervisor, uuid).result is Thaw.THAWED
    assert not guest_vm.frozen()


def test_thawing_a_guest_that_is_not_frozen_is_harmless(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    assert guest_agent.thaw(hypervisor, guest_vm.domain.UUIDString()).result is Thaw.THAWED
    assert not guest_vm.frozen()


def test_a_frozen_guest_is_found_among_the_leftovers_and_thawed(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    uuid = guest_vm.domain.UUIDString()
    guest_agent.freeze(hypervisor, uuid)
    root = guest_vm.disk("vda").parent / "no-runs"
    found = leftovers.find_leftovers(
        hypervisor, hypervisor.vm(uuid), run_root=root, scratch_root=root, unwanted=lambda _name: False
    )
    assert [one.kind for one in found] == [LeftoverKind.FROZEN]
    leftovers.remove(hypervisor, found[0])
    assert not guest_vm.frozen()


def test_an_agent_that_hangs_is_never_asked_to_freeze(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    uuid = guest_vm.domain.UUIDString()
    guest_vm.hang_agent(seconds=6)
    frozen = guest_agent.freeze(hypervisor, uuid, timeout=2)
    assert frozen.result is Freeze.UNRESPONSIVE
    assert frozen.reason
    assert not frozen.needs_thaw
    guest_vm.wait_agent()
    assert not guest_vm.frozen()


def test_a_thaw_without_an_answer_is_told_as_unconfirmed(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    guest_vm.hang_agent()
    thawed = guest_agent.thaw(hypervisor, guest_vm.domain.UUIDString(), timeout=1, patience=3)
    assert thawed.result is Thaw.UNCONFIRMED
    assert thawed.reason


def test_a_guest_that_freezes_late_because_its_agent_hung_is_thawed(hypervisor: Hypervisor, guest_vm: LabVm) -> None:
    guest_vm.hang_agent(seconds=6)
    guest_vm.domain.agentSetResponseTimeout(2, 0)
    with pytest.raises(libvirt.libvirtError):
        guest_vm.domain.fsFreeze()
    outcome = guest_agent.thaw(hypervisor, guest_vm.domain.UUIDString(), timeout=2, patience=30)
    assert outcome.result is Thaw.THAWED
    assert not guest_vm.frozen()


RUN = """
import sys
from pathlib import Path
from kvm_backup.hypervisor import guest_agent
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guard import Guard
uuid, folder = sys.argv[1], Path(sys.argv[2])
guard = Guard.start(vm=uuid, uri="qemu:///system", socket_path=folder / "n", scratch_folder=folder)
guard.freezing()
guest_agent.freeze(Hypervisor.connect(), uuid)
print("frozen", flush=True)
sys.stdin.read()
"""


def test_the_guest_of_a_run_that_was_killed_while_it_was_frozen_is_thawed(guest_vm: LabVm, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN, guest_vm.domain.UUIDString(), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "frozen\n"
        assert guest_vm.frozen()
        run.kill()
    wait_until(lambda: not guest_vm.frozen())
