"""The restore points of a VM in all repositories of the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.inventory import PointFacts, VmRecord
    from kvm_backup.domain.point import Manifest
    from kvm_backup.services.point_places import PlacedPoints
    from kvm_backup.services.vm_points import VmPointList


@dataclass(frozen=True, slots=True)
class VmLook:
    """The points of a VM and what they come to, from one look at the catalogue. `by_path` counts those in
    repositories that only schedules name, which no page opens, by that name.
    """

    placed: PlacedPoints
    facts: PointFacts
    by_path: Mapping[str, int]


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
        return self._placed(vm_uuid, self.everywhere(vm_uuid))

    def look(self, vm: VmRecord) -> VmLook:
        """The same with what they come to, in all repositories that settings or schedules name.

        While one of these is away that held some, what was last known of all is told. Raises DatabaseError.
        """
        from kvm_backup.services.vm_points import facts_here, points_everywhere

        schedules, _problem = self.parts.schedule_file.read_or_last_good()
        in_use = self.parts.repositories.in_use(schedules)
        found = points_everywhere(sorted(in_use), lambda name: in_use[name](), self.parts.catalogue, vm.uuid)
        damaged = {(damage.repository, damage.point) for damage in self.parts.alerts.known_damages()}
        is_away = any(name in found.problems for name in vm.points.newest)
        facts = vm.points if is_away else facts_here(found.points, damaged, datetime.now(UTC))
        named = self.parts.settings.repositories()
        by_path: dict[str, int] = {}
        for held in found.points:
            if held.repository not in named:
                by_path[held.repository] = by_path.get(held.repository, 0) + 1
        shown = replace(found, points=[held for held in found.points if held.repository in named])
        return VmLook(self._placed(vm.uuid, shown), facts, by_path)

    def _placed(self, vm_uuid: str, here: VmPointList) -> PlacedPoints:
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
        return placed_points(here, there, remotes, waiting, unshippable)
