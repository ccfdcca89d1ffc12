"""A restore as a run: which way, under which lock, and what is done when an earlier attempt of it was killed.

Into a new VM or a folder it is done again: what the killed one wrote was hidden, or is known by the VM's UUID. In
place it is not: the VM may have been started meanwhile, and what it wrote since would be lost without a question.
"""

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import InterruptedRunError, KvmBackupError, VmNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.task import AsNewVm, InPlace, RestoreTask, ToFolder
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import restore_in_place
from kvm_backup.services.restore import check_folder, check_new_vm, restore_as_new_vm, restore_to_folder
from kvm_backup.services.restore_disks import Restored
from kvm_backup.services.stores.store import Errand, Store
from kvm_backup.services.vm_lock import hold_vm

_VMS_OF_RUNS = uuid.UUID("0f4b1c9e-5d0b-4c55-9a39-6f2f8a1f9a67")


def agreed_before(_question: str) -> bool:
    """For runs whose front end asked before it asked for them."""
    return True


def uuid_of_new_vm(run_id: str) -> str:
    """The UUID of the VM that a run makes: the same in each attempt, so that it knows its own."""
    return str(uuid.uuid5(_VMS_OF_RUNS, run_id))


@dataclass(frozen=True, slots=True)
class Restorer:
    """Restores points of one store. `lock_wait` is in seconds."""

    store: Store
    hypervisor: Callable[[], Hypervisor]
    locks: Path
    lock_wait: float
    errand: Errand
    confirm: Callable[[str], bool]

    def restore(self, request: RunRequest, task: RestoreTask, *, again: bool) -> Restored:
        """Restore as the task says. Raises what the three ways raise and `Store.holding`, and InterruptedRunError for
        one in place that was killed `again` ago."""
        manifest = self.store.view.load(task.point)
        confirm = self.confirm
        if self.store.far:
            # What can be refused or asked is not found out after hours on the link.
            confirm = self._before_fetching(manifest, task, again)
        with self.store.holding(manifest, self.errand) as repository:
            return self._restore(repository, request, task, again, confirm)

    def _restore(
        self,
        repository: LocalRepository,
        request: RunRequest,
        task: RestoreTask,
        again: bool,
        confirm: Callable[[str], bool],
    ) -> Restored:
        manifest = repository.load(task.point)
        with ExitStack() as held:
            # A snapshot's state is on the host, where a backup's merge would change it while it is read.
            if isinstance(task.target, InPlace) or manifest.mode is Mode.SNAPSHOT:
                held.enter_context(
                    hold_vm(
                        self.locks,
                        manifest.vm_name,
                        manifest.vm_uuid,
                        wait=self.lock_wait,
                        stop_requested=self.errand.stop_requested,
                    )
                )
                manifest = repository.load(task.point)
            match task.target:
                case ToFolder() as target:
                    return restore_to_folder(
                        repository,
                        manifest,
                        Path(target.folder),
                        target.image_format,
                        hypervisor=self.hypervisor,
                        listener=self.errand.listener,
                        stop_requested=self.errand.stop_requested,
                        again=again,
                    )
                case AsNewVm() as target:
                    return restore_as_new_vm(
                        repository,
                        manifest,
                        target.name,
                        hypervisor=self.hypervisor(),
                        folder=Path(target.disks_in) if target.disks_in else None,
                        start=target.start,
                        listener=self.errand.listener,
                        stop_requested=self.errand.stop_requested,
                        uuid=uuid_of_new_vm(request.run_id),
                    )
                case InPlace() as target:
                    if again:
                        self._refuse_to_go_on(manifest)
                    return restore_in_place.restore_in_place(
                        repository,
                        manifest,
                        hypervisor=self.hypervisor(),
                        disks_in=Path(target.disks_in) if target.disks_in else None,
                        stop=target.stop,
                        confirm=confirm,
                        listener=self.errand.listener,
                        stop_requested=self.errand.stop_requested,
                    )

    def _before_fetching(self, manifest: Manifest, task: RestoreTask, again: bool) -> Callable[[str], bool]:
        """Refuse what is plain already; returns who is asked later, who need not agree to the same twice."""
        match task.target:
            case InPlace() as target:
                if again:
                    self._refuse_to_go_on(manifest)
                question = restore_in_place.question_of(
                    manifest,
                    hypervisor=self.hypervisor(),
                    disks_in=Path(target.disks_in) if target.disks_in else None,
                    stop=target.stop,
                )
                if not self.confirm(question):
                    raise restore_in_place.not_confirmed(manifest)
                return lambda asked: asked == question or self.confirm(asked)
            case AsNewVm() as target if not again:
                folder = Path(target.disks_in) if target.disks_in else None
                check_new_vm(manifest, target.name, hypervisor=self.hypervisor(), folder=folder)
            case ToFolder() as target if not again:
                check_folder(manifest, Path(target.folder), target.image_format)
        return self.confirm

    def _refuse_to_go_on(self, manifest: Manifest) -> None:
        """Leave the VM in one of the two states that it may be in. Raises InterruptedRunError; returns for a VM that
        libvirt does not know, which has nothing to lose."""
        hypervisor = self.hypervisor()
        try:
            vm = hypervisor.vm(manifest.vm_uuid)
        except VmNotFoundError:
            return
        raise InterruptedRunError(
            phrase("the restore in place was interrupted, and is not done again by itself"),
            hint=_state_of(hypervisor, vm, manifest),
            vm=vm.name,
        )


def _state_of(hypervisor: Hypervisor, vm: Vm, manifest: Manifest) -> str:
    """What became of the VM's disks, in words; what the killed attempt left beside them is removed."""
    swaps = restore_in_place.remains(vm)
    unfinished = any(swap.new.exists() for swap in swaps)
    try:
        restore_in_place.settle_vm(hypervisor, vm)
    except KvmBackupError as error:
        return phrase(
            "What it left beside the disks is still there ({cause}). Shut the VM down and restore again, or get the"
            " old disks back with 'kvm-backup doctor --clean'.",
            cause=error.message,
        )
    held = {disk.target for disk in manifest.disks}
    if any(disk.kind is SourceKind.BLOCK and disk.target in held for disk in vm.disks):
        return phrase("Block devices may be overwritten in part: restore again before the VM is started.")
    if unfinished:
        return phrase("The VM's disks are as they were before. Restore again if that is still wanted.")
    if swaps:
        return phrase("The VM's disks are those of the point, but its definition may not be: restore again.")
    return phrase("It had written nothing yet, or was complete: look at the VM, and restore again if need be.")
