"""libvirt's checkpoints and the bitmaps behind them, for running and stopped VMs.

Tried with libvirt 9.0 and QEMU 7.2: every checkpoint's bitmap records on its own from its creation on, so deleting
any of them, older or newer, leaves the others complete. libvirt deletes checkpoints of running VMs only (from every
layer of the chain), fails when a bitmap is missing, and lists a checkpoint whose bitmap is gone as if nothing were
wrong. It accepts the redefinition of a checkpoint for a stopped VM whose bitmaps were added with qemu-img.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import libvirt

from kvm_backup.domain.errors import (
    HypervisorError,
    KvmBackupError,
    ToolFailedError,
    UnsupportedDiskError,
    VmRunningError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import backup_xml, bitmaps, image
from kvm_backup.hypervisor.backup_xml import Checkpoint
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.libvirt_errors import our_error, translated

__all__ = ["Checkpoint", "create_offline_checkpoint", "delete_checkpoint", "list_checkpoints"]


def list_checkpoints(hypervisor: Hypervisor, vm: str) -> list[Checkpoint]:
    """All checkpoints that libvirt lists for the VM, oldest first (parents before their children)."""
    domain = hypervisor.domain(vm)
    with translated(vm):
        return [
            backup_xml.parse_checkpoint(str(one.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)))
            for one in domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
        ]


def create_offline_checkpoint(
    hypervisor: Hypervisor, vm: Vm, name: str, targets: Sequence[str], created: datetime
) -> Checkpoint:
    """Make a checkpoint of a stopped VM: a bitmap in the top layer of each target, then libvirt's record of it.

    All or nothing: what was added is removed when a later step fails, for instance because the VM was started.
    Raises VmRunningError, UnsupportedDiskError (a target that is no qcow2 file), ToolFailedError, HypervisorError.
    """
    if hypervisor.state(vm.uuid) is not vm.state or vm.has_qemu:
        raise VmRunningError(
            phrase("VM {vm} runs, so its images cannot be changed from outside", vm=vm.name),
            hint=phrase("A running VM gets its checkpoint together with the backup job."),
            vm=vm.name,
        )
    paths = [_bitmap_path(vm, target) for target in targets]
    existing = list_checkpoints(hypervisor, vm.uuid)
    xml = backup_xml.checkpoint(
        name,
        [disk.target for disk in vm.disks],
        targets,
        created=created,
        parent=existing[-1].name if existing else None,
    )
    added: list[str] = []
    try:
        for path in paths:
            image.add_bitmap(path, name)
            added.append(path)
        domain = hypervisor.domain(vm.uuid)
        with translated(vm.name):
            made = domain.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
            return backup_xml.parse_checkpoint(str(made.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)))
    except BaseException:
        for path in added:
            with suppress(KvmBackupError):
                image.remove_bitmap(path, name)
        raise


def delete_checkpoint(hypervisor: Hypervisor, vm: str, name: str) -> None:
    """Delete a checkpoint and every bitmap of its name, whatever state they are in; nothing there is no error.

    Works for running and stopped VMs, for bitmaps that are missing or broken, and for bitmaps whose checkpoint
    libvirt has lost. Raises VmNotFoundError, and HypervisorError when a bitmap of the top layer stays behind.
    """
    seen = hypervisor.vm(vm)
    record = _record(hypervisor, seen, name)
    if seen.has_qemu:
        if record is not None:
            with suppress(libvirt.libvirtError):
                record.delete(0)
                record = None
        _remove_from_qemu(hypervisor, seen, name)
    else:
        _remove_from_files(seen, name)
    if record is not None:
        _forget(record, seen)


def forget_checkpoints(hypervisor: Hypervisor, vm: str) -> None:
    """Drop libvirt's records of all checkpoints of a VM that is off and whose disks are being replaced."""
    seen = hypervisor.vm(vm)
    for checkpoint in reversed(list_checkpoints(hypervisor, vm)):
        record = _record(hypervisor, seen, checkpoint.name)
        if record is not None:
            _forget(record, seen)


def _remove_from_qemu(hypervisor: Hypervisor, vm: Vm, name: str) -> None:
    for node in bitmaps.nodes_with_bitmap(hypervisor, vm, name):
        # A lower layer is open read-only; a bitmap that stays there is harmless without its part in the top layer.
        with suppress(HypervisorError):
            bitmaps.remove_from_node(hypervisor, vm, node, name)
    left = [
        target
        for target, states in bitmaps.bitmaps(hypervisor, vm).items()
        if name in states and 0 in states[name].layers
    ]
    if left:
        raise HypervisorError(
            phrase("VM {vm}: bitmap {name} of {left} cannot be removed", vm=vm.name, name=name, left=", ".join(left)),
            hint=phrase("A job may use it. When no backup runs, try again; else shut the VM down and try then."),
            vm=vm.name,
        )


def _remove_from_files(vm: Vm, name: str) -> None:
    for disk in vm.disks:
        if disk.path is None or not disk.can_have_bitmap:
            continue
        # A disk that cannot be read holds no bitmap that could be used: it must not keep the others from going.
        layers: tuple[image.Image, ...] = ()
        with suppress(ToolFailedError, UnsupportedDiskError):
            layers = image.chain(disk)
        for layer in layers:
            if any(bitmap.name == name for bitmap in layer.bitmaps):
                image.remove_bitmap(layer.path, name)


def _record(hypervisor: Hypervisor, vm: Vm, name: str) -> Any | None:
    domain = hypervisor.domain(vm.uuid)
    try:
        return domain.checkpointLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            return None
        raise our_error(error, vm.name) from error


def _forget(record: Any, vm: Vm) -> None:
    try:
        record.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            raise our_error(error, vm.name) from error


def _bitmap_path(vm: Vm, target: str) -> str:
    disk = vm.disk(target)
    if disk.path is None or not disk.can_have_bitmap:
        raise UnsupportedDiskError(
            phrase(
                "VM {vm}: disk {target} ({format}) cannot hold a bitmap",
                vm=vm.name,
                target=target,
                format=disk.format,
            ),
            hint=phrase("Only qcow2 images can; other disks are saved whole each time."),
            vm=vm.name,
        )
    return disk.path
