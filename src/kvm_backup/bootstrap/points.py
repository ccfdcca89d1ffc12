"""The restore points of a VM in all repositories of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.point import Manifest
    from kvm_backup.services.point_places import PlacedPoints
    from kvm_backup.services.vm_points import VmPointList


@dataclass(frozen=True, slots=True)
class Points:
    """As the catalogue knows them: no manifest is read for it."""

    parts: Application

    def everywhere(self, vm_uuid: str) -> VmPointList:
        """The points of a VM in all repositories of the settings on this host."""
        from kvm_backup.services.vm_points import points_everywhere

        return points_everywhere(
            sorted(self.parts.settings.repositories()), self.parts.repository, self.parts.catalogue, vm_uuid
        )

    def held_by(self, repository: str, vm_uuid: str) -> list[Manifest]:
        """The points of a VM in one repository that a page may name, also a remote.

        Raises as Repositories.configured_store.
        """
        return self.parts.catalogue.points(self.parts.repositories.configured_store(repository).view, vm_uuid)

    def placed(self, vm_uuid: str) -> PlacedPoints:
        """The points of a VM with where each of them is, and what it waits for. Raises DatabaseError."""
        from kvm_backup.services.point_places import placed_points
        from kvm_backup.services.vm_points import points_everywhere

        remotes = {name: remote.of for name, remote in self.parts.shipping.remotes.items()}
        there = points_everywhere(
            sorted(remotes),
            lambda name: self.parts.shipping.mirror(name).repository,
            self.parts.catalogue,
            vm_uuid,
            lambda name: self.parts.shipping.mirror(name).unvouched(),
        )
        facts = self.parts.shipping.facts
        waiting = facts.store.of_vm(vm_uuid) if remotes else []
        unshippable = [line for line in facts.unshippable.of_vm(vm_uuid) if line.remote in remotes] if remotes else []
        return placed_points(self.everywhere(vm_uuid), there, remotes, waiting, unshippable)
