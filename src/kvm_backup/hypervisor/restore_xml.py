"""Rewriting a saved domain XML for a restore: as a new VM, or in place with new disk files. Pure."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase
from kvm_backup.hypervisor import safe_xml
from kvm_backup.hypervisor.host_parts import RUNTIME_FOLDERS, SafeFile, disk_sources, drop_host_parts

MAX_NAME_BYTES = 200
"""libvirt makes file names out of VM names (<name>.xml, <name>.log); file names have at most 255 bytes."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_vm_name(name: str) -> None:
    """Raises BadArgumentError for a name that libvirt refuses or that no one could type or see."""
    problem = None
    if not name.strip():
        problem = "is empty"
    elif name != name.strip():
        problem = "begins or ends with white space"
    elif "/" in name:
        problem = "holds a slash"
    elif _CONTROL.search(name):
        problem = "holds a control character"
    elif len(name.encode()) > MAX_NAME_BYTES:
        problem = f"is longer than {MAX_NAME_BYTES} bytes"
    elif name in (".", ".."):
        problem = "is a folder's name"
    if problem is not None:
        raise BadArgumentError(
            phrase("the VM name {name!r} {problem}", name=name, problem=problem),
            hint=phrase("Choose a name of letters, digits, spaces and - . _"),
        )


def new_macs(random_bytes: Callable[[int], bytes]) -> Callable[[], str]:
    """A source of MAC addresses with QEMU's prefix 52:54:00, never the same twice; e.g. new_macs(os.urandom)."""
    given: set[str] = set()

    def next_mac() -> str:
        for _ in range(1000):
            mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in random_bytes(3))
            if mac not in given:
                given.add(mac)
                return mac
        raise BadArgumentError(phrase("the source of random bytes repeats itself"), hint=phrase("Use the system's."))

    return next_mac


def as_new_vm(
    xml: str,
    *,
    name: str,
    uuid: str,
    new_mac: Callable[[], str],
    disk_paths: Mapping[str, tuple[str, str]],
    nvram: str | None,
    safe_file: SafeFile,
) -> tuple[str, tuple[str, ...]]:
    """The XML of a copy that can run beside the original, and the names of what it reached of the host.

    None of the latter is in the copy (host_parts.py): the point may have been changed by whoever can write to the
    repository. `safe_file` tells which kernels and firmware stay.

    `disk_paths` maps target to (path, image format); other disks are dropped, CD-ROM and floppy drives emptied.
    `nvram` is the copy's file of UEFI variables; with None libvirt makes a fresh one from its template. What
    would make the two VMs collide is replaced: UUIDs (also in sysinfo), MAC addresses, generation id, fixed
    graphics ports, vsock addresses, host device names and sockets. Raises BadArgumentError (name), HypervisorError
    (not a domain XML).
    """
    check_vm_name(name)
    root = safe_xml.parse(xml, root="domain")
    old_uuid = safe_xml.text_of(root, "uuid")
    root.attrib.pop("id", None)
    _set_text(root, "name", name)
    _set_text(root, "uuid", uuid)
    for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
        if (entry.text or "").strip() == old_uuid:
            entry.text = uuid
    for generation in root.iterfind("genid"):
        generation.text = None
    for label in [one for one in root.iterfind("seclabel") if one.get("type", "dynamic") == "dynamic"]:
        for child in ("label", "imagelabel"):
            _drop(label, child)
    _replace_nvram(root, nvram)
    dropped = drop_host_parts(root, safe_file)
    devices = root.find("devices")
    if devices is not None:
        _replace_disks(devices, disk_paths)
        for interface in devices.iterfind("interface"):
            _renew_interface(interface, new_mac())
        _drop_host_side(devices)
    return safe_xml.to_text(root), dropped


def in_place_of_known_vm(
    xml: str, current: str, disk_paths: Mapping[str, tuple[str, str]], *, nvram: str | None = None
) -> str:
    """The same VM with the named disks on other files; all else stays, also disks that are not named.

    A medium that is not in one of the drives in `current`, the VM's XML now, is taken out.
    """
    root = safe_xml.parse(xml, root="domain")
    root.attrib.pop("id", None)
    media = disk_sources(safe_xml.parse(current, root="domain"), drives=True).values()
    inserted = disk_sources(root, drives=True)
    for disk in root.iterfind("devices/disk"):
        target = _target(disk)
        if target in disk_paths:
            _put_on_file(disk, *disk_paths[target])
        elif target in inserted and inserted[target] not in media:
            _empty(disk)
    if nvram is not None:
        _replace_nvram(root, nvram)
    return safe_xml.to_text(root)


def in_place_of_unknown_vm(
    xml: str, disk_paths: Mapping[str, tuple[str, str]], *, nvram: str | None, safe_file: SafeFile
) -> tuple[str, tuple[str, ...]]:
    """The VM as it was but for what it reached of the host, disks that are not named included.

    Returns the XML and the names of what is left out.
    """
    root = safe_xml.parse(xml, root="domain")
    root.attrib.pop("id", None)
    removed: list[str] = []
    for devices in root.findall("devices"):
        removed += _replace_disks(devices, disk_paths)
    _replace_nvram(root, nvram)
    dropped = drop_host_parts(root, safe_file)
    return safe_xml.to_text(root), (*dropped, *(f"disk {target}" for target in removed))


def _replace_disks(devices: ET.Element, disk_paths: Mapping[str, tuple[str, str]]) -> list[str]:
    """Returns the targets of the disks that were removed."""
    removed = []
    for disk in devices.findall("disk"):
        target = _target(disk)
        if target in disk_paths:
            _put_on_file(disk, *disk_paths[target])
        elif disk.get("device") in ("cdrom", "floppy"):
            _empty(disk)
        else:
            devices.remove(disk)
            removed.append(target)
    return removed


def _empty(drive: ET.Element) -> None:
    drive.set("type", "file")
    _drop(drive, "source", "backingStore", "mirror", "auth", "encryption")


def _put_on_file(disk: ET.Element, path: str, image_format: str) -> None:
    # What was read through QEMU is decrypted and in one layer: encryption and credentials go with the old source.
    disk.set("type", "file")
    _drop(disk, "backingStore", "mirror", "auth", "encryption")
    driver = disk.find("driver")
    if driver is None:
        driver = ET.Element("driver", name="qemu")
        disk.insert(0, driver)
    driver.set("type", image_format)
    old = disk.find("source")
    position = list(disk).index(driver) + 1 if old is None else list(disk).index(old)
    _drop(disk, "source")
    disk.insert(position, ET.Element("source", file=path))


def _renew_interface(interface: ET.Element, mac: str) -> None:
    element = interface.find("mac")
    if element is None:
        element = ET.Element("mac")
        interface.insert(0, element)
    element.attrib.clear()
    element.set("address", mac)
    # The host's tap device and the switch port belong to the original.
    _drop(interface, "target")
    source = interface.find("source")
    if source is not None:
        source.attrib.pop("portid", None)
    for parameters in interface.iterfind("virtualport/parameters"):
        for attribute in ("interfaceid", "instanceid"):
            parameters.attrib.pop(attribute, None)


def _drop_host_side(devices: ET.Element) -> None:
    for device in devices:
        for alias in device.findall("alias"):
            if not alias.get("name", "").startswith("ua-"):
                device.remove(alias)
        if device.tag in ("serial", "console", "channel", "parallel"):
            device.attrib.pop("tty", None)
            for source in device.findall("source"):
                path = source.get("path", "")
                if device.get("type") == "pty" or path.startswith(RUNTIME_FOLDERS):
                    device.remove(source)
        elif device.tag == "graphics":
            _free_graphics(device)
        elif device.tag == "vsock":
            _drop(device, "cid")
            ET.SubElement(device, "cid", auto="yes")


def _free_graphics(device: ET.Element) -> None:
    for attribute in ("port", "tlsPort", "websocket"):
        if device.attrib.pop(attribute, None) is not None:
            device.set("autoport", "yes")
    for holder in (device, *device.findall("listen")):
        if holder.get("socket", "").startswith(RUNTIME_FOLDERS):
            holder.attrib.pop("socket")


def _replace_nvram(root: ET.Element, path: str | None) -> None:
    system = root.find("os")
    nvram = system.find("nvram") if system is not None else None
    if system is None or (nvram is None and path is None):
        return
    if nvram is None:
        nvram = ET.SubElement(system, "nvram")
    _drop(nvram, "source")
    nvram.attrib.pop("type", None)
    nvram.text = path
    if path is None and not nvram.attrib:
        system.remove(nvram)


def _target(disk: ET.Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _set_text(root: ET.Element, tag: str, text: str) -> None:
    element = root.find(tag)
    if element is None:
        element = ET.Element(tag)
        root.insert(0, element)
    element.text = text


def _drop(parent: ET.Element, *tags: str) -> None:
    for tag in tags:
        for child in parent.findall(tag):
            parent.remove(child)
