"""What settings and schedules say of single VMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvm_backup.bootstrap import Application
    from kvm_backup.config.settings import VmSettings
    from kvm_backup.domain.retention import RetentionRule, RetentionWish
    from kvm_backup.domain.schedule import Schedule
    from kvm_backup.domain.vm import Vm
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.services.options import BackupOptions


@dataclass(frozen=True, slots=True)
class Rules:
    """How a VM is backed up, and what stays of it."""

    parts: Application

    def retention(self, repository: LocalRepository, vm_name: str, vm_uuid: str) -> RetentionRule:
        """The rule for a VM in a repository, made of settings and schedules.

        Raises SchedulesFileError, StorageError: what the schedules want to keep must be known before points go.
        """
        wishes = [schedule.retention for schedule in self.schedules_of_vm(vm_name, vm_uuid, repository)]
        return self._of_settings(repository, vm_name, vm_uuid, wishes)

    def usual_retention(self, repository: str | None) -> RetentionRule:
        """What stays in a repository, by its name, of VMs of which neither a schedule nor the settings say more."""
        from kvm_backup.config.retention import effective_rule

        wanted = repository or self.parts.settings.default_repository
        named = next((one for one in self.parts.settings.repository if one.name == wanted), None)
        return effective_rule(self.parts.settings.retention, named.retention if named else None, [], None)

    def _of_settings(
        self, repository: LocalRepository, vm_name: str, vm_uuid: str, wishes: Iterable[RetentionWish]
    ) -> RetentionRule:
        from kvm_backup.config.retention import effective_rule

        own = self.of_vm(vm_name, vm_uuid)
        root = repository.root.resolve()
        of_repository = next(
            (one for one in self.parts.settings.repository if one.path and one.path.resolve() == root), None
        )
        return effective_rule(
            self.parts.settings.retention,
            of_repository.retention if of_repository else None,
            wishes,
            own.retention if own else None,
        )

    def schedules_of_vm(self, vm_name: str, vm_uuid: str | None, repository: LocalRepository) -> list[Schedule]:
        """The schedules that back a VM up into a repository, disabled ones included.

        Raises SchedulesFileError, StorageError.
        """
        root = repository.root.resolve()
        return [
            schedule
            for schedule in self.parts.schedule_file.read()
            if schedule.covers(vm_name, vm_uuid or "")
            and self.parts.repositories.root_of(self.parts.repositories.lasting_name(schedule.repository)) == root
        ]

    def of_vm(self, vm_name: str, vm_uuid: str | None) -> VmSettings | None:
        """What the settings say of one VM."""
        return self.parts.settings.vm.get(vm_name) or self.parts.settings.vm.get(vm_uuid or "")

    def excluded_disks(self, vm: Vm) -> frozenset[str]:
        """Those that are not backed up, by target."""
        settings = self.of_vm(vm.name, vm.uuid)
        return settings.exclude_disks if settings else frozenset()

    def backup_options(self, vm: Vm, repository: LocalRepository) -> BackupOptions:
        """How a VM is backed up into a repository."""
        from kvm_backup.services.options import BackupOptions

        backup = self.parts.settings.backup
        own = self.of_vm(vm.name, vm.uuid)
        freeze = backup.freeze if own is None or own.freeze is None else own.freeze
        return BackupOptions(
            freeze_timeout=backup.freeze_timeout if freeze else None,
            compression_level=backup.compression_level,
            space_reserve=backup.space_reserve,
            lock_wait=backup.lock_wait,
            excluded_disks=self.excluded_disks(vm),
            snapshots_kept=self.parts.settings.snapshot.keep,
            # Schedules have no say in it, so that a backup does not depend on their file.
            longest_chain=self._of_settings(repository, vm.name, vm.uuid, []).chain,
            remotes=frozenset(self.parts.shipping.remotes),
            unshippable=self.parts.shipping.unshippable(repository, vm),
            closed=self.parts.shipping.closed(repository, vm),
        )
