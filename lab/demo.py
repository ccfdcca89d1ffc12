"""`make demo`: a VM is backed up while it writes, and its past is brought back as a second VM."""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import libvirt

from lab.demo_place import (
    RESTORED_DISKS,
    RESTORED_VM,
    SETTINGS,
    STATE,
    VM,
    check_host,
    demo_lab,
    host_files,
    make_state,
    only_demo,
    remove_all,
    remove_vms,
)
from lab.demo_screen import KVM_BACKUP, Screen
from lab.disks import DiskSpec
from lab.errors import LabError
from lab.guest.image import guest_image
from lab.host import running_libvirtd
from lab.lab import Lab
from lab.vm import LabVm

_MIB = 1 << 20
_DISK_SIZE = 1024 * _MIB
_DATA_SIZE = 384 * _MIB
_NEW_DATA_MIB = 16
_WRITER_KIB_PER_SECOND = 1024
_LETTER = "/data/letter.txt"
_LETTERS = ("first: before the full backup", "second: before the middle point", "third: before the newest point")
_AGENT_SECONDS = 180.0
"""How long a guest may boot: without /dev/kvm, on a busy machine, it takes its time."""
_EXPORT = f"export KVM_BACKUP_STATE_DIR={STATE} KVM_BACKUP_CONFIG={SETTINGS}"
_COLUMNS = ("", "TIME", "READ", "WRITTEN", "RATE")


@dataclass(frozen=True, slots=True)
class _Taken:
    """A point that was taken: `wrote` are the writer's numbers right before and after; sizes in bytes."""

    id: str
    mode: str
    bytes_read: int
    bytes_stored: int
    seconds: float
    wrote: tuple[int, int]


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description="Back up a real VM and bring its past back.")
    parser.add_argument("--keep", action="store_true", help="leave both VMs running at the end")
    parser.add_argument("--remove", action="store_true", help="only remove what an earlier demo left")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    screen = None
    try:
        with only_demo() as lock:
            screen = Screen(STATE, SETTINGS, lock)
            running_libvirtd()
            earlier = remove_all(demo_lab())
            if chosen.remove:
                screen.say(f"removed: {', '.join(earlier) or 'nothing was left'}")
                return 0
            with demo_lab() as lab:
                try:
                    _Demo(screen, lab).run(keep=chosen.keep)
                except BaseException:
                    remove_vms(lab)
                    raise
    except (LabError, libvirt.libvirtError, OSError) as error:
        message = f"the demo failed: {error}"
    except KeyboardInterrupt:
        message = "the demo was interrupted; its VMs are gone"
    else:
        return 0
    if screen is None:
        print(message, file=sys.stderr)
    else:
        screen.failed(message)
    return 1


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Demo:
    def __init__(self, screen: Screen, lab: Lab) -> None:
        self._screen = screen
        self._lab = lab
        self._began = time.monotonic()
        self._rows: list[tuple[str, str, str, str, str]] = []

    def run(self, *, keep: bool) -> None:
        screen = self._screen
        screen.title(
            "KVM Backup: the demo", "A VM is backed up while it writes, and its past is brought back beside it."
        )
        check_host(self._lab)
        make_state()
        self._build_guest()
        vm = self._start_vm()

        screen.step("Back it up while it writes: a full point, then two incremental ones")
        screen.show_command(_EXPORT)
        points = [self._back_up(vm, number) for number in range(len(_LETTERS))]
        middle = points[1]

        screen.step("Verify: read and decompress all that was stored")
        seconds = screen.run("verify", "--vm", VM, "--deep")
        self._add_row("verify --deep", seconds, sum(point.bytes_stored for point in points), None)

        screen.step("Restore the middle point as a new VM, and start it")
        stamp = middle.id.rpartition("/")[2]
        seconds = screen.run(
            "restore", f"{VM}/{stamp}", "--as", RESTORED_VM, "--disks-in", str(RESTORED_DISKS), "--start"
        )
        written = sum(path.stat().st_blocks * 512 for path in RESTORED_DISKS.iterdir())
        read = sum(point.bytes_stored for point in points[:2])
        self._add_row("restore", seconds, read, written, moved=written)

        screen.step("Read the file back in the restored VM")
        self._compare(vm, self._boot_restored(), middle)
        self._summary(keep=keep)
        if not keep:
            remove_vms(self._lab)

    def _build_guest(self) -> None:
        self._screen.step("Build the guest: a Debian kernel, busybox and the QEMU guest agent")
        began = time.monotonic()
        with self._screen.waiting("downloading about 35 MB of Debian packages, unless the cache holds the guest"):
            image = guest_image()
        seconds = time.monotonic() - began
        self._screen.good(f"{image.initramfs.parent} ({seconds:.1f} s)")

    def _start_vm(self) -> LabVm:
        screen = self._screen
        screen.step(f"Start it as VM {VM}, with {_DATA_SIZE // _MIB} MiB of this host's files on its disk")
        began = time.monotonic()
        with screen.waiting("filling its disk"):
            files = host_files(Path("/usr"), _DATA_SIZE)
            made = self._lab.create_vm("vm", [DiskSpec(_DISK_SIZE, files=files)], start=False)
            made.domain.rename(VM)
            vm = self._lab.adopt(VM)
        with screen.waiting("booting"):
            vm.start()
            _wait_for_agent(vm)
            vm.start_writer(_WRITER_KIB_PER_SECOND)
            self._wait_for_writer(vm, 1)
        screen.good(f"it runs ({time.monotonic() - began:.1f} s), and writes files without pause from now on")
        return vm

    def _back_up(self, vm: LabVm, number: int) -> _Taken:
        screen = self._screen
        letter = _LETTERS[number]
        vm.write_file(_LETTER, f"{letter}\n".encode())
        if number:
            vm.run(f"dd if=/dev/urandom of=/data/new-{number} bs=1M count={_NEW_DATA_MIB} 2>/dev/null")
        vm.sync()
        screen.say(f'in the VM, {_LETTER} now says "{letter}"')
        before = self._written(vm)
        # Points are named after the second in which they were taken, so a user never sees two of one name.
        seconds = screen.run("backup", VM)
        wrote = (before, self._written(vm))
        details = json.loads(screen.ask("point", "show", f"{VM}/latest", "--json"))
        taken = _Taken(details["id"], details["mode"], details["bytes_read"], details["bytes_stored"], seconds, wrote)
        expected = "incremental" if number else "full"
        if taken.mode != expected:
            raise LabError(f"point {taken.id} is {taken.mode}, not {expected}: {details['detail']}")
        screen.good(f"meanwhile the VM wrote {wrote[1] - wrote[0]} files of 64 KiB")
        name = f"incremental {number}" if number else "full"
        self._add_row(name, seconds, taken.bytes_read, taken.bytes_stored)
        return taken

    def _boot_restored(self) -> LabVm:
        began = time.monotonic()
        with self._screen.waiting("booting"):
            restored = self._lab.adopt(RESTORED_VM)
            _wait_for_agent(restored)
        seconds = time.monotonic() - began
        self._screen.good(f"{RESTORED_VM} booted ({seconds:.1f} s)")
        self._rows.append(("boot it", f"{seconds:.1f} s", "", "", ""))
        return restored

    def _compare(self, vm: LabVm, restored: LabVm, middle: _Taken) -> None:
        screen = self._screen
        now, then = (each.read_file(_LETTER).decode().strip() for each in (vm, restored))
        width = len(RESTORED_VM)
        screen.say(f'{_LETTER} in {VM:<{width}} says "{now}"')
        screen.say(f'{_LETTER} in {RESTORED_VM} says "{then}"')
        if now != _LETTERS[2] or then != _LETTERS[1]:
            raise LabError("the restored VM does not hold what the middle point was taken of")
        screen.good("the restored VM is at the middle point; the VM itself is further")
        newest = restored.check_writer()
        if not middle.wrote[0] <= newest <= middle.wrote[1] + 1:
            raise LabError(f"the restored VM's newest file is {newest}, which the middle point cannot hold")
        screen.good(
            f"the file it was writing then is whole: number {newest},"
            f" of {middle.wrote[0]} to {middle.wrote[1]} in that run"
        )

    def _summary(self, *, keep: bool) -> None:
        screen = self._screen
        screen.step(f"What happened, in {time.monotonic() - self._began:.0f} s")
        screen.table(_COLUMNS, self._rows)
        lines = ["sudo -s"] if "SUDO_USER" in os.environ else []
        lines += [
            _EXPORT,
            f"export PATH={shlex.quote(str(KVM_BACKUP.parent))}:$PATH",
            f"kvm-backup point list {VM}",
            f"kvm-backup point show {VM}/latest",
            "kvm-backup verify --all --deep",
            f"kvm-backup restore {VM}/latest --to {STATE}/by-hand",
        ]
        if keep:
            lines.append(f"kvm-backup backup {VM}")
        lines.append("kvm-backup doctor")
        screen.commands("Next commands to type:", lines)
        if keep:
            screen.remark("Both VMs go on running, until the next demo.")
        else:
            screen.remark(f"The VMs are removed now, the points stay in {STATE} until you remove them.")
            screen.remark("make demo ARGS=--keep      leaves the VMs running")
        screen.remark("make demo ARGS=--remove    removes all that a demo left")

    def _add_row(self, name: str, seconds: float, read: int, stored: int | None, *, moved: int | None = None) -> None:
        rate = (read if moved is None else moved) / seconds
        sizes = [_mib(read), "" if stored is None else _mib(stored), f"{_mib(rate)}/s"]
        self._rows.append((name, f"{seconds:.1f} s", sizes[0], sizes[1], sizes[2]))

    def _written(self, vm: LabVm) -> int:
        """The number of the newest file that the VM has surely written."""
        return int(vm.read_file("/data/writer/sequence"))

    def _wait_for_writer(self, vm: LabVm, number: int) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                if self._written(vm) >= number:
                    return
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"the guest does not write: {error}") from error
            time.sleep(0.1)


def _wait_for_agent(vm: LabVm) -> None:
    """Raises LabError."""
    try:
        vm.wait_agent(_AGENT_SECONDS)
    except LabError as error:
        raise LabError(
            f"{error}\nHINT: The guest did not boot in {_AGENT_SECONDS:.0f} s. Without /dev/kvm this needs an"
            " otherwise idle machine: run 'make demo' again when less runs on this host."
        ) from error


def _mib(size: float) -> str:
    return f"{size / _MIB:.1f} MiB" if size < 10 * _MIB else f"{size / _MIB:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
