"""What a libvirt domain XML says about disks, NVRAM and TPM (https://libvirt.org/formatdomain.html). Pure."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.domain.errors import HypervisorError
from kvm_backup.domain.phrase import phrase
from kvm_backup.hypervisor import safe_xml

SWTPM_FOLDER = "/var/lib/libvirt/swtpm"
"""Where libvirt keeps the state of emulated TPMs: <folder>/<uuid>/tpm1.2 or tpm2."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a running disk's backing chain. `node` is libvirt's number in QEMU's block node names."""

    node: int | None
    path: str | None


@dataclass(frozen=True, slots=True)
class DomainDescription:
    """A parsed domain XML. Disks are in document order, without sizes, which only libvirt knows."""

    name: str
    uuid: str
    disks: tuple[Disk, ...]
    nvram: str | None
    tpm_state: str | None
    qemu_owner: tuple[int, int] | None
    """uid and gid of a running domain's QEMU process, where the XML tells (DAC label)."""


def describe(xml: str) -> DomainDescription:
    """Parse a domain XML as libvirt returns it. Raises HypervisorError when it is not one."""
    root = safe_xml.parse(xml, root="domain")
    name, uuid = root.findtext("name"), safe_xml.text_of(root, "uuid")
    if not name or not uuid:
        raise HypervisorError(
            phrase("the domain XML has no name or no UUID"),
            hint=phrase("This is not a description that libvirt wrote."),
        )
    return DomainDescription(
        name=name,
        uuid=uuid,
        disks=tuple(disk for element in root.iterfind("devices/disk") if (disk := _disk(element)) is not None),
        nvram=nvram_path(root),
        tpm_state=_tpm_state(root, uuid),
        qemu_owner=_dac_owner(root),
    )


def layers(xml: str) -> dict[str, tuple[Layer, ...]]:
    """Per target, the images from top to base that libvirt lists for a running domain's disks."""
    root = safe_xml.parse(xml, root="domain")
    chains: dict[str, tuple[Layer, ...]] = {}
    for element in root.iterfind("devices/disk"):
        target, chain = _target(element), list[Layer]()
        level: ET.Element | None = element
        while level is not None:
            source = level.find("source")
            if source is not None:
                # libvirt writes the number of the top layer on <source>, of the others on <backingStore>.
                index = source.get("index") or level.get("index")
                node = int(index) if index is not None and index.isdecimal() else None
                chain.append(Layer(node, source.get("file") or source.get("dev")))
            level = level.find("backingStore")
        if target is not None:
            chains[target] = tuple(chain)
    return chains


def nvram_path(root: ET.Element) -> str | None:
    """The UEFI variables' file: text of <nvram>, or its <source file=…> in newer libvirt."""
    source = root.find("os/nvram/source")
    return source.get("file") if source is not None else safe_xml.text_of(root, "os/nvram")


def _target(element: ET.Element) -> str | None:
    target = element.find("target")
    return target.get("dev") if target is not None else None


def _disk(element: ET.Element) -> Disk | None:
    target = _target(element)
    if target is None:
        return None
    driver = element.find("driver")
    kind, path = _source(element)
    return Disk(
        target=target,
        device=element.get("device", "disk"),
        kind=kind,
        path=path,
        # libvirt takes a disk without a declared format as raw: probing would trust the guest's data.
        format=(driver.get("type") if driver is not None else None) or "raw",
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        encrypted=element.find("encryption") is not None or element.find("source/encryption") is not None,
    )


def _source(element: ET.Element) -> tuple[SourceKind, str | None]:
    source, kind = element.find("source"), element.get("type", "file")
    if kind == "file":
        path = source.get("file") if source is not None else None
        return (SourceKind.FILE, path) if path else (SourceKind.EMPTY, None)
    if kind == "block":
        path = source.get("dev") if source is not None else None
        return (SourceKind.BLOCK, path) if path else (SourceKind.EMPTY, None)
    return (SourceKind.OTHER if source is not None else SourceKind.EMPTY), None


def _tpm_state(root: ET.Element, uuid: str) -> str | None:
    backend = root.find("devices/tpm/backend[@type='emulator']")
    if backend is None:
        return None
    return f"{SWTPM_FOLDER}/{uuid}/{'tpm1.2' if backend.get('version') == '1.2' else 'tpm2'}"


def _dac_owner(root: ET.Element) -> tuple[int, int] | None:
    label = safe_xml.text_of(root, "seclabel[@model='dac']/label")
    return parse_dac_label(label) if label is not None else None


def parse_dac_label(label: str) -> tuple[int, int] | None:
    """uid and gid of a label like `+64055:+64055`, None when it holds names."""
    user, _, group = label.partition(":")
    if user.startswith("+") and group.startswith("+") and user[1:].isdecimal() and group[1:].isdecimal():
        return int(user[1:]), int(group[1:])
    return None
