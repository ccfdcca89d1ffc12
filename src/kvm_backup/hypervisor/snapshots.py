"""External, disk-only libvirt snapshots: the state is frozen in the old image, writes go to an overlay.

Tried with libvirt 9.0 and QEMU 7.2: libvirt deletes such a snapshot (oldest, middle or newest, VM running or off) by
merging its overlay into the frozen image; for a VM that is off it starts a paused QEMU by itself, which takes
some seconds under emulation, and which we must do for it when several were made while the VM was off. Bitmaps
follow: on creation every checkpoint's bitmap gets a new, empty part in the overlay, on deletion the parts are
merged, so incrementals before and after hold exactly the blocks written.
libvirt refuses to create one for a VM that is off and has checkpoints; `create_snapshot` says how that is done.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libvirt

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import (
    BadArgumentError,
    HypervisorError,
    KvmBackupError,
    TargetExistsError,
    UnsupportedDiskError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import bitmaps, domain_xml, image, safe_xml
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.libvirt_errors import our_error, translated


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """One disk of a snapshot. `frozen` holds the state (None when libvirt did not keep its path); do not write it."""

    target: str
    overlay: str
    frozen: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An external snapshot that libvirt lists. `disks` are those it covers."""

    name: str
    parent: str | None
    description: str
    created: datetime
    disks: tuple[SnapshotDisk, ...]


def create_snapshot(
    hypervisor: Hypervisor, vm: Vm, name: str, overlays: Mapping[str, Path], *, description: str = ""
) -> Snapshot:
    """Take a snapshot of all disks in `overlays` (target to the new overlay's path) at one instant.

    Freeze and thaw around this call (guest_agent). For a VM that is off and has checkpoints, their records are
    set aside for the call and the overlays get the bitmaps that libvirt would add to a running VM; dying in between
    loses the records, so that the next backup is a full one. Raises UnsupportedDiskError, TargetExistsError,
    HypervisorError; a snapshot that fails leaves no overlay.
    """
    if not overlays:
        raise BadArgumentError(
            phrase("VM {vm}: a snapshot needs at least one disk", vm=vm.name),
            hint=phrase("Include a disk."),
            vm=vm.name,
        )
    for target, overlay in overlays.items():
        _check_disk(vm, target)
        if overlay.exists() or overlay.is_symlink():
            raise TargetExistsError(
                phrase("VM {vm}: {overlay} exists already", vm=vm.name, overlay=overlay),
                hint=phrase("Choose another snapshot name."),
                vm=vm.name,
            )
    xml = _snapshot_xml(name, description, [disk.target for disk in vm.disks], overlays)
    if vm.has_qemu:
        _create(hypervisor, vm, xml)
    else:
        _create_beside_checkpoints(hypervisor, vm, xml, overlays)
    return next(one for one in list_snapshots(hypervisor, vm.uuid) if one.name == name)


def list_snapshots(hypervisor: Hypervisor, vm: str) -> list[Snapshot]:
    """The VM's external disk-only snapshots, oldest first; internal ones and those with memory are not listed."""
    domain = hypervisor.domain(vm)
    with translated(vm):
        texts = [
            str(one.getXMLDesc(0)) for one in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
        ]
    return [snapshot for text in texts if (snapshot := parse_snapshot(text)) is not None]


def delete_snapshot(hypervisor: Hypervisor, vm: str, name: str) -> None:
    """Delete a snapshot by merging its overlays into the images below; returns when that is done.

    The VM may run or be off. Raises HypervisorError with libvirt's reason when it cannot (then nothing is lost).
    """
    domain = hypervisor.domain(vm)
    try:
        snapshot = domain.snapshotLookupByName(name)
        try:
            snapshot.delete(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG or domain.isActive():
                raise
            _delete_in_paused_vm(domain, snapshot)
    except libvirt.libvirtError as error:
        mapped = our_error(error, vm)
        unsupported = (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
        if error.get_error_code() in unsupported:
            mapped.hint = (
                "libvirt deletes external snapshots from version 9.0 on. Until then merge by hand: "
                f"virsh blockcommit --active --pivot --wait, then virsh snapshot-delete --metadata {name}"
            )
        raise mapped from error


def _delete_in_paused_vm(domain: Any, snapshot: Any) -> None:
    """Merge one of several snapshots that were made while the VM was off, as it still is.

    libvirt 9.0 then looks for the disk in a chain that it has not read yet; with a QEMU that stands still it has.
    The VM goes with our connection, so that none stays behind when we die.
    """
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
    try:
        snapshot.delete(0)
    finally:
        domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)


def forget_snapshots(hypervisor: Hypervisor, vm: str) -> None:
    """Drop libvirt's records of all snapshots of a VM that is off and whose disks are being replaced; files stay."""
    domain = hypervisor.domain(vm)
    with translated(vm):
        for snapshot in reversed(domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)):
            snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def parse_snapshot(xml: str) -> Snapshot | None:
    """Parse what virDomainSnapshotGetXMLDesc returns; None when it is not an external disk-only snapshot."""
    root = safe_xml.parse(xml, root="domainsnapshot")
    if safe_xml.text_of(root, "state") not in ("disk-snapshot", "shutoff"):
        return None
    frozen = {
        disk.target: disk.path
        for inner in root.iterfind("domain")
        for disk in domain_xml.describe(ET.tostring(inner, encoding="unicode")).disks
    }
    disks = []
    for disk in root.iterfind("disks/disk[@snapshot='external']"):
        source, target = disk.find("source"), disk.get("name", "")
        overlay = source.get("file") or source.get("dev") if source is not None else None
        if overlay is not None:
            disks.append(SnapshotDisk(target, overlay, frozen.get(target)))
    if not disks:
        return None
    return Snapshot(
        name=safe_xml.text_of(root, "name") or "",
        parent=safe_xml.text_of(root, "parent/name"),
        description=safe_xml.text_of(root, "description") or "",
        created=datetime.fromtimestamp(int(safe_xml.text_of(root, "creationTime") or 0), UTC),
        disks=tuple(disks),
    )


def _snapshot_xml(name: str, description: str, all_targets: list[str], overlays: Mapping[str, Path]) -> str:
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    if description:
        ET.SubElement(root, "description").text = description
    listed = ET.SubElement(root, "disks")
    for target in all_targets:
        overlay = overlays.get(target)
        element = ET.SubElement(listed, "disk", name=target, snapshot="no" if overlay is None else "external")
        if overlay is not None:
            element.set("type", "file")
            ET.SubElement(element, "driver", type="qcow2")
            ET.SubElement(element, "source", file=str(overlay))
    return safe_xml.to_text(root)


def _check_disk(vm: Vm, target: str) -> None:
    disk = vm.disk(target)
    if disk.kind not in (SourceKind.FILE, SourceKind.BLOCK) or disk.format not in ("qcow2", "raw"):
        raise UnsupportedDiskError(
            phrase(
                "VM {vm}: disk {target} ({kind}, {format}) cannot have an external snapshot here",
                vm=vm.name,
                target=target,
                kind=disk.kind,
                format=disk.format,
            ),
            hint=phrase(
                "Only qcow2 and raw files and block devices can; exclude the disk, or take a backup instead."
            ),
            vm=vm.name,
        )
    if disk.read_only or disk.shareable:
        raise UnsupportedDiskError(
            phrase("VM {vm}: disk {target} is read-only", vm=vm.name, target=target)
            if disk.read_only
            else phrase("VM {vm}: disk {target} is shared with other VMs", vm=vm.name, target=target),
            hint=phrase("Exclude the disk from the snapshot."),
            vm=vm.name,
        )


def _create(hypervisor: Hypervisor, vm: Vm, xml: str) -> None:
    domain = hypervisor.domain(vm.uuid)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    with translated(vm.name):
        domain.snapshotCreateXML(xml, flags)


def _create_beside_checkpoints(hypervisor: Hypervisor, vm: Vm, xml: str, overlays: Mapping[str, Path]) -> None:
    domain = hypervisor.domain(vm.uuid)
    before = bitmaps.bitmaps(hypervisor, vm)
    with translated(vm.name):
        records = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
        kept = [str(record.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE)) for record in records]
        for record in reversed(records):
            record.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    try:
        _create(hypervisor, vm, xml)
    except BaseException:
        _redefine(hypervisor, vm, kept)
        raise
    try:
        for target, overlay in overlays.items():
            for state in before.get(target, {}).values():
                if state.fault is None:
                    image.add_bitmap(str(overlay), state.name)
    except KvmBackupError:
        # The VM was started, or the disk is full: without their bitmaps the checkpoints would be a lie.
        return
    _redefine(hypervisor, vm, kept)


def _redefine(hypervisor: Hypervisor, vm: Vm, checkpoints: list[str]) -> None:
    domain = hypervisor.domain(vm.uuid)
    for xml in checkpoints:
        with suppress(libvirt.libvirtError, HypervisorError):
            domain.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
