import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import HypervisorUnavailableError, VmNotFoundError
from kvm_backup.domain.vm import VmState
from kvm_backup.hypervisor import checkpoints, guest_agent, leftovers
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guest_agent import Freeze, Thaw
from kvm_backup.hypervisor.leftovers import LeftoverKind
from kvm_backup.hypervisor.offline import OfflineExport
from kvm_backup.hypervisor.restore_xml import as_new_vm
from tests.integration.hypervisor.bios_vm import BiosVm, MakeVm

pytestmark = pytest.mark.vm


def test_a_daemon_that_does_not_answer_is_told_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HypervisorUnavailableError):
        Hypervisor.connect("qemu+unix:///system?socket=/nonexistent/libvirt-sock")
    assert capfd.readouterr().err == ""


UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("name", ["no such vm", "", "-", "x" * 5000, UNKNOWN, "a\0b", "\ud800"])
def test_an_unknown_vm_is_not_found(hypervisor: Hypervisor, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VmNotFoundError):
        hypervisor.vm(name)
    assert capfd.readouterr().err == ""


def test_a_closed_connection_is_opened_again(hypervisor: Hypervisor) -> None:
    other = Hypervisor.connect(hypervisor.uri)
    other.close()
    assert re.fullmatch(r"\d+\.\d+\.\d+", other.versions().libvirt)
    other.close()


class CuttableRoute:
    """A socket in front of libvirtd's, whose connections can be cut as a restart of libvirtd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near = self.listener.accept()[0]
            far = socket.socket(socket.AF_UNIX)
            far.connect("/run/libvirt/libvirt-sock")
            self.ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def cut(self) -> None:
        for end in self.ends:
            end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()


def test_a_connection_that_libvirtd_dropped_is_opened_again_by_the_next_call(stopped_vm: BiosVm) -> None:
    route = CuttableRoute(stopped_vm.folder / "route")
    with Hypervisor.connect(f"qemu+unix:///system?socket={route.path}") as routed:
        assert routed.state(stopped_vm.uuid) is VmState.STOPPED
        route.cut()
        assert routed.state(stopped_vm.uuid) is VmState.STOPPED


def test_disks_are_described_alike_while_the_vm_runs_and_while_it_is_off(make_vm: MakeVm) -> None:
    vm = make_vm(disks={"vda": ("qcow2", 16 << 20), "vdb": ("raw", 4 << 20)})
    off = vm.seen()
    assert off.state is VmState.STOPPED
    assert [(one.target, one.format, one.virtual_size, one.kind) for one in off.disks] == [
        ("vda", "qcow2", 16 << 20, SourceKind.FILE),
        ("vdb", "raw", 4 << 20, SourceKind.FILE),
        ("sda", "raw", None, SourceKind.EMPTY),
    ]
    vm.start()
    running = vm.hypervisor.vm(vm.name)
    assert running.state is VmState.RUNNING
    assert [(one.target, one.path, one.virtual_size) for one in running.disks] == [
        (one.target, one.path, one.virtual_size) for one in off.disks
    ]
    assert vm.uuid in {one.uuid for one in vm.hypervisor.list_vms()}


def test_a_vm_without_agent_is_neither_frozen_nor_in_need_of_a_thaw(running_vm: BiosVm) -> None:
    frozen = guest_agent.freeze(running_vm.hypervisor, running_vm.uuid, timeout=2)
    assert frozen.result is Freeze.NO_AGENT
    assert frozen.reason is not None
    assert guest_agent.thaw(running_vm.hypervisor, running_vm.uuid).result is Thaw.NOT_NEEDED
    assert guest_agent.frozen(running_vm.hypervisor, running_vm.uuid) is None


def test_a_vm_that_is_off_or_unknown_needs_no_thaw(stopped_vm: BiosVm) -> None:
    assert guest_agent.thaw(stopped_vm.hypervisor, stopped_vm.uuid).result is Thaw.NOT_NEEDED
    assert guest_agent.thaw(stopped_vm.hypervisor, UNKNOWN).result is Thaw.NOT_NEEDED
    assert guest_agent.freeze(stopped_vm.hypervisor, stopped_vm.uuid).result is Freeze.NO_AGENT


def test_leftovers_of_a_dead_run_are_found_and_removed_and_the_rest_is_kept(running_vm: BiosVm) -> None:
    run_root, scratch_root = running_vm.run_folder.parent, running_vm.scratch_folder.parent
    running_vm.make_checkpoint("kept")
    running_vm.begin("dropped")

    def find() -> list[leftovers.Leftover]:
        return leftovers.find_leftovers(
            running_vm.hypervisor,
            running_vm.seen(),
            run_root=run_root,
            scratch_root=scratch_root,
            unwanted=lambda name: name == "dropped",
        )

    found = find()
    assert [one.kind for one in found] == [
        LeftoverKind.JOB,
        LeftoverKind.CHECKPOINT,
        LeftoverKind.FILE,
        LeftoverKind.FILE,
    ]
    for one in found:
        leftovers.remove(running_vm.hypervisor, one)
    assert find() == []
    assert [one.name for one in checkpoints.list_checkpoints(running_vm.hypervisor, running_vm.uuid)] == ["kept"]
    running_vm.write(1)
    assert running_vm.hypervisor.state(running_vm.uuid) is VmState.RUNNING


def test_exports_of_a_vm_that_is_gone_are_found_by_its_folder(stopped_vm: BiosVm, hypervisor: Hypervisor) -> None:
    run_root = stopped_vm.folder / "roots"
    folder = leftovers.vm_folder(run_root, "11111111-1111-4111-8111-111111111111")
    folder.mkdir(parents=True)
    export = OfflineExport(stopped_vm.seen().disk("vda"), folder / "n")
    try:
        found = leftovers.find_of_unknown_vms(hypervisor, run_root=run_root, scratch_root=run_root)
        assert [one.kind for one in found] == [LeftoverKind.EXPORT, LeftoverKind.FILE]
        for one in found:
            leftovers.remove(hypervisor, one)
    finally:
        export.close()
    assert leftovers.find_of_unknown_vms(hypervisor, run_root=run_root, scratch_root=run_root) == []
    assert not folder.exists()


def test_libvirt_accepts_the_copy_of_a_running_vm_beside_the_original(running_vm: BiosVm) -> None:
    xml, _ = as_new_vm(
        running_vm.hypervisor.live_xml(running_vm.uuid),
        name=f"{running_vm.name} copy",
        uuid="22222222-2222-4222-8222-222222222222",
        new_mac=lambda: "52:54:00:01:02:03",
        disk_paths={"vda": (str(running_vm.folder / "copy.qcow2"), "qcow2")},
        nvram=None,
        safe_file=lambda path: True,
    )
    copy = running_vm.hypervisor.define(xml)
    try:
        assert (copy.name, copy.state) == (f"{running_vm.name} copy", VmState.STOPPED)
        assert copy.disk("vda").path == str(running_vm.folder / "copy.qcow2")
    finally:
        running_vm.hypervisor.undefine(copy.uuid)
