import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.domain.errors import CheckpointUnusableError, ToolFailedError
from kvm_backup.domain.vm import VmState
from kvm_backup.hypervisor import checkpoints, nbd_servers, snapshots
from kvm_backup.hypervisor.offline import OfflineExport
from tests.integration.hypervisor.bios_vm import BiosVm, dirty_blocks, wait_until

CREATED = datetime(2026, 3, 1, tzinfo=UTC)


def disk_at(path: Path, image_format: str) -> Disk:
    return Disk(target="vda", device="disk", kind=SourceKind.FILE, path=str(path), format=image_format)


def size_served(export: OfflineExport) -> int:
    uri = f"nbd+unix:///{export.export}?socket={export.socket}"
    shown = subprocess.run(["nbdinfo", "--size", uri], check=True, capture_output=True, text=True)
    return int(shown.stdout)


@pytest.mark.vm
def test_a_stopped_vms_disk_is_served_with_the_blocks_changed_since_a_checkpoint(stopped_vm: BiosVm) -> None:
    checkpoints.create_offline_checkpoint(stopped_vm.hypervisor, stopped_vm.seen(), "c1", ["vda"], CREATED)
    stopped_vm.write(3)
    stopped_vm.start()
    stopped_vm.write(5)
    stopped_vm.stop()
    export = OfflineExport(stopped_vm.seen().disk("vda"), stopped_vm.socket, "c1")
    assert export.alive()
    assert dirty_blocks(export.socket, export.export, "qemu:dirty-bitmap:c1") == {3, 5}
    export.close()
    assert not export.alive()
    assert not stopped_vm.socket.exists()
    export.close()


@pytest.mark.vm
def test_an_export_does_not_keep_the_vm_from_starting(stopped_vm: BiosVm) -> None:
    export = OfflineExport(stopped_vm.seen().disk("vda"), stopped_vm.socket)
    try:
        stopped_vm.start()
        assert stopped_vm.hypervisor.state(stopped_vm.uuid) is VmState.RUNNING
    finally:
        export.close()


@pytest.mark.vm
def test_a_bitmap_with_parts_in_lower_layers_is_refused(stopped_vm: BiosVm) -> None:
    checkpoints.create_offline_checkpoint(stopped_vm.hypervisor, stopped_vm.seen(), "c1", ["vda"], CREATED)
    snapshots.create_snapshot(
        stopped_vm.hypervisor, stopped_vm.seen(), "s1", {"vda": stopped_vm.folder / "overlay.qcow2"}
    )
    with pytest.raises(CheckpointUnusableError, match="several layers"):
        OfflineExport(stopped_vm.seen().disk("vda"), stopped_vm.socket, "c1")


@pytest.mark.vm
def test_a_bitmap_that_was_not_saved_is_refused(running_vm: BiosVm) -> None:
    running_vm.make_checkpoint("c1")
    running_vm.stop()
    running_vm.start()
    running_vm.kill()
    with pytest.raises(CheckpointUnusableError, match="not saved"):
        OfflineExport(running_vm.seen().disk("vda"), running_vm.socket, "c1")


@pytest.mark.parametrize("name", ["a,b=c", "nbd:x:1", "json:{}", "quo\"te's", "été 虚", "-x", "%d"])
def test_any_file_name_can_be_served(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(bytes(65536))
    export = OfflineExport(disk_at(path, "raw"), folder / "n")
    try:
        assert size_served(export) == 65536
    finally:
        export.close()


def test_a_raw_disk_on_which_the_guest_wrote_a_qcow2_header_is_served_as_it_is(folder: Path) -> None:
    secret, disk = folder / "secret", folder / "disk.raw"
    secret.write_bytes(b"s" * 65536)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk, "10M"], check=True)
    export = OfflineExport(disk_at(disk, "raw"), folder / "n")
    try:
        assert size_served(export) < 10 << 20
    finally:
        export.close()


def test_an_image_that_is_not_what_the_vm_says_is_told(folder: Path) -> None:
    disk = folder / "disk.qcow2"
    disk.write_bytes(bytes(65536))
    with pytest.raises(ToolFailedError, match=r"qemu-nbd cannot serve .*disk\.qcow2"):
        OfflineExport(disk_at(disk, "qcow2"), folder / "n")
    assert not (folder / "n").exists()


def test_an_export_whose_program_was_killed_is_not_alive(folder: Path) -> None:
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(65536))
    export = OfflineExport(disk_at(disk, "raw"), folder / "n")
    (pid,) = nbd_servers.find(folder)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not export.alive())
    export.close()


PARENT = """
import json, sys, threading
from pathlib import Path
from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.hypervisor.offline import OfflineExport
folder = Path(sys.argv[1])
disk = Disk(target="vda", device="disk", kind=SourceKind.FILE, path=str(folder / "disk.raw"), format="raw")
kept = []
starter = threading.Thread(target=lambda: kept.append(OfflineExport(disk, folder / "n")))
starter.start()
starter.join()
print(json.dumps(kept[0].alive()), flush=True)
sys.stdin.read()
"""


def test_an_export_outlives_the_thread_that_made_it_and_dies_with_its_process(folder: Path) -> None:
    (folder / "disk.raw").write_bytes(bytes(65536))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert json.loads(parent.stdout.readline()) is True
        assert len(list(nbd_servers.find(folder))) == 1
        parent.kill()
    wait_until(lambda: not list(nbd_servers.find(folder)))
