"""Writes ranges of a disk of a running VM from outside, as its guest would, and reads them.

qemu-io in the monitor works on the disk's device, not on the image's node: so dirty bitmaps record what it writes.
It reports errors on QEMU's own output only, so that success is read from the device's counters.
"""

import json
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import libvirt_qemu

from lab.disks import SECTOR
from lab.errors import LabError
from lab.programs import run

_LIMIT = 1 << 30
"""Bytes for one command of qemu-io; it refuses 2 GiB."""


def write(domain: libvirt.virDomain, target: str, offset: int, length: int, pattern: int) -> None:
    """Fill `length` bytes at `offset` with the byte `pattern`. Raises LabError."""
    _write(domain, target, f"-P {pattern:#x}", offset, length)


def write_zeros(domain: libvirt.virDomain, target: str, offset: int, length: int) -> None:
    """Make the range read as zeros, without writing them out. Raises LabError."""
    _write(domain, target, "-z -u", offset, length)


def discard(domain: libvirt.virDomain, target: str, offset: int, length: int) -> None:
    """Give the range back, as a guest's TRIM does. Raises LabError when the range is not one of the disk."""
    device = _device(domain, target)
    for start, size in _pieces(domain, target, offset, length):
        _io(domain, device, f"discard {start} {size}")


def flush(domain: libvirt.virDomain, target: str) -> None:
    """Write QEMU's caches of the disk to its image. Raises LabError when there is no such disk."""
    _io(domain, _device(domain, target), "flush")


def read_image(path: Path, image_format: str, offset: int, length: int) -> bytes:
    """A range of an image, backing files included, read from outside in whole sectors. Raises LabError."""
    first = offset // SECTOR
    count = -(-(offset + length) // SECTOR) - first
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "range"
        run(["qemu-img", "dd", "-U", "-f", image_format, "-O", "raw", f"bs={SECTOR}", f"skip={first}",
             f"count={first + count}", f"if={path}", f"of={out}"])  # fmt: skip
        start = offset - first * SECTOR
        return out.read_bytes()[start : start + length]


def _write(domain: libvirt.virDomain, target: str, how: str, offset: int, length: int) -> None:
    device = _device(domain, target)
    before = _failures(domain, device)
    written = domain.blockStats(target)[3]
    for start, size in _pieces(domain, target, offset, length):
        _io(domain, device, f"aio_write -q {how} {start} {size}")
    _io(domain, device, "aio_flush")
    # Zeros that are not written out do not count as written bytes, only as failures.
    missing = "-z" not in how and domain.blockStats(target)[3] - written < length
    if missing or _failures(domain, device) != before:
        raise LabError(f"{domain.name()}, {target}: writing {length} bytes at {offset} failed; QEMU's log says why")


def _pieces(domain: libvirt.virDomain, target: str, offset: int, length: int) -> list[tuple[int, int]]:
    size = domain.blockInfo(target)[0]
    if offset < 0 or length <= 0 or offset + length > size:
        raise LabError(f"{domain.name()}, {target}: {length} bytes at {offset} are not within its {size} bytes")
    return [(start, min(_LIMIT, offset + length - start)) for start in range(offset, offset + length, _LIMIT)]


def _failures(domain: libvirt.virDomain, device: str) -> int:
    """Writes of the device that failed or were refused, since it started."""
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-blockstats"}', 0))
    for entry in answer["return"]:
        # A device with an id of its own is named by that id alone.
        if entry.get("qdev") in (device, device.rpartition("/")[2]):
            return int(entry["stats"]["failed_wr_operations"]) + int(entry["stats"]["invalid_wr_operations"])
    raise LabError(f"{domain.name()} has no device {device}")


def _io(domain: libvirt.virDomain, device: str, command: str) -> None:
    line = f'qemu-io -d {device} "{command}"'
    answer = libvirt_qemu.qemuMonitorCommand(domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    if answer.strip():
        raise LabError(f"{domain.name()}: {line} said {answer.strip()}")


def _device(domain: libvirt.virDomain, target: str) -> str:
    for disk in ET.fromstring(domain.XMLDesc()).iter("disk"):
        place, alias = disk.find("target"), disk.find("alias")
        if place is not None and place.get("dev") == target and alias is not None:
            # A virtio-blk device on the PCI bus wraps the one that owns the BlockBackend.
            suffix = "/virtio-backend" if place.get("bus") == "virtio" else ""
            return f"/machine/peripheral/{alias.get('name')}{suffix}"
    raise LabError(f"{domain.name()} does not run, or has no disk {target}")
