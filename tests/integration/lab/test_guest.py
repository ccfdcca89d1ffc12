"""The guest boots, obeys, and keeps what it was given."""

import os

import pytest

from lab import DiskSpec, GuestCommandError, Lab, LabError, LabVm

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    made = module_lab.create_vm("guest", [DiskSpec(files={"kept/greeting": b"hello"})])
    made.wait_agent()
    return made


def test_command_in_guest_returns_its_output(vm: LabVm) -> None:
    assert vm.run(["cat", "/data/kept/greeting"]) == "hello"


def test_failing_command_raises_with_its_status_and_error(vm: LabVm) -> None:
    with pytest.raises(GuestCommandError, match="no space for it") as caught:
        vm.run("echo no space for it >&2; exit 7")
    assert caught.value.status == 7


def test_command_that_takes_too_long_raises(vm: LabVm) -> None:
    with pytest.raises(LabError, match="did not end"):
        vm.run(["sleep", "5"], timeout=0.2)


@pytest.mark.parametrize("size", [0, 1, 65536, 300_001])
def test_file_written_into_guest_reads_back_the_same(vm: LabVm, size: int) -> None:
    content = os.urandom(size)
    vm.write_file("/data/random", content)
    assert vm.read_file("/data/random") == content


def test_frozen_guest_says_so_until_thawed(vm: LabVm) -> None:
    assert not vm.frozen()
    assert vm.domain.fsFreeze() == 1
    assert vm.frozen()
    vm.domain.fsThaw()
    assert not vm.frozen()


def test_stopped_agent_is_silent_until_it_goes_on(vm: LabVm) -> None:
    vm.hang_agent()
    with pytest.raises(LabError, match="did not answer"):
        vm.wait_agent(timeout=0.1)
    vm.unhang_agent()
    vm.wait_agent()
    assert vm.run("echo back") == "back\n"


def test_agent_hung_for_a_time_comes_back_by_itself(vm: LabVm) -> None:
    vm.hang_agent(seconds=1)
    vm.wait_agent()
    assert vm.run("echo back") == "back\n"


def test_writer_leaves_what_its_check_accepts_and_damage_is_noticed(vm: LabVm) -> None:
    vm.start_writer(kib_per_second=4096)
    vm.run("while [ $(cat /data/writer/sequence 2>/dev/null || echo 0) -lt 20 ]; do sleep 0.1; done")
    vm.stop_writer()
    assert vm.check_writer() >= 20
    vm.run("for file in /data/writer/slot-3-*; do echo damage >>$file; done")
    with pytest.raises(GuestCommandError, match=r"slot-3-.*damaged"):
        vm.check_writer()


def test_guest_shuts_down_cleanly_and_keeps_its_data_over_a_new_start(lab: Lab) -> None:
    vm = lab.create_vm("restarted")
    vm.wait_agent()
    vm.write_file("/data/kept", b"over the night")
    vm.shutdown()
    assert vm.state == "shut off"
    vm.start()
    vm.wait_agent()
    assert vm.read_file("/data/kept") == b"over the night"
    assert "recovery" not in vm.run("dmesg")


def test_uefi_guest_with_tpm_and_network_boots(lab: Lab) -> None:
    vm = lab.create_vm("firmware", uefi=True, tpm=True, network=True)
    vm.wait_agent(timeout=180)
    assert vm.run("ls -d /sys/firmware/efi /dev/tpm0") == "/dev/tpm0\n/sys/firmware/efi\n"
