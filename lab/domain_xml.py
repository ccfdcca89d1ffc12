"""Writes the XML of test VMs."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from lab.disks import DiskSpec
from lab.guest.image import COMMAND_LINE, GuestImage

AGENT_PORT = "org.qemu.guest_agent.0"
CONTROL_PORT = "lab.control.0"

_LETTERS = {"virtio": "vd", "scsi": "sd", "ide": "hd"}
_FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_NVRAM_TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"


@dataclass(frozen=True, slots=True)
class PlacedDisk:
    """A disk with its name in the guest and its file or block device on the host."""

    spec: DiskSpec
    target: str
    path: Path


@dataclass(frozen=True, slots=True)
class VmSpec:
    """What the XML of a VM is written from; `guest` is None for a VM that stays at its firmware's screen."""

    name: str
    disks: tuple[PlacedDisk, ...]
    guest: GuestImage | None
    agent: bool
    uefi: bool
    tpm: bool
    memory_mib: int
    network: bool
    virt_type: str


def free_target(spec: DiskSpec, taken: set[str]) -> str:
    """The target that `spec` asks for, or the first free one of its bus."""
    if spec.target is not None:
        return spec.target
    prefix = _LETTERS[spec.bus]
    return next(name for letter in "abcdefghijklmnopqrstuvwxyz" if (name := prefix + letter) not in taken)


def disk_element(disk: PlacedDisk) -> ET.Element:
    """The <disk> of a domain."""
    spec = disk.spec
    element = ET.Element("disk", type="block" if spec.block_device else "file", device=spec.device)
    ET.SubElement(element, "driver", name="qemu", type=spec.image_format, discard="unmap")
    ET.SubElement(element, "source", {"dev" if spec.block_device else "file": str(disk.path)})
    ET.SubElement(element, "target", dev=disk.target, bus=spec.bus)
    if spec.read_only or spec.device == "cdrom":
        ET.SubElement(element, "readonly")
    if spec.shareable:
        ET.SubElement(element, "shareable")
    return element


def domain_xml(spec: VmSpec) -> str:
    """The XML of the whole domain. It names no file or port that two VMs could not share, apart from its disks."""
    domain = ET.Element("domain", type=spec.virt_type)
    ET.SubElement(domain, "name").text = spec.name
    ET.SubElement(domain, "description").text = "A test VM of the KVM Backup lab"
    ET.SubElement(domain, "memory", unit="MiB").text = str(spec.memory_mib)
    ET.SubElement(domain, "vcpu").text = "1"
    domain.append(_os_element(spec))
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    ET.SubElement(domain, "on_poweroff").text = "destroy"
    ET.SubElement(domain, "on_reboot").text = "restart"
    ET.SubElement(domain, "on_crash").text = "destroy"
    domain.append(_devices_element(spec))
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _os_element(spec: VmSpec) -> ET.Element:
    element = ET.Element("os")
    ET.SubElement(element, "type", arch="x86_64", machine="pc").text = "hvm"
    if spec.uefi:
        ET.SubElement(element, "loader", readonly="yes", type="pflash").text = _FIRMWARE
        ET.SubElement(element, "nvram", template=_NVRAM_TEMPLATE)
    if spec.guest is not None:
        ET.SubElement(element, "kernel").text = str(spec.guest.kernel)
        ET.SubElement(element, "initrd").text = str(spec.guest.initramfs)
        ET.SubElement(element, "cmdline").text = COMMAND_LINE
    return element


def _devices_element(spec: VmSpec) -> ET.Element:
    devices = ET.Element("devices")
    for disk in spec.disks:
        devices.append(disk_element(disk))
    ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    ET.SubElement(devices, "controller", type="usb", model="none")
    if spec.agent:
        _add_port(devices, AGENT_PORT)
    if spec.guest is not None:
        _add_port(devices, CONTROL_PORT)
    if spec.network:
        interface = ET.SubElement(devices, "interface", type="user")
        ET.SubElement(interface, "model", type="virtio")
    if spec.tpm:
        tpm = ET.SubElement(devices, "tpm", model="tpm-tis")
        ET.SubElement(tpm, "backend", type="emulator", version="2.0")
    ET.SubElement(devices, "serial", type="pty")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="none")
    ET.SubElement(devices, "memballoon", model="none")
    return devices


def _add_port(devices: ET.Element, name: str) -> None:
    # Without a path libvirt picks one for each VM, and leaves it out of the XML that a restore starts from.
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name=name)
