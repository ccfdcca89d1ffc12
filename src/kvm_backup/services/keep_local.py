"""Lets go of images that need not be here, since every remote that their points go to holds them (keep_local).

What this host noted when it shipped is not enough for that: each server is asked right before, of each file. A point
whose images went keeps its folder with manifest and small files, and tells where the images are: it can be listed,
and the next incremental can build on it. Killed anywhere, the next pass finishes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kvm_backup.domain.errors import (
    BrokenChainError,
    CancelledError,
    DamagedImageError,
    DamagedPointError,
    KvmBackupError,
    StorageError,
)
from kvm_backup.domain.keep_local import KeepLocal, LocalPoint, may_go, with_children
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, Mode, serialize
from kvm_backup.repository.elsewhere import mark_elsewhere, remove_images, unmark
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services import events
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.held_maps import forget_maps, keep_maps
from kvm_backup.services.links import images_are_here
from kvm_backup.services.prune import VmPoints
from kvm_backup.services.shipping.lack import shown
from kvm_backup.services.vm_lock import hold_shipment, hold_vm

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
class Answer:
    """What a server holds of a point now. `lacking`: the files that are missing there, or not as they should be.
    `unknown`: why that cannot be told, a phrase. `closed`: none of today's recipients is known to open it there."""

    point: Manifest
    lacking: tuple[str, ...] = ()
    unknown: str | None = None
    closed: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.lacking and self.unknown is None and not self.closed


class Witness(Protocol):
    """A remote that can be asked."""

    @property
    def mirror(self) -> Mirror:
        """What it is known to hold."""

    def ask(self, points: Sequence[Manifest], check: Callable[[], None]) -> Iterator[Answer]:
        """What the server holds of each point, from all bytes of its files; `check` is called meanwhile, and raises
        to end it. Raises KvmBackupError when the server cannot be asked."""


@dataclass(frozen=True, slots=True)
class KeepLocalService:
    """Works on one local repository. `lock_wait` is in seconds."""

    repository: LocalRepository
    catalogue: "Catalogue"
    locks: Path
    lock_wait: float
    listener: events.Listener
    stop_requested: Callable[[], bool] = lambda: False

    def apply(self, wanted: VmPoints, witnesses: Mapping[str, Witness], keep: KeepLocal) -> LetGo:
        """Let images of a VM go as far as `keep` allows; bring up to date where those are that went before.

        `witnesses` are all remotes that the VM's points go to, by name. What one of them does not hold whole waits
        for it again, and stays here; so does everything while one cannot be asked. Both are told. Nothing is shipped
        to them or removed there meanwhile. The VM's lock is held only while the points are marked and their images
        removed. What ends before its end, or could not ask a server that may answer later, is noted in a mirror, so
        that somebody tries again. Raises VmBusyError, CancelledError, StorageError, NoSpaceError.
        """
        if wanted.vm_uuid is None or not witnesses:
            return LetGo()
        mirrors = {name: witness.mirror for name, witness in witnesses.items()}
        folder = wanted.folder.name
        if not _View.of(self.repository, wanted, mirrors, keep).has_work:
            _forget_note(mirrors, folder)
            return LetGo()
        mirrors[min(mirrors)].unsettled.note(folder)
        with ExitStack() as locks:
            for name in sorted(witnesses):
                lock = hold_shipment(
                    self.locks, name, folder, wait=self.lock_wait, stop_requested=self.stop_requested
                )
                locks.enter_context(lock)
            before = _View.of(self.repository, wanted, mirrors, keep)
            whole, may_answer_later = self._ask(wanted, witnesses, before.leaving)
            before.keep_maps_of_newest(whole)
            locks.enter_context(
                hold_vm(
                    self.locks, wanted.vm, wanted.vm_uuid, wait=self.lock_wait, stop_requested=self.stop_requested
                )
            )
            view = _View.of(self.repository, wanted, mirrors, keep)
            done = view.carry_out(whole, self.stop_requested)
        for message in view.told:
            self.listener(events.Notice(wanted.vm, message))
        self.catalogue.refresh_folder(self.repository, folder)
        if not may_answer_later:
            _forget_note(mirrors, folder)
        return done

    def _ask(
        self, wanted: VmPoints, witnesses: Mapping[str, Witness], points: Sequence[Manifest]
    ) -> tuple[dict[str, Manifest], bool]:
        """Those of the points that every remote holds whole, by id; none while one cannot be asked, and whether that
        one may answer later."""
        if not points:
            return {}, False
        whole = {point.id: point for point in points}
        total = len(witnesses) * sum(point.bytes_stored for point in points)
        done = 0
        self.listener(events.StepStarted(wanted.vm, events.Step.VERIFY))
        for name, witness in sorted(witnesses.items()):
            closed: list[str] = []
            try:
                for answer in witness.ask(points, lambda: refuse_when_stopped(self.stop_requested)):
                    done += answer.point.bytes_stored
                    self.listener(events.Progress(wanted.vm, events.Step.VERIFY, done, total))
                    if not answer.is_whole:
                        whole.pop(answer.point.id, None)
                        if answer.closed:
                            closed.append(answer.point.id)
                        else:
                            self._doubt(name, witness.mirror, answer)
            except CancelledError:
                raise
            except KvmBackupError as error:
                message = phrase(
                    "all images stay here: {name} could not be asked whether it holds them whole: {cause}",
                    name=name,
                    cause=error.message,
                )
                self.listener(events.Notice(wanted.vm, message))
                return {}, error.retryable
            if closed:
                message = phrase(
                    "images stay here: at {name} none of today's recipients is known to open {points}",
                    name=name,
                    points=shown(closed),
                )
                self.listener(events.Notice(wanted.vm, message))
        return whole, False

    def _doubt(self, name: str, mirror: Mirror, answer: Answer) -> None:
        point = answer.point
        if answer.unknown is not None:
            message = phrase(
                "{id} stays here: whether {name} holds it whole cannot be told: {cause}",
                id=point.id,
                name=name,
                cause=answer.unknown,
            )
        else:
            mirror.forget(point.id)
            message = phrase(
                "{id} stays here and will be sent again: at {name} these files are missing or damaged: {files}",
                id=point.id,
                name=name,
                files=", ".join(answer.lacking),
            )
        self.listener(events.Notice(point.vm_name, message))


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
    told: list[str] = field(default_factory=list)
    """What people must hear, in phrases."""

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

    @property
    def leaving(self) -> list[Manifest]:
        """The points whose images may go, as far as their servers hold them whole."""
        return [self.manifests[point] for point in self.go if self._has_images(point)]

    def keep_maps_of_newest(self, whole: Mapping[str, Manifest]) -> None:
        """Of what the next incremental builds on, before its images go. Without them that will be a full one."""
        newest = max(self.points)
        if newest in self._going(whole) and self._has_images(newest):
            with suppress(BrokenChainError, DamagedPointError, DamagedImageError, StorageError):
                keep_maps(self.repository, self.manifests[newest])

    def carry_out(self, whole: Mapping[str, Manifest], stop_requested: Callable[[], bool]) -> LetGo:
        """`whole` are the points that all servers were found to hold, as they were here then."""
        self._note_where()
        forgotten = self._forget()
        for point in [point for point in self.marks if self._is_back(point)]:
            unmark(self.repository.path_of(point))
            del self.marks[point]
        if not self.points:
            return LetGo(forgotten=tuple(forgotten))
        self.keep_maps_of_newest(whole)
        points, freed = [], 0
        for point in self._going(whole):
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

    def _going(self, whole: Mapping[str, Manifest]) -> list[str]:
        """What goes now, children first. What builds on a point that is here and not whole there stays with it, so
        that both can be restored from here."""
        doubtful = {
            id_
            for id_, manifest in self.manifests.items()
            if self._has_images(id_)
            and (not self.points[id_].shipped or (id_ in self.go and whole.get(id_) != manifest))
        }
        stay = with_children(doubtful, self.points.values())
        return [point for point in self.go if point not in stay]

    def _note_where(self) -> None:
        for point, names in self.marks.items():
            now = self._names_now(point)
            if now == names:
                continue
            if taken := self._taken(point, set(names) - set(now)):
                self.told.append(
                    phrase(
                        "{id} is gone from {names}, and no rule removed it there", id=point, names=", ".join(taken)
                    )
                )
            if not now and not self._was_let_go(point):
                self.told.append(phrase("{id} is lost: no repository holds its images any more", id=point))
            mark_elsewhere(self.repository.path_of(point), now)
            self.marks[point] = now

    def _forget(self) -> list[str]:
        """Remove points whose images are nowhere because the rules of the remotes that held them let them go.

        Where something else happened the point stays, known as lost.
        """
        forgotten: list[str] = []
        needed = {point.parent for point in self.points.values()}
        for point in sorted((point for point, names in self.marks.items() if not names), reverse=True):
            if point in needed or not self._was_let_go(point) or self._has_images(point):
                continue
            self.repository.withdraw(point)
            del self.marks[point], self.points[point], self.manifests[point]
            self.go = [left for left in self.go if left != point]
            needed = {left.parent for left in self.points.values()}
            forgotten.append(point)
        return forgotten

    def _was_let_go(self, point: str) -> bool:
        """Whether this host removed a point there by the rule, and from wherever else it was shipped to, too."""
        mirrors = self.mirrors.values()
        return any(point in mirror.removed_by_rule() for mirror in mirrors) and not any(
            point in mirror.shipped_by_us() for mirror in mirrors
        )

    def _taken(self, point: str, gone_from: set[str]) -> list[str]:
        return sorted(name for name in gone_from if point not in self.mirrors[name].removed_by_rule())

    def _names_now(self, point: str) -> tuple[str, ...]:
        """Where a point's images are: of the remotes that are not asked, or that nothing is known of yet, since their
        address is new, what its mark says."""
        unasked = {name for name in self.marks.get(point, ()) if not self._is_known(point, name)}
        manifest = self.manifests[point]
        holders = {name for name, mirror in self.mirrors.items() if _holds(mirror, manifest)}
        return tuple(sorted(unasked | holders))

    def _is_known(self, point: str, name: str) -> bool:
        mirror = self.mirrors.get(name)
        return mirror is not None and (
            mirror.read is not None or point in mirror.shipped_by_us() or point in mirror.removed_by_rule()
        )

    def _is_back(self, point: str) -> bool:
        """Whether all images of a marked point are here, and may stay."""
        return point not in self.go and images_are_here(self.repository, self.manifests[point])

    def _has_images(self, point: str) -> bool:
        folder = self.repository.path_of(point)
        return any(disk.file and (folder / disk.file).exists() for disk in self.manifests[point].disks)


def _forget_note(mirrors: Mapping[str, Mirror], folder: str) -> None:
    """In all of them: another one may have been the first by name when it was made."""
    for mirror in mirrors.values():
        mirror.unsettled.forget(folder)


def _holds(mirror: Mirror, manifest: Manifest) -> bool:
    """Whether the remote has the point, in whatever state."""
    if not mirror.repository.path_of(manifest.id).is_dir():
        return False
    there = mirror.repository.examine(manifest.id)
    return isinstance(there, Manifest) and there.uuid == manifest.uuid
