"""From what a user asks for to the requests of runs, checked as far as that is quick."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from kvm_backup.domain.errors import BadArgumentError, PointNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest, asked_run_id
from kvm_backup.domain.run import Run, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.task import (
    AsNewVm,
    BackupTask,
    InPlace,
    PruneTask,
    RestoreTarget,
    RestoreTask,
    ShipTask,
    Task,
    ToFolder,
    VerifyTask,
    task_of,
)
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.lookup import folders_of_vm
from kvm_backup.services.links import require_here
from kvm_backup.services.prune import VmPoints, points_in
from kvm_backup.services.restore import check_folder, check_new_vm
from kvm_backup.services.restore_in_place import check_in_place


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: by what way, and the name of the user where one is known."""

    trigger: Trigger = Trigger.COMMAND
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """Makes requests for runs on this host. `lasting_name` is what names a repository also from another folder.
    `open_repository` opens those on this host, `view` gives what any is known to hold, `is_far` tells which are on
    other servers.

    What is given as `repository` is a name, a path, or None for the default one.
    """

    host: str
    clock: Callable[[], datetime]
    open_repository: Callable[[str], LocalRepository]
    view: Callable[[str], LocalRepository]
    is_far: Callable[[str], bool]
    lasting_name: Callable[[str | None], str]
    hypervisor: Callable[[], Hypervisor]

    def backup(
        self,
        vm: str,
        mode: Mode,
        repository: str | None,
        asker: Asker = Asker(),
        *,
        schedule: Schedule | None = None,
    ) -> RunRequest:
        """A backup of a VM; `schedule` is the one that a user starts by hand. Nothing is checked."""
        now = self.clock()
        return RunRequest(
            run_id=asked_run_id(now, secrets.token_bytes),
            host=self.host,
            vm=vm,
            task=BackupTask(mode),
            repository=self.lasting_name(repository),
            trigger=asker.trigger,
            created=now,
            asked_by=asker.user,
            schedule_id=schedule.id if schedule else None,
            schedule_name=schedule.name if schedule else None,
            pre_script=schedule.pre_script if schedule else (),
            post_script=schedule.post_script if schedule else (),
        )

    def backup_of_known_vm(self, vm: str, mode: Mode, repository: str | None, asker: Asker) -> RunRequest:
        """The same, refused when libvirt does not know the VM or there is no such repository.

        Raises VmNotFoundError, HypervisorUnavailableError, RepositoryNotFoundError.
        """
        self.open_repository(self.lasting_name(repository))
        found = self.hypervisor().vm(vm)
        return replace(self.backup(found.name, mode, repository, asker), vm_uuid=found.uuid)

    def verify_point(
        self, point: str, repository: str | None, asker: Asker = Asker(), *, deep: bool = False
    ) -> RunRequest:
        """A check of a point, by its whole id, and all that it builds on. Raises PointNotFoundError."""
        store = self.view(self.lasting_name(repository))
        store.examine(point)
        folder = point.partition("/")[0]
        return self._request(points_in(store, folder), VerifyTask(folder, point, deep), repository, asker)

    def verify_folder(
        self, folder: str, repository: str | None, asker: Asker = Asker(), *, deep: bool = False
    ) -> RunRequest:
        """A check of every point in a VM's folder. Raises PointNotFoundError."""
        owner = points_in(self.view(self.lasting_name(repository)), folder)
        return self._request(owner, VerifyTask(folder, deep=deep), repository, asker)

    def prune_folder(self, folder: str, repository: str | None, asker: Asker = Asker()) -> RunRequest:
        """A prune of the points in a VM's folder. Raises PointNotFoundError."""
        owner = points_in(self.view(self.lasting_name(repository)), folder)
        return self._request(owner, PruneTask(folder), repository, asker)

    def shipment(self, owner: VmPoints, remote: str, asker: Asker = Asker()) -> RunRequest:
        """A run that ships what waits of a VM's points to a remote."""
        return self._request(owner, ShipTask(owner.folder.name), remote, asker)

    def folder_of(self, vm: str, repository: str | None) -> str:
        """The folder with the points of a VM, by its name, UUID or folder; a name alone takes long to find.

        Raises PointNotFoundError when there is none, or several.
        """
        store = self.view(self.lasting_name(repository))
        found = folders_of_vm(store, vm)
        if len(found) != 1:
            what = phrase("no point") if not found else phrase("points in {count} folders", count=len(found))
            raise PointNotFoundError(
                phrase(
                    "repository {repository} holds {what} of a VM {vm!r}", repository=store.name, what=what, vm=vm
                ),
                hint=phrase("See what there is: 'kvm-backup point list'."),
            )
        return found[0]

    def all_folders(self, repository: str | None) -> list[str]:
        """The folders of all VMs that a repository holds points of."""
        return [folder.name for folder in self.view(self.lasting_name(repository)).folders()]

    def restore(
        self, point: str, target: RestoreTarget, repository: str | None, asker: Asker = Asker()
    ) -> RunRequest:
        """A restore of a point, by its whole id. Nothing but the point is checked. Raises PointNotFoundError,
        DamagedPointError, DamagedManifestError."""
        store = self.view(self.lasting_name(repository))
        store.load(point)
        owner = points_in(store, point.partition("/")[0])
        return self._request(owner, RestoreTask(point, target), repository, asker)

    def checked_restore(self, point: str, target: RestoreTarget, repository: str | None, asker: Asker) -> RunRequest:
        """The same, refused when it is plain already that it would fail.

        Raises BadArgumentError, TargetExistsError, VmRunningError, HypervisorUnavailableError, PointElsewhereError,
        BrokenChainError as well.
        """
        request = self.restore(point, target, repository, asker)
        store = self.view(request.repository)
        manifest = store.load(point)
        require_here(store, manifest)
        match target:
            case AsNewVm():
                folder = _absolute(target.disks_in) if target.disks_in else None
                check_new_vm(manifest, target.name, hypervisor=self.hypervisor(), folder=folder)
            case InPlace():
                if target.disks_in:
                    _absolute(target.disks_in)
                check_in_place(manifest, hypervisor=self.hypervisor(), stop=target.stop)
            case ToFolder():
                check_folder(manifest, _absolute(target.folder), target.image_format)
        return request

    def again(self, earlier: Run, asker: Asker) -> RunRequest:
        """A run that does what an earlier one did. Raises BadArgumentError when its record does not tell what."""
        now = self.clock()
        return RunRequest(
            run_id=asked_run_id(now, secrets.token_bytes),
            host=self.host,
            vm=earlier.vm_name,
            task=task_of(earlier),
            repository=earlier.repository,
            trigger=asker.trigger,
            created=now,
            vm_uuid=earlier.vm_uuid,
            asked_by=asker.user,
            schedule_id=earlier.schedule_id,
            schedule_name=earlier.schedule_name,
            attempt=earlier.attempt + 1,
            far=self.is_far(earlier.repository),
        )

    def _request(self, owner: VmPoints, task: Task, repository: str | None, asker: Asker) -> RunRequest:
        now = self.clock()
        return RunRequest(
            run_id=asked_run_id(now, secrets.token_bytes),
            host=self.host,
            vm=owner.vm,
            task=task,
            repository=self.lasting_name(repository),
            trigger=asker.trigger,
            created=now,
            vm_uuid=owner.vm_uuid,
            asked_by=asker.user,
            far=self.is_far(self.lasting_name(repository)),
        )


def _absolute(folder: str) -> Path:
    """Raises BadArgumentError."""
    path = Path(folder)
    if not path.is_absolute() or "\0" in folder:
        raise BadArgumentError(
            phrase("{folder!r} is no absolute path", folder=folder),
            hint=phrase("Give the whole path of a folder, such as /srv/images."),
        )
    return path
