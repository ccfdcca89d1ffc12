"""What does runs, in the process of a command or in the service."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.errors import KvmBackupError
    from kvm_backup.domain.request import RunRequest
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.runtime.hand_over import Follower
    from kvm_backup.services.backup import BackupService
    from kvm_backup.services.download import DiskDownload
    from kvm_backup.services.events import Finished, Listener
    from kvm_backup.services.prune import PruneService
    from kvm_backup.services.runs import RunService
    from kvm_backup.services.tasks import Pruner, TaskService


@dataclass(frozen=True)
class RunWork:
    """Backs up, verifies, restores, prunes and ships."""

    parts: Application

    def start(
        self,
        request: RunRequest,
        *,
        listener: Listener,
        stop_requested: Callable[[], bool],
        confirm: Callable[[str], bool] = lambda _question: True,
    ) -> tuple[Finished, KvmBackupError | None]:
        """Begin a new run and see it through; every command comes here.

        A backup is done by the service when that runs. Other kinds are done in this process: they tell what they
        find as they go, and a restore in place asks `confirm` once it knows what will be lost.
        """
        from kvm_backup.domain.run import RunKind

        if request.kind is RunKind.BACKUP and self.parts.service_runs():
            return self._follower.follow(self.parts.queue.enqueue(request), listener, stop_requested)
        return self.runs.do(request, listener=listener, stop_requested=stop_requested, confirm=confirm)

    @cached_property
    def runs(self) -> RunService:
        from kvm_backup.services.run_log import make_log
        from kvm_backup.services.runs import RunService

        return RunService(
            open_history=lambda: self.parts.history,
            log=make_log(self.parts.log_file, host=self.parts.host),
            own_runs=self.parts.own_runs,
            find_vm=lambda name: self.parts.hypervisor.vm(name),
            backup_service=lambda repository, listener, stop_requested: replace(
                self.backup_service(self.parts.repository(repository), listener, stop_requested),
                after_point=lambda vm: self.prune_after_backup(vm, repository, listener, stop_requested),
            ),
            tasks=self.tasks,
            script_timeout=self.parts.settings.hooks.timeout,
        )

    @cached_property
    def tasks(self) -> TaskService:
        """What does verifies, restores and prunes."""
        from kvm_backup.services.tasks import TaskService

        return TaskService(
            open_store=self.parts.store,
            hypervisor=lambda: self.parts.hypervisor,
            prune_service=self.pruner,
            ship_service=self.parts.shipping.service,
            locks=lambda: self.parts.folders.locks,
            lock_wait=self.parts.settings.backup.lock_wait,
        )

    def backup_service(
        self, repository: LocalRepository, listener: Listener, stop_requested: Callable[[], bool]
    ) -> BackupService:
        """A service that backs VMs up into one repository."""
        from kvm_backup.services.backup import BackupService

        return BackupService(
            hypervisor=self.parts.hypervisor,
            repository=repository,
            folders=self.parts.folders,
            options_for=lambda vm: self.parts.rules.backup_options(vm, repository),
            clock=lambda: datetime.now(UTC),
            listener=listener,
            stop_requested=stop_requested,
        )

    def prune_service(
        self, repository: LocalRepository, listener: Listener, stop_requested: Callable[[], bool]
    ) -> PruneService:
        """A service that prunes one repository."""
        from kvm_backup.services.prune import PruneService

        return PruneService(
            repository=repository,
            catalogue=self.parts.catalogue,
            locks=self.parts.folders.locks,
            rule_for=lambda name, uuid: self.parts.rules.retention(repository, name, uuid),
            zone=self.parts.zone,
            lock_wait=self.parts.settings.backup.lock_wait,
            space_reserve=self.parts.settings.backup.space_reserve,
            level=self.parts.settings.backup.compression_level,
            listener=listener,
            stop_requested=stop_requested,
            remotes=self.parts.shipping.remotes,
            waiting=partial(self.parts.shipping.waiting, repository.name),
        )

    def pruner(self, name: str | None, listener: Listener, stop_requested: Callable[[], bool]) -> Pruner:
        """What prunes a repository by its name or path, wherever it is."""
        if name is not None and name in self.parts.shipping.remotes:
            return self.parts.shipping.prune_service(name, listener, stop_requested)
        return self.prune_service(self.parts.repository(name), listener, stop_requested)

    def prune_after_backup(
        self, vm_name: str, repository: str, listener: Listener, stop_requested: Callable[[], bool]
    ) -> None:
        """Prune a VM that was just backed up, if the settings want that. Raises KvmBackupError."""
        from kvm_backup.services.prune import points_of

        if not self.parts.settings.retention.after_backup:
            return
        store = self.parts.repository(repository)
        vm = self.parts.hypervisor.vm(vm_name)
        found = points_of(store, vm.name, vm.uuid)
        if found is not None:
            self.prune_service(store, listener, stop_requested).run(found)

    def open_disk(
        self,
        repository: str | None,
        point: str,
        target: str,
        *,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> DiskDownload:
        """A disk of a point as one qcow2 file, to be sent: its name, its size, its bytes in `chunks`.

        Everything is checked, and a chain put together, before this returns. Raises PointNotFoundError,
        UnsupportedDiskError, DamagedPointError, BrokenChainError, NoSpaceError, CancelledError, StorageError.
        """
        from kvm_backup.services.download import DiskDownloads

        downloads = DiskDownloads(
            scratch=self.parts.folders.scratch,
            space_reserve=self.parts.settings.backup.space_reserve,
            level=self.parts.settings.backup.compression_level,
        )
        return downloads.open(self.parts.repositories.configured(repository), point, target, stop_requested)

    @cached_property
    def _follower(self) -> Follower:
        from kvm_backup.runtime.hand_over import Follower

        return Follower(
            history=self.parts.history,
            log_reader=self.parts.log_reader,
            service_runs=self.parts.service_runs,
            point_path=lambda name, point: str(self.parts.repository(name).path_of(point)),
        )
