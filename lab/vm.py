"""A test VM: what a test does to it, and in its guest."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from lab import agent, blocks, control
from lab.disks import DiskSpec
from lab.domain_xml import disk_element
from lab.errors import LabError
from lab.images import virtual_size
from lab.programs import kill, run

if TYPE_CHECKING:
    from lab.lab import Lab

_SHUTDOWN_SECONDS = 60.0


class LabVm:
    """A VM of a Lab. Every call finds the domain anew, so that a restarted libvirtd does no harm."""

    def __init__(self, lab: "Lab", uuid: str) -> None:
        self._lab = lab
        self.uuid = uuid
        self.name: str = self.domain.name()

    @property
    def domain(self) -> libvirt.virDomain:
        """libvirt's object for it, on a connection that works."""
        return self._lab.find_domain(self.uuid)

    # Its life.

    def start(self, *, paused: bool = False) -> None:
        """Start it, with its CPUs stopped when `paused`."""
        self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    @property
    def state(self) -> str:
        """`running`, `paused`, `shut off` or another word of `virsh domstate`."""
        names = {
            libvirt.VIR_DOMAIN_RUNNING: "running",
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
            libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
        }
        return names.get(self.domain.state()[0], "no state")

    def wait_agent(self, timeout: float = 60.0) -> None:
        """Wait until the guest agent answers. Raises LabError after `timeout` seconds."""
        agent.wait_until_it_answers(self.domain, timeout)

    def wait_state(self, state: str, timeout: float = _SHUTDOWN_SECONDS) -> None:
        """Wait until `state` is this. Raises LabError after `timeout` seconds."""
        self._wait(lambda: self.state == state, f"get into the state {state!r}", timeout)

    def shutdown(self, timeout: float = _SHUTDOWN_SECONDS) -> None:
        """Press the power button and wait until the guest has gone cleanly; it needs no agent. Raises LabError."""
        self.domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        self.wait_state("shut off", timeout)

    def destroy(self) -> None:
        """Pull the plug: QEMU ends in order, the guest does not."""
        self.domain.destroy()

    def kill_qemu(self) -> None:
        """SIGKILL this VM's QEMU, as the kernel does when memory runs out, and wait until libvirt has noticed."""
        kill(self.qemu_pid())
        self.wait_state("shut off")

    def qemu_pid(self) -> int:
        """The process id of its QEMU. Raises LabError when that is not what runs under it."""
        pid = int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text())
        if f"guest={self.name}," not in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
            raise LabError(f"process {pid} is not the QEMU of {self.name}")
        return pid

    def suspend(self) -> None:
        """Stop its CPUs. QEMU writes its caches to the images when it does so."""
        self.domain.suspend()

    def resume(self) -> None:
        """Let its CPUs go on."""
        self.domain.resume()

    # In the guest, through the agent.

    def run(self, command: str | Sequence[str], timeout: float = 60.0) -> str:
        """Run a shell line or an argv as root and return its stdout. Raises GuestCommandError, LabError."""
        return agent.execute(self.domain, command, timeout)

    def write_file(self, path: str, content: bytes) -> None:
        """Replace a file; it may still be in the guest's cache afterwards: see sync."""
        agent.write_file(self.domain, path, content)

    def read_file(self, path: str) -> bytes:
        """The content of a file."""
        return agent.read_file(self.domain, path)

    def sync(self) -> None:
        """Have the guest write its caches to its disks."""
        self.run(["sync"])

    def frozen(self) -> bool:
        """Whether the guest's file systems are frozen."""
        return bool(agent.ask(self.domain, "guest-fsfreeze-status") == "frozen")

    # In the guest, without the agent.

    def run_without_agent(self, line: str, timeout: float = 60.0) -> None:
        """Run one shell line as root through the lab's own port. Raises GuestCommandError, LabError."""
        control.run_line(self.domain, line, timeout)

    def hang_agent(self, seconds: float | None = None) -> None:
        """Make the agent stop answering, for ever or for this time."""
        later = "" if seconds is None else f"; (sleep {seconds}; kill -CONT $pid) &"
        self.run_without_agent(f"pid=$(pidof qemu-ga) && kill -STOP $pid{later}")

    def unhang_agent(self) -> None:
        """Let a hung agent go on: it then answers everything that it was asked meanwhile."""
        self.run_without_agent("kill -CONT $(pidof qemu-ga)")

    def start_writer(self, kib_per_second: int = 1024) -> None:
        """Have the guest write random data into /data/writer, at most at this rate, until stop_writer."""
        self.run_without_agent(f"/lab/writer start {kib_per_second}")

    def stop_writer(self) -> None:
        """End what start_writer started."""
        self.run_without_agent("/lab/writer stop")

    def check_writer(self) -> int:
        """Check all that a stopped writer left in /data/writer (also in a restored VM); the newest file's number.

        Raises GuestCommandError when a file is damaged or one that was surely written is missing.
        """
        return int(self.run(["/lab/writer", "check"]))

    # Its disks.

    def disk(self, target: str) -> Path:
        """The image or block device that the disk `target` uses now (its top, after a snapshot). Raises LabError."""
        source = self._disk_element(target).find("source")
        path = None if source is None else source.get("file") or source.get("dev")
        if path is None:
            raise LabError(f"the disk {target} of {self.name} has no file")
        return Path(path)

    def write_blocks(self, target: str, offset: int, length: int, pattern: int) -> None:
        """Fill a range (bytes) with the byte `pattern`, through the disk's device in QEMU. Raises LabError."""
        blocks.write(self.domain, target, offset, length, pattern)

    def write_zeros(self, target: str, offset: int, length: int) -> None:
        """Make a range (bytes) read as zeros without writing them out. Raises LabError."""
        blocks.write_zeros(self.domain, target, offset, length)

    def discard_blocks(self, target: str, offset: int, length: int) -> None:
        """Discard a range (bytes), as a guest's TRIM does. Raises LabError."""
        blocks.discard(self.domain, target, offset, length)

    def read_blocks(self, target: str, offset: int, length: int) -> bytes:
        """A range (bytes) of the disk as its image holds it; what the guest has in its own cache is not there yet.

        Meant for ranges that nobody writes meanwhile. Raises LabError.
        """
        if self.domain.isActive():
            blocks.flush(self.domain, target)
        return blocks.read_image(self.disk(target), self._image_format(target), offset, length)

    def copy_disk(self, target: str, to: Path) -> None:
        """Write the disk's content, backing files included, to the new qcow2 file `to`, by a route of its own.

        It reads the image from outside, so the VM must be shut off or paused; raises LabError when it is not.
        A paused VM's caches are flushed first.
        """
        state = self.state
        if state == "paused":
            blocks.flush(self.domain, target)
        elif state != "shut off":
            raise LabError(f"{self.name} is {state}: a copy of its disk from outside would be torn")
        if to.exists():
            raise LabError(f"{to} exists")
        run(
            ["qemu-img", "convert", "-U", "-f", self._image_format(target), "-O", "qcow2", self.disk(target), to],
            timeout=1800,
        )

    def resize_disk(self, target: str, size: int) -> None:
        """Make the disk `size` bytes long, while the VM runs or not; a loop device cannot be resized."""
        if self.domain.isActive():
            self.domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        else:
            image_format = self._image_format(target)
            shrink = ["--shrink"] if size < virtual_size(self.disk(target)) else []
            run(["qemu-img", "resize", "-q", *shrink, "-f", image_format, self.disk(target), str(size)])

    def attach_disk(self, spec: DiskSpec) -> str:
        """Add a disk, now and for later starts; the target that it got."""
        taken = {place.get("dev", "") for place in self._xml().iterfind("devices/disk/target")}
        placed = self._lab.place_disk(self.name, spec, taken, with_guest=False)
        self.domain.attachDeviceFlags(ET.tostring(disk_element(placed), encoding="unicode"), self._scope())
        return placed.target

    def detach_disk(self, target: str, timeout: float = 30.0) -> None:
        """Remove a disk, now and for later starts; its file stays until the lab ends.

        A virtio disk of a running VM goes only when its guest lets it go: LabError after `timeout` seconds.
        """
        self.domain.detachDeviceFlags(ET.tostring(self._disk_element(target), encoding="unicode"), self._scope())
        place = f"devices/disk/target[@dev='{target}']"
        self._wait(lambda: self._xml().find(place) is None, f"let the disk {target} go", timeout)

    def _scope(self) -> int:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE if self.domain.isActive() else 0
        return int(live | libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def _xml(self) -> ET.Element:
        return ET.fromstring(self.domain.XMLDesc())

    def _disk_element(self, target: str) -> ET.Element:
        for disk in self._xml().iterfind("devices/disk"):
            place = disk.find("target")
            if place is not None and place.get("dev") == target:
                return disk
        raise LabError(f"{self.name} has no disk {target}")

    def _image_format(self, target: str) -> str:
        driver = self._disk_element(target).find("driver")
        return "raw" if driver is None else driver.get("type", "raw")

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} did not {what} within {timeout:.0f} s; it is {self.state}")
            time.sleep(0.05)
