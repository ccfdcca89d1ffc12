"""The benchmark: who does what in which order."""

import argparse
import os
import shutil
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import libvirt

from bench import limits, measure
from bench.contenders import OURS, PEER, PEER_RESTORE, QEMU, KvmBackup, QemuImg, Result, Virtnbdbackup
from bench.figures import as_json, expectations, figures
from bench.measure import BenchError
from bench.report import Report
from bench.source_vm import DISK, exported, write_scattered
from bench.system_image import PIECE, make_system_image
from lab.disks import DiskSpec
from lab.errors import LabError
from lab.host import connect, running_libvirtd
from lab.images import compare_images
from lab.lab import Lab
from lab.leftovers import clean
from lab.paths import WORK_FOLDER
from lab.programs import run
from lab.vm import LabVm

_GIB = 1 << 30
_DISK_SIZE = 20 * _GIB
_WRITES = 256
_SPACE_PER_DATA = 6
"""Two disks, restored ones and the points take up to this many times the data, and each run adds a point."""


def main(arguments: Sequence[str]) -> int:
    """Parse and measure; the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure KVM Backup beside its peers.")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each tool (default: 3)")
    parser.add_argument("--quick", action="store_true", help="1 GiB of data instead of 4, one run unless --runs")
    chosen = parser.parse_args(arguments)
    data_bytes = _GIB if chosen.quick else 4 * _GIB
    runs = 1 if chosen.quick and chosen.runs == parser.get_default("runs") else chosen.runs
    if runs < 1:
        parser.error("--runs is at least 1")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        measure.adopt_orphans()
        running_libvirtd()
        clean(connect())
        _check_space(data_bytes, runs)
        with Lab() as lab:
            _Bench(lab, data_bytes, runs).run()
    except (BenchError, LabError, libvirt.libvirtError, OSError) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("the benchmark was interrupted; what it had made is gone", file=sys.stderr)
        return 1
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check_space(data_bytes: int, runs: int) -> None:
    needed = data_bytes * (_SPACE_PER_DATA + runs)
    free = shutil.disk_usage(WORK_FOLDER).free
    if free < needed:
        raise BenchError(f"{needed / _GIB:.0f} GiB are needed in {WORK_FOLDER}, {free / _GIB:.0f} GiB are free")


class _Bench:
    def __init__(self, lab: Lab, data_bytes: int, runs: int) -> None:
        self._lab = lab
        self._folder = lab.folder
        self._runs = runs
        self._report = Report()
        self._report.say(
            f"Filling a disk of {_DISK_SIZE // _GIB} GiB with {data_bytes // _GIB} GiB of system files ..."
        )
        self._image = make_system_image(self._folder, data_bytes=data_bytes, disk_bytes=_DISK_SIZE, pieces=_WRITES)
        # Each tool has a VM of its own, so that none meets the checkpoints of the other.
        second = self._folder / "system-2.qcow2"
        run(["cp", "--reflink=auto", self._image.path, second])
        self._our_vm, self._peer_vm = (
            lab.create_vm(name, [DiskSpec(image=path)], guest=False)
            for name, path in (("ours", self._image.path), ("peer", second))
        )
        self._ours = KvmBackup(self._folder / "ours", self._our_vm)
        self._peer = Virtnbdbackup(self._folder / "peer", self._peer_vm)
        self._qemu = QemuImg(self._folder / "qemu", self._peer_vm)
        self._caches_dropped = True

    def run(self) -> None:
        report = self._report
        load_before = os.getloadavg()
        full = self._phase(
            "full",
            {
                OURS: lambda: self._ours.back_up("full"),
                PEER: lambda: self._peer.back_up("full"),
                QEMU: self._qemu.back_up,
            },
        )
        machine_limits = self._measure_limits()
        incremental = self._phase(
            "incremental",
            {OURS: lambda: self._ours.back_up("incremental"), PEER: lambda: self._peer.back_up("inc")},
            before=self._write,
        )
        restore = self._phase(
            "restore",
            {
                OURS: lambda: self._restored(self._our_vm, self._ours.restore),
                PEER_RESTORE: lambda: self._restored(self._peer_vm, self._peer.restore),
                QEMU: lambda: self._restored(self._our_vm, lambda to: self._qemu.restore(self._ours.newest, to)),
            },
        )
        changed = _WRITES * PIECE
        whole = self._image.data_bytes + changed * self._runs
        report.phase(
            f"Full backup of {_gib(self._image.data_bytes)} in {_gib(_DISK_SIZE)}", full, self._image.data_bytes
        )
        report.phase(f"Incremental backup after {_WRITES} scattered writes of 1 MiB", incremental, changed)
        report.phase(f"Restore of a full and {self._runs} incremental points", restore, whole)
        ours = figures(full[OURS])
        cores = len(os.sched_getaffinity(0))
        rate = self._image.data_bytes / ours.seconds
        report.limits(machine_limits, cores, rate, ours.output_bytes / self._image.data_bytes)
        checks = expectations(full, incremental, restore)
        report.expectations(checks)
        self._notes(load_before)
        path = report.write(
            {
                "data": {
                    "bytes": self._image.data_bytes,
                    "files": self._image.files,
                    "rounds": self._image.rounds,
                    "disk_bytes": _DISK_SIZE,
                    "changed_bytes": changed,
                },
                "runs": self._runs,
                "caches_dropped": self._caches_dropped,
                "load_average_before": load_before,
                "limits": asdict(machine_limits),
                "full": as_json(full),
                "incremental": as_json(incremental),
                "restore": as_json(restore),
                "expectations": [{"text": text, "met": met} for text, met in checks],
            }
        )
        report.say(f"\nAll figures: {path}")

    def _phase(
        self, name: str, tools: dict[str, Callable[[], Result]], before: Callable[[int], None] | None = None
    ) -> dict[str, list[Result]]:
        """Each tool once in each round; another one begins each time."""
        results: dict[str, list[Result]] = {tool: [] for tool in tools}
        order = list(tools)
        for number in range(self._runs):
            if before is not None:
                before(number)
            for tool in order[number % len(order) :] + order[: number % len(order)]:
                self._caches_dropped = measure.drop_caches() and self._caches_dropped
                result = tools[tool]()
                results[tool].append(result)
                self._report.say(
                    f"{name} {number + 1}/{self._runs}: {tool} {result.cost.seconds:.1f} s"
                    f" (load {os.getloadavg()[0]:.1f})"
                )
        return results

    def _write(self, number: int) -> None:
        for vm in (self._our_vm, self._peer_vm):
            write_scattered(vm, self._image.pieces, number + 1)

    def _restored(self, vm: LabVm, restore: Callable[[Path], Result]) -> Result:
        """Restore to a new folder, see that it is the VM's disk, and remove it."""
        to = self._folder / "restored"
        result = restore(to)
        disk = next(path for path in to.iterdir() if path.name in (f"{DISK}.qcow2", Path(vm.disk(DISK)).name))
        vm.suspend()
        try:
            compare_images(disk, vm.disk(DISK))
        finally:
            vm.resume()
        shutil.rmtree(to)
        return result

    def _measure_limits(self) -> limits.Limits:
        reads, writes = [], []
        for _ in range(self._runs):
            self._caches_dropped = measure.drop_caches() and self._caches_dropped
            with exported(self._peer_vm, self._folder / "export") as uri:
                log = self._folder / "nbdcopy.log"
                reads.append(limits.read_rate(uri, self._image.data_bytes, log=log))
            writes.append(limits.write_rate(self._folder / "written"))
        compress, digest = limits.compress_and_digest_rates(self._image.pieces)
        return limits.Limits(statistics.median(reads), statistics.median(writes), compress, digest)

    def _notes(self, load_before: tuple[float, float, float]) -> None:
        report = self._report
        report.heading("Notes")
        report.say(f"Load average {load_before[0]:.1f} before, {os.getloadavg()[0]:.1f} after.")
        if not self._caches_dropped:
            report.say("The host does not allow its page cache to be dropped: reads may have come from memory.")
        if self._image.rounds > 1:
            report.say(f"The host has too few files: they were taken {self._image.rounds} times.")


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB".replace(".0 GiB", " GiB")
