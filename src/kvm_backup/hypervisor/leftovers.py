"""What a run that died may have left on the host: found first, removed apart from that.

Both need the VM's lock held by the caller: a run that lives has a job and a socket too. Each VM has one run folder
and one scratch folder, named after its UUID below the given roots (vm_folder), since runs on a VM never overlap.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import backup_job, bitmaps, checkpoints, guest_agent, nbd_servers, run_folder
from kvm_backup.hypervisor.connection import Hypervisor


class LeftoverKind(StrEnum):
    """In the order in which they are removed."""

    FROZEN = "frozen-guest"
    JOB = "backup-job"
    EXPORT = "qemu-nbd"
    CHECKPOINT = "checkpoint"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing to remove. `vm` is a UUID; `name` a socket path, process id, checkpoint name or file path."""

    kind: LeftoverKind
    vm: str
    name: str
    detail: str


def vm_folder(root: Path, uuid: str) -> Path:
    """The folder of one VM below a root for runs or for scratch files."""
    return root / uuid


def find_leftovers(
    hypervisor: Hypervisor, vm: Vm, *, run_root: Path, scratch_root: Path, unwanted: Callable[[str], bool]
) -> list[Leftover]:
    """What is left of dead runs on one VM, in the order of removal.

    `unwanted` tells from a checkpoint's name whether it is ours and no restore point needs it; bitmaps whose
    checkpoint libvirt has lost are judged by the same rule. The guest is asked whether it is frozen only when its
    agent is connected.
    """
    found = list[Leftover]()
    if guest_agent.frozen(hypervisor, vm.uuid):
        found.append(Leftover(LeftoverKind.FROZEN, vm.uuid, vm.name, phrase("the guest's file systems are frozen")))
    folder = vm_folder(run_root, vm.uuid)
    socket = backup_job.leftover_job(hypervisor, vm.uuid, run_root)
    if socket is not None:
        found.append(Leftover(LeftoverKind.JOB, vm.uuid, str(socket), phrase("a backup job that nobody reads")))
    found += _exports_and_files(vm.uuid, folder, vm_folder(scratch_root, vm.uuid))
    for name, detail in unneeded_checkpoints(hypervisor, vm, unwanted).items():
        found.append(Leftover(LeftoverKind.CHECKPOINT, vm.uuid, name, detail))
    order = list(LeftoverKind)
    return sorted(found, key=lambda one: order.index(one.kind))


def find_of_unknown_vms(hypervisor: Hypervisor, *, run_root: Path, scratch_root: Path) -> list[Leftover]:
    """Exports and files of VMs that libvirt does not know any more."""
    known = {vm.uuid for vm in hypervisor.list_vms()}
    names = set[str]()
    for root in (run_root, scratch_root):
        with suppress(OSError):
            names |= {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.is_symlink()}
    found = list[Leftover]()
    for uuid in sorted(names - known):
        found += _exports_and_files(uuid, vm_folder(run_root, uuid), vm_folder(scratch_root, uuid))
    return found


def remove(hypervisor: Hypervisor, leftover: Leftover) -> None:
    """Remove one leftover; one that is gone already is no error. Raises HypervisorError when it stays."""
    match leftover.kind:
        case LeftoverKind.FROZEN:
            guest_agent.thaw(hypervisor, leftover.vm)
        case LeftoverKind.JOB:
            backup_job.end_job(hypervisor, leftover.vm, Path(leftover.name))
        case LeftoverKind.EXPORT:
            nbd_servers.stop(int(leftover.name), Path(leftover.detail).parent)
        case LeftoverKind.CHECKPOINT:
            checkpoints.delete_checkpoint(hypervisor, leftover.vm, leftover.name)
        case LeftoverKind.FILE:
            path = Path(leftover.name)
            with suppress(OSError):
                path.unlink()
            with suppress(OSError):
                path.parent.rmdir()


def unneeded_checkpoints(hypervisor: Hypervisor, vm: Vm, unwanted: Callable[[str], bool]) -> dict[str, str]:
    """Names and details of checkpoints, and of bitmaps whose checkpoint libvirt has lost, that are `unwanted`."""
    names: dict[str, str] = {
        one.name: phrase("made {time} UTC, no restore point needs it", time=f"{one.created:%Y-%m-%d %H:%M:%S}")
        for one in checkpoints.list_checkpoints(hypervisor, vm.uuid)
        if unwanted(one.name)
    }
    with suppress(KvmBackupError):
        for target, states in bitmaps.bitmaps(hypervisor, vm).items():
            for name in states:
                if unwanted(name):
                    names.setdefault(name, phrase("a bitmap of disk {target} without a checkpoint", target=target))
    return names


def _exports_and_files(uuid: str, folder: Path, scratch_folder: Path) -> list[Leftover]:
    exports = [
        Leftover(LeftoverKind.EXPORT, uuid, str(pid), str(run_folder.socket_path(folder)))
        for pid in nbd_servers.find(folder)
    ]
    folders = dict.fromkeys((folder, scratch_folder))
    files = [
        Leftover(LeftoverKind.FILE, uuid, str(path), phrase("a socket or scratch file of a run that ended"))
        for one in folders
        for path in run_folder.remains(one)
    ]
    return exports + files
