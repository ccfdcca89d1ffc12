"""Reads and writes ranges of a disk of a running VM from outside, as its guest would.

qemu-io in the monitor works on the disk's device, not on the image's node: so dirty bitmaps record what it writes.
"""

import re
import xml.etree.ElementTree as ET

import libvirt
import libvirt_qemu

from lab.errors import LabError

_LIMIT = 1 << 30
"""Bytes for one command of qemu-io; it refuses 2 GiB."""


def write(domain: libvirt.virDomain, target: str, offset: int, length: int, pattern: int) -> None:
    """Fill `length` bytes at `offset` with the byte `pattern`. Raises LabError."""
    for start, size in _pieces(offset, length):
        _qemu_io(domain, target, f"write -P {pattern:#x} {start} {size}")


def discard(domain: libvirt.virDomain, target: str, offset: int, length: int) -> None:
    """Give the range back, as a guest's TRIM does. Raises LabError."""
    for start, size in _pieces(offset, length):
        _qemu_io(domain, target, f"discard {start} {size}")


def write_zeros(domain: libvirt.virDomain, target: str, offset: int, length: int) -> None:
    """Make the range read as zeros, without writing them out. Raises LabError."""
    for start, size in _pieces(offset, length):
        _qemu_io(domain, target, f"write -z -u {start} {size}")


def holds(domain: libvirt.virDomain, target: str, offset: int, length: int, pattern: int) -> bool:
    """Whether every byte of the range is `pattern`. Raises LabError."""
    pieces = _pieces(offset, length)
    return not any("Pattern verification failed" in _io(domain, target, f"read -P {pattern:#x} {start} {size}")
                   for start, size in pieces)  # fmt: skip


def flush(domain: libvirt.virDomain, target: str) -> None:
    """Write QEMU's caches of the disk to its image. Raises LabError."""
    _qemu_io(domain, target, "flush")


def _pieces(offset: int, length: int) -> list[tuple[int, int]]:
    return [(start, min(_LIMIT, offset + length - start)) for start in range(offset, offset + length, _LIMIT)]


def _qemu_io(domain: libvirt.virDomain, target: str, command: str) -> None:
    said = _io(domain, target, command)
    # The monitor's command never fails; what went wrong is only in what it prints.
    if said and not re.search(r"^(wrote|read|discard) \d+/\d+ bytes", said):
        raise LabError(f"{domain.name()}, {target}: qemu-io {command!r} said {said}")


def _io(domain: libvirt.virDomain, target: str, command: str) -> str:
    line = f'qemu-io -d {_device(domain, target)} "{command}"'
    answer = libvirt_qemu.qemuMonitorCommand(domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    return str(answer).strip()


def _device(domain: libvirt.virDomain, target: str) -> str:
    for disk in ET.fromstring(domain.XMLDesc()).iter("disk"):
        place, alias = disk.find("target"), disk.find("alias")
        if place is not None and place.get("dev") == target and alias is not None:
            # A virtio-blk device on the PCI bus wraps the one that owns the BlockBackend.
            suffix = "/virtio-backend" if place.get("bus") == "virtio" else ""
            return f"/machine/peripheral/{alias.get('name')}{suffix}"
    raise LabError(f"{domain.name()} does not run, or has no disk {target}")
