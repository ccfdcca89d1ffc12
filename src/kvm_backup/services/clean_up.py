"""What dead runs left of a VM is removed before a new run begins. The caller holds the VM's lock."""

from collections.abc import Callable

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.names import is_checkpoint_of
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.leftovers import Leftover, find_leftovers, remove
from kvm_backup.repository.exchange import recover
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services.folders import Folders
from kvm_backup.services.plan import newest_point
from kvm_backup.services.snapshot import merge_unpublished_snapshots


def unwanted_checkpoint(repository_id: str, wanted: str | None) -> Callable[[str], bool]:
    """Tells of a checkpoint's name whether it was made for that repository and is not the one it needs."""
    return lambda name: name != wanted and is_checkpoint_of(name, repository_id)


def leftovers_of(hypervisor: Hypervisor, repository: LocalRepository, folders: Folders, vm: Vm) -> list[Leftover]:
    """What dead runs left of one VM on the host.

    When the newest point cannot be read, no checkpoint is called unwanted: the point may be repaired.
    """
    newest = newest_point(repository, vm.uuid)
    if isinstance(newest, DamagedPoint):
        unwanted: Callable[[str], bool] = _none
    else:
        unwanted = unwanted_checkpoint(repository.id, newest.checkpoint if isinstance(newest, Manifest) else None)
    return find_leftovers(hypervisor, vm, run_root=folders.runtime, scratch_root=folders.scratch, unwanted=unwanted)


def clean_up_after_dead_runs(
    hypervisor: Hypervisor,
    repository: LocalRepository,
    folders: Folders,
    vm: Vm,
    *,
    notice: Callable[[str], None],
) -> None:
    """Remove leftovers of one VM. What cannot be removed is told and left for the next run."""
    folder = repository.folder_of(vm.uuid)
    if folder is not None:
        # First, since what is the newest point, and so which checkpoint is wanted, may depend on it.
        for stamp in recover(folder):
            notice(phrase("put back the point {stamp}, whose consolidation was interrupted", stamp=stamp))
    for leftover in leftovers_of(hypervisor, repository, folders, vm):
        try:
            remove(hypervisor, leftover)
        except KvmBackupError as error:
            notice(
                phrase(
                    "left behind by an earlier run, and still there: {detail} ({cause})",
                    detail=leftover.detail,
                    cause=error.message,
                )
            )
        else:
            notice(phrase("removed what an earlier run left behind: {detail}", detail=leftover.detail))
    merge_unpublished_snapshots(hypervisor, repository, vm, notice=notice)
    for partial in repository.partials(folder) if folder is not None else []:
        repository.discard(partial)
        notice(phrase("removed an unfinished point of an earlier run: {partial}", partial=partial.name))


def _none(_name: str) -> bool:
    return False
