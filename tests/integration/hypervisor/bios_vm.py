"""VMs that stand at their BIOS screen: enough for everything that libvirt and QEMU do to disks."""

import json
import subprocess
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import libvirt
import libvirt_qemu

from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import backup_job, run_folder
from kvm_backup.hypervisor.backup_job import BackupJob, DiskRequest
from kvm_backup.hypervisor.connection import Hypervisor
from lab.programs import kill

BLOCK = 65536


class BiosVm:
    """A VM of the test, with its folder; `disks` maps target to (format, bytes)."""

    def __init__(self, hypervisor: Hypervisor, folder: Path, name: str, disks: dict[str, tuple[str, int]]) -> None:
        self.hypervisor = hypervisor
        self.folder = folder
        self.name = name
        self.uuid = str(uuids.uuid4())
        self.paths = {target: folder / f"{target}.{kind}" for target, (kind, _) in disks.items()}
        parts = []
        for target, (kind, size) in disks.items():
            subprocess.run(["qemu-img", "create", "-q", "-f", kind, self.paths[target], str(size)], check=True)
            parts.append(
                f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>"
                f"<source file={quoteattr(str(self.paths[target]))}/><target dev='{target}' bus='virtio'/></disk>"
            )
        hypervisor.define(
            f"<domain type='qemu'><name>{escape(name)}</name><uuid>{self.uuid}</uuid><memory unit='MiB'>32</memory>"
            "<os><type arch='x86_64'>hvm</type></os><devices>"
            f"{''.join(parts)}<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"
            "</devices></domain>"
        )
        self.run_folder = run_folder.prepare_run_folder(folder / "run" / self.uuid, hypervisor.qemu_owner())
        self.scratch_folder = run_folder.prepare_scratch_folder(
            folder / "scratch" / self.uuid, hypervisor.qemu_owner()
        )
        self.socket = run_folder.socket_path(self.run_folder)

    @property
    def domain(self) -> Any:
        return self.hypervisor.domain(self.uuid)

    def seen(self) -> Vm:
        return self.hypervisor.vm(self.uuid)

    def start(self) -> None:
        self.hypervisor.start(self.uuid)

    def stop(self) -> None:
        self.hypervisor.power_off(self.uuid)

    def kill(self) -> None:
        """SIGKILL to QEMU, and wait until libvirt has seen it."""
        kill(int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text()))
        wait_until(lambda: not self.domain.isActive())

    def write(self, block: int, target: str = "vda", pattern: int = 5) -> None:
        """Write one block of 64 KiB in the guest's disk, from outside the guest when the VM is off."""
        command = f"write -P {pattern} {block * BLOCK} {BLOCK}"
        if self.domain.isActive():
            device = f"/machine/peripheral/virtio-disk{list(self.paths).index(target)}/virtio-backend"
            answer = libvirt_qemu.qemuMonitorCommand(self.domain, f'qemu-io -d {device} "{command}"', 1)
            assert "rror" not in answer, answer
        else:
            top = self.seen().disk(target)
            assert top.path is not None
            subprocess.run(
                ["qemu-io", "-f", top.format, "-c", command, top.path], check=True, stdout=subprocess.DEVNULL
            )

    def begin(self, checkpoint: str | None, base: str | None = None) -> BackupJob:
        vm = self.seen()
        return backup_job.begin(
            self.hypervisor,
            vm,
            [DiskRequest(target, base is not None and vm.disk(target).can_have_bitmap) for target in self.paths],
            checkpoint=checkpoint,
            base=base,
            socket=self.socket,
            scratch_folder=self.scratch_folder,
        )

    def make_checkpoint(self, name: str) -> None:
        self.begin(name).end()

    def changed_since(self, checkpoint: str, target: str = "vda") -> set[int]:
        """Numbers of the 64 KiB blocks that an incremental from the checkpoint holds."""
        job = self.begin(None, checkpoint)
        try:
            export = job.exports[target]
            return dirty_blocks(self.socket, export.name, f"qemu:dirty-bitmap:{export.bitmap}")
        finally:
            job.end()

    @contextmanager
    def another_programs_job(self) -> Iterator[Path]:
        socket = self.folder / "foreign.sock"
        self.folder.chmod(0o777)
        self.domain.backupBegin(
            f"<domainbackup mode='pull'><server transport='unix' socket={quoteattr(str(socket))}/></domainbackup>",
            None,
            0,
        )
        try:
            yield socket
        finally:
            with suppress(libvirt.libvirtError):
                self.domain.abortJob()


def dirty_blocks(socket: Path, export: str, context: str) -> set[int]:
    shown = subprocess.run(
        ["nbdinfo", f"--map={context}", "--json", f"nbd+unix:///{export}?socket={socket}"],
        check=True,
        capture_output=True,
        text=True,
    )
    blocks = set[int]()
    for extent in json.loads(shown.stdout):
        if extent["type"] & 1:
            blocks |= set(range(extent["offset"] // BLOCK, -(-(extent["offset"] + extent["length"]) // BLOCK)))
    return blocks


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


MakeVm = Callable[..., BiosVm]
"""make_vm(name=…, disks={target: (format, bytes)}); both may be left out."""
