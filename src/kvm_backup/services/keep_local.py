"""Lets go of images that need not be here, since every remote that their points go to holds them (keep_local).

A point whose images went keeps its folder with manifest and small files, and tells where the images are: it can be
listed, and the next incremental can build on it. Killed anywhere, the next pass finishes.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kvm_backup.domain.errors import BrokenChainError, DamagedImageError, DamagedPointError, StorageError
from kvm_backup.domain.keep_local import KeepLocal, LocalPoint, may_go
from kvm_backup.domain.point import Manifest, Mode, serialize
from kvm_backup.repository.elsewhere import mark_elsewhere, remove_images, unmark
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.held_maps import forget_maps, keep_maps
from kvm_backup.services.links import images_are_here
from kvm_backup.services.prune import VmPoints
from kvm_backup.services.vm_lock import hold_vm

if TYPE_CHECKING:
    from kvm_backup.repository.catalogue import Catalogue  # with SQLAlchemy, which is slow to load


@dataclass(frozen=True, slots=True)
class LetGo:
    """What a pass did. `points`: ids of those whose images went, `bytes_freed` on the storage. `forgotten`: ids of
    points that went, because the retention of every remote that held their images had let them go."""

    points: tuple[str, ...] = ()
    bytes_freed: int = 0
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepLocalService:
    """Works on one local repository. `lock_wait` is in seconds."""

    repository: LocalRepository
    catalogue: "Catalogue"
    locks: Path
    lock_wait: float
    stop_requested: Callable[[], bool] = lambda: False

    def apply(self, wanted: VmPoints, mirrors: Mapping[str, Mirror], keep: KeepLocal) -> LetGo:
        """Let images of a VM go as far as `keep` allows; bring up to date where those are that went before.

        `mirrors` are those of all remotes that the VM's points go to, by name. The VM's lock is held only while the
        points are marked and their images removed. Raises VmBusyError, CancelledError, StorageError.
        """
        if wanted.vm_uuid is None or not mirrors:
            return LetGo()
        before = _View.of(self.repository, wanted, mirrors, keep)
        if not before.has_work:
            return LetGo()
        before.keep_maps_of_newest()
        with hold_vm(self.locks, wanted.vm, wanted.vm_uuid, wait=self.lock_wait, stop_requested=self.stop_requested):
            done = _View.of(self.repository, wanted, mirrors, keep).carry_out(self.stop_requested)
        self.catalogue.refresh_folder(self.repository, wanted.folder.name)
        return done


@dataclass(slots=True)
class _View:
    """A VM's folder beside the mirrors, at one moment."""

    repository: LocalRepository
    mirrors: Mapping[str, Mirror]
    manifests: dict[str, Manifest] = field(default_factory=dict)
    points: dict[str, LocalPoint] = field(default_factory=dict)
    marks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where the images are of the points that are marked."""
    go: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, repository: LocalRepository, wanted: VmPoints, mirrors: Mapping[str, Mirror], keep: KeepLocal
    ) -> "_View":
        view = cls(repository, mirrors)
        previous: str | None = None
        for point in repository.points(wanted.folder):
            if isinstance(point, DamagedPoint):
                # It may build on the one before it.
                view.points[point.id] = LocalPoint(point.id, previous, shipped=False)
            elif point.mode is Mode.SNAPSHOT:
                continue
            elif point.vm_uuid != wanted.vm_uuid:
                view.points[point.id] = LocalPoint(point.id, point.parent, shipped=False)
            else:
                content = serialize(point)
                shipped = all(mirror.holds(point.id, content) for mirror in mirrors.values())
                view.manifests[point.id] = point
                view.points[point.id] = LocalPoint(point.id, point.parent, shipped)
                mark = repository.elsewhere(point.id)
                if mark is not None:
                    view.marks[point.id] = mark
            previous = point.id
        view.go = may_go(view.points.values(), keep)
        return view

    @property
    def has_work(self) -> bool:
        return (
            any(self._has_images(point) for point in self.go)
            or any(self._names_now(point) != names or not names for point, names in self.marks.items())
            or any(self._is_back(point) for point in self.marks)
        )

    def keep_maps_of_newest(self) -> None:
        """Of what the next incremental builds on, before its images go. Without them that will be a full one."""
        newest = max(self.points)
        if newest in self.go and self._has_images(newest):
            with suppress(BrokenChainError, DamagedPointError, DamagedImageError, StorageError):
                keep_maps(self.repository, self.manifests[newest])

    def carry_out(self, stop_requested: Callable[[], bool]) -> LetGo:
        self._note_where()
        forgotten = self._forget()
        for point in [point for point in self.marks if self._is_back(point)]:
            unmark(self.repository.path_of(point))
            del self.marks[point]
        self.keep_maps_of_newest()
        points, freed = [], 0
        for point in self.go:
            if point in forgotten:
                continue
            refuse_when_stopped(stop_requested)
            if self._has_images(point):
                folder = self.repository.path_of(point)
                if point not in self.marks:
                    mark_elsewhere(folder, self._names_now(point))
                freed += remove_images(folder, self.manifests[point])
                points.append(point)
            if point != max(self.points):
                forget_maps(self.repository, self.manifests[point])
        return LetGo(tuple(points), freed, tuple(forgotten))

    def _note_where(self) -> None:
        for point, names in self.marks.items():
            now = self._names_now(point)
            if now != names:
                mark_elsewhere(self.repository.path_of(point), now)
                self.marks[point] = now

    def _forget(self) -> list[str]:
        """Remove points whose images are nowhere, when a remote holds a newer one: its rule let them go.

        Where no remote holds a newer one something else happened there, and the point stays, known as lost.
        """
        forgotten: list[str] = []
        needed = {point.parent for point in self.points.values()}
        for point in sorted((point for point, names in self.marks.items() if not names), reverse=True):
            if point in needed or not self._is_outlived(point) or self._has_images(point):
                continue
            self.repository.withdraw(point)
            del self.marks[point], self.points[point]
            needed = {left.parent for left in self.points.values()}
            forgotten.append(point)
        return forgotten

    def _is_outlived(self, point: str) -> bool:
        return any(
            newer > point and mirror.repository.path_of(newer).is_dir()
            for newer in self.manifests
            for mirror in self.mirrors.values()
        )

    def _names_now(self, point: str) -> tuple[str, ...]:
        """Where a point's images are: of the remotes that are not asked, what its mark says."""
        unasked = set(self.marks.get(point, ())) - self.mirrors.keys()
        manifest = self.manifests[point]
        holders = {name for name, mirror in self.mirrors.items() if _holds(mirror, manifest)}
        return tuple(sorted(unasked | holders))

    def _is_back(self, point: str) -> bool:
        """Whether all images of a marked point are here, and may stay."""
        return point not in self.go and images_are_here(self.repository, self.manifests[point])

    def _has_images(self, point: str) -> bool:
        folder = self.repository.path_of(point)
        return any(disk.file and (folder / disk.file).exists() for disk in self.manifests[point].disks)


def _holds(mirror: Mirror, manifest: Manifest) -> bool:
    """Whether the remote has the point, in whatever state."""
    if not mirror.repository.path_of(manifest.id).is_dir():
        return False
    there = mirror.repository.examine(manifest.id)
    return isinstance(there, Manifest) and there.uuid == manifest.uuid
