"""The XML that starts a pull backup job, and that describes checkpoints. Pure.

Formats: https://libvirt.org/formatbackup.html and https://libvirt.org/formatcheckpoint.html
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kvm_backup.hypervisor import safe_xml


@dataclass(frozen=True, slots=True)
class JobDisk:
    """How one disk takes part in a job. `scratch` is the file QEMU keeps overwritten blocks in."""

    target: str
    incremental: bool
    scratch: Path


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A backup job as libvirt reports it. `socket` is None for a push job or one that listens on TCP."""

    server: str
    """Who serves it, in words: a socket path, host:port, or `push mode`."""
    socket: str | None
    incremental: str | None
    exports: Mapping[str, tuple[str, str | None]]
    """Per target: export name, and the name of the dirty bitmap exported with it."""


def backup(all_targets: Iterable[str], disks: Iterable[JobDisk], *, socket: Path, base: str | None) -> str:
    """<domainbackup> in pull mode on a unix socket. Targets that are no JobDisk are left out of the job.

    A disk that is read whole in a job that has a base needs `backupmode='full'`; it cannot be told per disk
    otherwise (tried with libvirt 9.0).
    """
    root = ET.Element("domainbackup", mode="pull")
    if base is not None:
        ET.SubElement(root, "incremental").text = base
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    listed = ET.SubElement(root, "disks")
    by_target = {disk.target: disk for disk in disks}
    for target in all_targets:
        disk = by_target.get(target)
        if disk is None:
            ET.SubElement(listed, "disk", name=target, backup="no")
            continue
        element = ET.SubElement(listed, "disk", name=target, backup="yes", type="file")
        if base is not None and disk.incremental:
            element.set("backupmode", "incremental")
            element.set("incremental", base)
        else:
            element.set("backupmode", "full")
        ET.SubElement(element, "scratch", file=str(disk.scratch))
    return safe_xml.to_text(root)


def checkpoint(
    name: str,
    all_targets: Iterable[str],
    with_bitmap: Iterable[str],
    *,
    created: datetime | None = None,
    parent: str | None = None,
) -> str:
    """<domaincheckpoint>; the bitmap has the checkpoint's name. `created` and `parent` are for a redefinition."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    if created is not None:
        ET.SubElement(root, "creationTime").text = str(int(created.timestamp()))
    if parent is not None:
        ET.SubElement(ET.SubElement(root, "parent"), "name").text = parent
    listed, chosen = ET.SubElement(root, "disks"), frozenset(with_bitmap)
    for target in all_targets:
        element = ET.SubElement(listed, "disk", name=target)
        if target in chosen:
            element.set("checkpoint", "bitmap")
            element.set("bitmap", name)
        else:
            element.set("checkpoint", "no")
    return safe_xml.to_text(root)


def parse_backup(xml: str) -> RunningJob:
    """Parse what virDomainBackupGetXMLDesc returns."""
    root = safe_xml.parse(xml, root="domainbackup")
    server = root.find("server")
    socket = server.get("socket") if server is not None and server.get("transport") == "unix" else None
    if socket is not None:
        words = f"socket {socket}"
    elif server is not None:
        words = f"{server.get('name', 'localhost')}:{server.get('port', '?')}"
    else:
        words = "push mode"
    exports: dict[str, tuple[str, str | None]] = {}
    for disk in root.iterfind("disks/disk[@backup='yes']"):
        target = disk.get("name", "")
        exports[target] = (disk.get("exportname", target), disk.get("exportbitmap"))
    return RunningJob(words, socket, safe_xml.text_of(root, "incremental"), exports)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A libvirt checkpoint. `disks` maps each target it covers to the name of its bitmap."""

    name: str
    parent: str | None
    created: datetime
    disks: Mapping[str, str]


def parse_checkpoint(xml: str) -> Checkpoint:
    """Parse what virDomainCheckpointGetXMLDesc returns."""
    root = safe_xml.parse(xml, root="domaincheckpoint")
    name = safe_xml.text_of(root, "name") or ""
    return Checkpoint(
        name=name,
        parent=safe_xml.text_of(root, "parent/name"),
        created=datetime.fromtimestamp(int(safe_xml.text_of(root, "creationTime") or 0), UTC),
        disks={
            disk.get("name", ""): disk.get("bitmap", name)
            for disk in root.iterfind("disks/disk")
            if disk.get("checkpoint", "bitmap") == "bitmap"
        },
    )
