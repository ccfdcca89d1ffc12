"""Which parts of a domain XML reach the host: its files, devices, programs or sockets. Pure.

Whoever can write to a repository can write such parts into a point's XML. libvirt carries most of them out as root
(https://libvirt.org/formatdomain.html): a log file of a serial port alone is enough to become root.
"""

import posixpath
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from kvm_backup.hypervisor import safe_xml

SafeFile = Callable[[str], bool]
"""Whether a file of this host may be shown to any guest: firmware or a kernel, say."""

RUNTIME_FOLDERS = ("/var/lib/libvirt/qemu/", "/run/libvirt/qemu/", "/var/run/libvirt/qemu/")
"""Where libvirt makes sockets for its VMs."""

_USUAL_EMULATOR = re.compile(r"/usr/(?:bin|libexec)/(?:qemu-system-[a-z0-9_]+|qemu-kvm|kvm)")
_ALWAYS = frozenset(("filesystem", "hostdev", "shmem", "pstore", "lease"))
_CHARACTER_DEVICES = frozenset(("serial", "parallel", "console", "channel", "redirdev"))
_INSIDE_QEMU = frozenset(("pty", "null", "vc", "spicevmc", "spiceport", "qemu-vdagent", "dbus"))
_RANDOM = frozenset(("/dev/urandom", "/dev/random"))


@dataclass(frozen=True, slots=True)
class HostPart:
    """One such part. With `attribute` only that is meant, not the whole element."""

    name: str
    parent: ET.Element
    element: ET.Element
    attribute: str | None = None

    def signature(self) -> str:
        """The same for parts that give a VM the same; where in the VM a device sits does not count."""
        copy = ET.fromstring(ET.tostring(self.element))  # noqa: S314 (written one line before)
        for child in (*copy.findall("address"), *copy.findall("alias"), *copy.findall("target")):
            copy.remove(child)
        copy.tail = None
        return f"{self.name} {_canonical(copy)}"


def host_parts(root: ET.Element, safe_file: SafeFile) -> list[HostPart]:
    """All such parts of a parsed domain but its disks, which each kind of restore treats in its own way."""
    parts = list(_foreign_namespaces(root))
    parts += _of_the_system(root, safe_file)
    for devices in root.findall("devices"):
        for device in devices:
            parts += _of_a_device(devices, device)
    return parts


def drop_host_parts(root: ET.Element, safe_file: SafeFile) -> tuple[str, ...]:
    """Take them out of `root` and return their names. A serial port or console stays, as a pseudo-terminal."""
    parts = host_parts(root, safe_file)
    for part in parts:
        if part.attribute is not None:
            part.element.attrib.pop(part.attribute, None)
        elif part.element.tag in ("serial", "console"):
            part.element.set("type", "pty")
            for child in part.element.findall("source") + part.element.findall("protocol"):
                part.element.remove(child)
        elif part.element in list(part.parent):
            part.parent.remove(part.element)
    for devices in root.findall("devices"):
        # libvirt picks this host's own.
        for emulator in devices.findall("emulator"):
            devices.remove(emulator)
    _drop_what_needs_them(root, {part.name for part in parts})
    return tuple(dict.fromkeys(part.name for part in parts))


def added_host_parts(
    xml: str, current: str, safe_file: SafeFile, *, restored_disks: Collection[str]
) -> tuple[str, ...]:
    """Names of what `xml` reaches of the host and `current`, the VM's own XML now, does not.

    `restored_disks` and drives for removable media get their source from elsewhere. Raises HypervisorError.
    """
    root, now = safe_xml.parse(xml, root="domain"), safe_xml.parse(current, root="domain")
    held = {part.signature() for part in host_parts(now, safe_file)}
    names = [part.name for part in host_parts(root, safe_file) if part.signature() not in held]
    sources = disk_sources(now)
    names += [
        f"disk {target}"
        for target, source in disk_sources(root).items()
        if target not in restored_disks and source is not None and source not in sources.values()
    ]
    return tuple(dict.fromkeys(names))


def disk_sources(root: ET.Element, *, drives: bool = False) -> dict[str, str | None]:
    """Each disk's source as comparable text by target, None for an empty one; or each removable medium's."""
    found: dict[str, str | None] = {}
    for disk in root.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and (disk.get("device") in ("cdrom", "floppy")) == drives:
            text = None
            if source is not None:
                stripped = ET.Element("source", {key: value for key, value in source.items() if key != "index"})
                stripped.extend(source)
                text = f"{disk.get('type')} {_canonical(stripped)}"
            found[target.get("dev", "")] = text
    return found


def _canonical(element: ET.Element) -> str:
    return ET.canonicalize(ET.tostring(element, encoding="unicode"), strip_text=True)


def _foreign_namespaces(root: ET.Element) -> Iterator[HostPart]:
    """qemu:commandline and the like; <metadata> is free for anyone and means nothing to libvirt."""
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        for child in parent:
            if child.tag.startswith("{"):
                space, _, tag = child.tag[1:].partition("}")
                yield HostPart(f"{'qemu:' if '/qemu/' in space else ''}{tag}", parent, child)
            elif child.tag != "metadata":
                waiting.append(child)


def _of_the_system(root: ET.Element, safe_file: SafeFile) -> Iterator[HostPart]:
    for label in root.findall("seclabel"):
        # Anything but libvirt's own choice can take QEMU out of its confinement.
        dynamic = label.get("type", "dynamic") == "dynamic"
        if not dynamic or label.get("relabel") == "no" or label.find("baselabel") is not None:
            yield HostPart("seclabel", root, label)
    for tag in ("bootloader", "bootloader_args"):
        for element in root.findall(tag):
            yield HostPart(tag, root, element)
    for sysinfo in root.findall("sysinfo"):
        for entry in sysinfo.findall("entry[@file]"):
            yield HostPart("sysinfo file", sysinfo, entry)
    for system in root.findall("os"):
        yield from _of_booting(system, safe_file)


def _of_booting(system: ET.Element, safe_file: SafeFile) -> Iterator[HostPart]:
    for tag in ("kernel", "initrd", "dtb", "shim", "loader"):
        for element in system.findall(tag):
            path = (element.text or "").strip()
            if path and not safe_file(path):
                yield HostPart(tag, system, element)
    for acpi in system.findall("acpi"):
        for table in acpi.findall("table"):
            if not safe_file((table.text or "").strip()):
                yield HostPart("acpi table", acpi, table)
    for nvram in system.findall("nvram"):
        template = nvram.get("template")
        if template is not None and not safe_file(template):
            yield HostPart("nvram template", system, nvram, "template")


def _of_a_device(devices: ET.Element, device: ET.Element) -> Iterator[HostPart]:
    # virtlogd writes what the guest says to that file, as root.
    for log in device.findall("log"):
        yield HostPart(f"{device.tag} log", device, log)
    if device.tag == "emulator":
        if not _USUAL_EMULATOR.fullmatch((device.text or "").strip()):
            yield HostPart("emulator", devices, device)
    elif device.tag == "interface":
        yield from _of_an_interface(devices, device)
    elif device.tag == "tpm":
        backend = device.find("backend")
        if backend is None or backend.get("type") != "emulator" or backend.find("source") is not None:
            yield HostPart("tpm", devices, device)
    elif device.tag in _ALWAYS or _reaches_the_host(device):
        yield HostPart(device.tag, devices, device)


def _of_an_interface(devices: ET.Element, interface: ET.Element) -> Iterator[HostPart]:
    if interface.get("type") in ("vhostuser", "vdpa", "hostdev"):
        yield HostPart("interface", devices, interface)
        return
    for tag in ("script", "downscript"):
        for element in interface.findall(tag):
            yield HostPart(f"interface {tag}", interface, element)
    for backend in interface.findall("backend"):
        for attribute in ("tap", "vhost", "logFile"):
            if attribute in backend.attrib:
                yield HostPart("interface backend", interface, backend, attribute)


def _reaches_the_host(device: ET.Element) -> bool:
    kind = device.get("type")
    if device.tag in _CHARACTER_DEVICES:
        return _is_foreign_character_device(device)
    if device.tag == "smartcard":
        return device.get("mode") != "passthrough" or kind != "spicevmc"
    if device.tag == "input":
        return kind in ("passthrough", "evdev")
    if device.tag == "audio":
        return kind in ("file", "oss")
    if device.tag == "memory":
        return device.find("source/path") is not None
    if device.tag == "rng":
        backends = device.findall("backend")
        return any(
            backend.get("model") != "builtin"
            and not (backend.get("model") == "random" and (backend.text or "/dev/urandom").strip() in _RANDOM)
            for backend in backends
        )
    return False


def _is_foreign_character_device(device: ET.Element) -> bool:
    kind = device.get("type", "pty")
    if kind == "unix":
        paths = [source.get("path") for source in device.findall("source")]
        return any(path and not posixpath.normpath(path).startswith(RUNTIME_FOLDERS) for path in paths)
    return kind not in _INSIDE_QEMU


def _drop_what_needs_them(root: ET.Element, dropped: set[str]) -> None:
    """libvirt refuses an initrd without a kernel, and UEFI variables without a loader."""
    for system in root.findall("os"):
        tags = ["initrd", "cmdline", "dtb", "shim"] if "kernel" in dropped else []
        for tag in (*tags, "nvram") if "loader" in dropped else tags:
            for element in system.findall(tag):
                system.remove(element)
