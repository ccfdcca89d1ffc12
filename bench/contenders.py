"""Who takes part: how each tool is called, and what it leaves."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.measure import BenchError, Cost
from bench.source_vm import DISK, exported
from lab.vm import LabVm

OURS = "kvm-backup"
PEER = "virtnbdbackup"
PEER_RESTORE = "virtnbdrestore"
QEMU = "qemu-img convert"

_KVM_BACKUP = Path(sys.prefix) / "bin" / "kvm-backup"


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one tool; `output_bytes` is the size of the files that it wrote."""

    cost: Cost
    output_bytes: int


class KvmBackup:
    """This project, called as a user calls it, with a state folder of its own."""

    def __init__(self, folder: Path, vm: LabVm) -> None:
        self._folder = folder
        self._vm = vm
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
        # The settings of this host must not change what is measured.
        settings = folder / "kvm-backup.toml"
        settings.touch()
        self._environment = {"KVM_BACKUP_STATE_DIR": str(folder / "state"), "KVM_BACKUP_CONFIG": str(settings)}
        self._log = folder / "kvm-backup.log"
        self.newest = Path()

    def back_up(self, mode: str) -> Result:
        """Raises BenchError when it fails, or makes a point of another mode."""
        cost = self._run(["backup", self._vm.name, "--mode", mode, "--json"], source_pid=self._vm.qemu_pid())
        finished = json.loads(self._log.read_text().splitlines()[-1])
        if finished["mode"] != mode:
            raise BenchError(f"kvm-backup made a {finished['mode']} point, not {mode}: {finished['detail']}")
        self.newest = Path(finished["path"])
        return Result(cost, size_of(self.newest))

    def restore(self, to: Path) -> Result:
        cost = self._run(["restore", f"{self._vm.name}/latest", "--to", str(to), "--json"])
        return Result(cost, allocated(to))

    def _run(self, arguments: Sequence[str], source_pid: int | None = None) -> Cost:
        return measure.run(
            [_KVM_BACKUP, *arguments],
            log=self._log,
            flush=self._folder,
            source_pid=source_pid,
            environment=self._environment,
        )


class Virtnbdbackup:
    """The nearest peer, with its own compression (lz4) on."""

    def __init__(self, folder: Path, vm: LabVm) -> None:
        self._folder = folder
        self._vm = vm
        self._log = folder / "virtnbdbackup.log"
        self._backup = folder / "backup"
        self._open = folder / "open"
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
        self._open.mkdir()
        self._open.chmod(0o777)  # QEMU makes socket and scratch file there as its own user

    def back_up(self, level: str) -> Result:
        if level == "full":
            shutil.rmtree(self._backup, ignore_errors=True)
        before = size_of(self._backup)
        cost = measure.run(
            ["virtnbdbackup", "-d", self._vm.name, "-l", level, "-z", "-o", self._backup,
             "-S", self._open, "-f", self._open / "socket", "--noprogress"],
            log=self._log,
            flush=self._folder,
            source_pid=self._vm.qemu_pid(),
        )  # fmt: skip
        return Result(cost, size_of(self._backup) - before)

    def restore(self, to: Path) -> Result:
        cost = measure.run(
            ["virtnbdrestore", "-i", self._backup, "-o", to, "-f", self._open / "socket", "--noprogress",
             "-L", self._folder / "virtnbdrestore.log"],
            log=self._log,
            flush=self._folder,
        )  # fmt: skip
        return Result(cost, allocated(to))


class QemuImg:
    """What a script of one's own does: export the running VM's disk, then convert it."""

    def __init__(self, folder: Path, vm: LabVm) -> None:
        self._folder = folder
        self._vm = vm
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)

    def back_up(self) -> Result:
        out = self._folder / "full.qcow2"
        out.unlink(missing_ok=True)
        with exported(self._vm, self._folder / "export") as uri:
            cost = measure.run(
                ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", uri, out],
                log=self._folder / "log",
                flush=self._folder,
                source_pid=self._vm.qemu_pid(),
            )
        size = out.stat().st_size
        out.unlink()
        return Result(cost, size)

    def restore(self, point: Path, to: Path) -> Result:
        """Restore one of our points by hand."""
        to.mkdir()
        cost = measure.run(
            ["qemu-img", "convert", "-O", "qcow2", point / f"{DISK}.qcow2", to / f"{DISK}.qcow2"],
            log=self._folder / "log",
            flush=self._folder,
        )
        return Result(cost, allocated(to))


def size_of(folder: Path) -> int:
    """Bytes of all files below, as their sizes say."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def allocated(folder: Path) -> int:
    """Bytes that all files below take on the disk: a restored disk may have holes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
