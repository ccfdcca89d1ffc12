"""Prune: carry out what the retention rule decides about the points of a VM, in one repository.

First the oldest kept points of chains become full ones, then what nobody needs goes, newest first: at no instant does
a point lack its parent. Killed anywhere, the next prune decides the same and finishes. libvirt is not asked: the
newest point, and so the checkpoint that it needs, always stays, and a VM that is long gone can be pruned too.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import CancelledError, KvmBackupError, PointNotFoundError
from kvm_backup.domain.names import FOLDER_PATTERN, parse_stamp
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.retention import PointFacts, RetentionRule, Verdict, decide
from kvm_backup.repository.encryption.staging import remove_unneeded
from kvm_backup.repository.exchange import CONSOLIDATE_PREFIX, OLD_PREFIX, recover
from kvm_backup.repository.local import REMOVED_PREFIX, DamagedPoint, LocalRepository
from kvm_backup.services import events
from kvm_backup.services.consolidate import consolidate_point, damaged_links, links_to_merge, planned_bytes
from kvm_backup.services.control import RunControl, SpaceWatch, refuse_when_stopped
from kvm_backup.services.disk_usage import allocated_bytes
from kvm_backup.services.links import is_unnamed, seem_intact
from kvm_backup.services.verdict_words import explain
from kvm_backup.services.vm_lock import hold_vm

if TYPE_CHECKING:
    from kvm_backup.repository.catalogue import Catalogue  # with SQLAlchemy, which is slow to load


@dataclass(frozen=True, slots=True)
class VmPoints:
    """A VM folder of a repository, and whose it is: the newest name; `vm_uuid` is None when no manifest tells."""

    folder: Path
    vm: str
    vm_uuid: str | None


@dataclass(frozen=True, slots=True)
class PointVerdict:
    """What becomes, or would become, of one point. `consolidated`: it was an incremental and is a full one now."""

    id: str
    created: datetime
    kept: bool
    consolidated: bool
    reasons: tuple[str, ...]
    explanation: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune of one VM did or, with `dry_run`, would do. Bytes are those that the files take on the storage;
    after a dry run `bytes_after` is an estimate."""

    vm: str
    vm_uuid: str
    repository: str
    dry_run: bool
    points: tuple[PointVerdict, ...]
    bytes_before: int
    bytes_after: int
    notices: tuple[str, ...]
    seconds: float

    @property
    def bytes_freed(self) -> int:
        return self.bytes_before - self.bytes_after

    def as_json(self) -> dict[str, Any]:
        """The documented form (docs/cli.md)."""
        points = [
            dataclasses.asdict(point) | {"created": point.created.isoformat(), "reasons": list(point.reasons)}
            for point in self.points
        ]
        return (
            {"event": "pruned"}
            | dataclasses.asdict(self)
            | {"points": points, "notices": list(self.notices), "bytes_freed": self.bytes_freed}
        )


@dataclass(frozen=True, slots=True)
class PruneService:
    """Prunes VMs of one repository. `lock_wait` is in seconds, `space_reserve` in bytes.

    `rule_for` gets a VM's name and UUID; `level` is zstd's, for the few clusters that are compressed anew. `waiting`
    tells which points have yet to be shipped, by id the names of where to. `remotes` are the names of those that the
    settings know: points that are only at others count as damaged.
    """

    repository: LocalRepository
    catalogue: "Catalogue"
    locks: Path
    rule_for: Callable[[str, str], RetentionRule]
    zone: ZoneInfo
    lock_wait: float
    space_reserve: int
    level: int
    listener: events.Listener
    stop_requested: Callable[[], bool]
    remotes: Container[str]
    waiting: Callable[[VmPoints], Mapping[str, str]] = lambda _points: {}

    def run(self, wanted: VmPoints, *, dry_run: bool = False) -> Pruned:
        """Prune one VM. A dry run changes nothing, and does not wait for other runs.

        Raises VmBusyError, CancelledError, StorageError, and PointNotFoundError when no manifest tells whose the
        points are.
        """
        if wanted.vm_uuid is None:
            raise PointNotFoundError(
                phrase(
                    "no point in {folder} can be read, so that it is not known whose they are", folder=wanted.folder
                ),
                hint=phrase("Nothing was changed. 'kvm-backup repository check' tells what is wrong with each."),
                vm=wanted.vm,
            )
        rule = self.rule_for(wanted.vm, wanted.vm_uuid)
        if dry_run:
            return _Prune(self, wanted, rule).preview()
        with hold_vm(self.locks, wanted.vm, wanted.vm_uuid, wait=self.lock_wait, stop_requested=self.stop_requested):
            pruned = _Prune(self, wanted, rule).carry_out()
        self.catalogue.refresh(self.repository)
        return pruned


def vms_with_points(repository: LocalRepository, name: str | None = None) -> list[VmPoints]:
    """The VMs that a repository holds points of; those called `name` (a name, UUID or folder), if given.

    Raises PointNotFoundError when none is called so.
    """
    found = [
        held
        for held in (_owned(repository, folder) for folder in repository.folders())
        if name in (None, held.vm, held.vm_uuid, held.folder.name)
    ]
    if name is not None and not found:
        raise PointNotFoundError(
            phrase("repository {repository} holds no point of a VM {name!r}", repository=repository.name, name=name),
            hint=phrase("See what there is: 'kvm-backup point list'."),
        )
    return found


def points_in(repository: LocalRepository, folder: str) -> VmPoints:
    """The points in a VM's folder of a repository. Raises PointNotFoundError, StorageError."""
    path = repository.root / folder
    if not re.fullmatch(FOLDER_PATTERN, folder) or path.is_symlink() or not path.is_dir():
        raise PointNotFoundError(
            phrase("repository {repository} has no folder {folder}", repository=repository.name, folder=folder),
            hint=phrase("See what there is: 'kvm-backup point list'."),
        )
    return _owned(repository, path)


def _owned(repository: LocalRepository, folder: Path) -> VmPoints:
    stamps = repository.stamps(folder)
    oldest, newest = (_first_readable(repository, folder, order) for order in (stamps, stamps[::-1]))
    if oldest is None or newest is None:
        return VmPoints(folder, folder.name.rpartition("--")[0], None)
    return VmPoints(folder, newest.vm_name, oldest.vm_uuid)


def _first_readable(repository: LocalRepository, folder: Path, stamps: Sequence[str]) -> Manifest | None:
    found = (repository.examine(f"{folder.name}/{stamp}") for stamp in stamps)
    return next((point for point in found if isinstance(point, Manifest)), None)


def points_of(repository: LocalRepository, vm_name: str, vm_uuid: str) -> VmPoints | None:
    """The points of one VM, whatever it was called before; None when there are none. Raises StorageError."""
    folder = repository.folder_of(vm_uuid)
    return None if folder is None else VmPoints(folder, vm_name, vm_uuid)


class _Prune:
    """One prune of one VM."""

    def __init__(self, service: PruneService, wanted: VmPoints, rule: RetentionRule) -> None:
        self._service = service
        self._repository = service.repository
        self._vm = wanted
        self._rule = rule
        self._waiting: Mapping[str, str] = {}
        self._began = time.monotonic()
        self._notices: list[str] = []
        self._manifests: dict[str, Manifest] = {}
        self._facts: dict[str, PointFacts] = {}
        self._unchangeable: set[str] = set()
        self._consolidated: set[str] = set()

    def preview(self) -> Pruned:
        self._read()
        before = allocated_bytes(self._vm.folder)
        verdicts = self._decide()
        after = before
        for verdict in verdicts:
            if not verdict.kept:
                after -= allocated_bytes(self._repository.path_of(verdict.id))
            elif verdict.consolidate:
                manifest = self._manifests[verdict.id]
                self._consolidated.add(verdict.id)
                try:
                    after += planned_bytes(links_to_merge(self._repository, manifest)) - manifest.bytes_stored
                except KvmBackupError as error:
                    self._notice(
                        phrase("{id} could not be consolidated: {cause}", id=verdict.id, cause=error.message)
                    )
        return self._report(verdicts, before, max(0, after), dry_run=True)

    def carry_out(self) -> Pruned:
        before = allocated_bytes(self._vm.folder)
        self._clean_up()
        self._read()
        verdicts = self._consolidate()
        for verdict in reversed(verdicts):
            if not verdict.kept:
                refuse_when_stopped(self._service.stop_requested)
                self._repository.withdraw(verdict.id)
        # What waited encrypted for a remote goes with its point; a shipment clears up the rest.
        remove_unneeded(self._vm.folder, lambda staging: staging.point.is_dir())
        return self._report(verdicts, before, allocated_bytes(self._vm.folder), dry_run=False)

    def _clean_up(self) -> None:
        """What an earlier prune left. Unfinished backups are not its business."""
        for stamp in recover(self._vm.folder):
            self._notice(phrase("put back the point {stamp}, whose consolidation was interrupted", stamp=stamp))
        for partial in self._repository.partials(self._vm.folder):
            if partial.name.startswith((CONSOLIDATE_PREFIX, OLD_PREFIX, REMOVED_PREFIX)):
                self._repository.discard(partial)

    def _read(self) -> None:
        """The folder's points as facts. One that is not readable needs the one before it, as far as we know."""
        self._waiting = self._service.waiting(self._vm)
        previous: str | None = None
        on_images_elsewhere: set[str] = set()
        for point in self._repository.points(self._vm.folder):
            if isinstance(point, DamagedPoint):
                created = parse_stamp(point.path.name)
                self._facts[point.id] = PointFacts(point.id, created, previous, good=False, readable=False)
                self._notice(
                    phrase("{id} cannot be read and is left alone: {cause}", id=point.id, cause=point.error.message)
                )
            elif point.mode is Mode.SNAPSHOT:
                continue
            elif point.vm_uuid != self._vm.vm_uuid:
                self._facts[point.id] = PointFacts(point.id, point.created, point.parent, good=False, readable=False)
                self._notice(
                    phrase(
                        "{id} belongs to another VM ({vm_uuid}) and is left alone", id=point.id, vm_uuid=point.vm_uuid
                    )
                )
            else:
                self._manifests[point.id] = point
                if point.parent in on_images_elsewhere or self._repository.elsewhere(point.id) is not None:
                    on_images_elsewhere.add(point.id)
                self._facts[point.id] = PointFacts(
                    point.id,
                    point.created,
                    point.parent,
                    good=self._looks_good(point),
                    here=self._repository.elsewhere(point.id) is None,
                )
            previous = point.id
        # They cannot be made full ones here; a full one among them needs not.
        self._unchangeable |= on_images_elsewhere

    def _looks_good(self, point: Manifest) -> bool:
        """Whether its files are there with the right sizes, and its parent is the one that it was made on."""
        names = self._repository.elsewhere(point.id)
        if names and is_unnamed(names, self._service.remotes):
            self._notice(
                phrase(
                    "{id} does not count: its images are only where the settings name no repository any more: "
                    "{names}",
                    id=point.id,
                    names=", ".join(names),
                )
            )
            return False
        if names == ():
            self._notice(phrase("{id} is lost: no repository holds its images any more", id=point.id))
            return False
        if not seem_intact(self._repository, [point]):
            self._notice(phrase("{id} is damaged: a file is missing or has another size", id=point.id))
            return False
        parent = self._manifests.get(point.parent) if point.parent else None
        if point.parent is not None and (parent is None or parent.uuid != point.parent_uuid):
            self._notice(phrase("{id} lacks its parent {parent}", id=point.id, parent=point.parent))
            return False
        return True

    def _decide(self) -> list[Verdict]:
        return decide(
            self._facts.values(),
            self._rule,
            self._service.zone,
            unchangeable=self._unchangeable,
            waiting=self._waiting,
        )

    def _consolidate(self) -> list[Verdict]:
        """Make full ones of the points that shall be, oldest first; the verdicts that hold after that.

        A link that turns out to be damaged, or a point that cannot be changed, makes for another decision.
        """
        while True:
            verdicts = self._decide()
            chosen = next((verdict.id for verdict in verdicts if verdict.consolidate), None)
            if chosen is None:
                return verdicts
            refuse_when_stopped(self._service.stop_requested)
            try:
                self._consolidate_one(self._manifests[chosen])
            except CancelledError:
                raise
            except KvmBackupError as error:
                self._unchangeable.add(chosen)
                self._notice(
                    phrase(
                        "{chosen} could not be consolidated and keeps what it builds on: {cause}",
                        chosen=chosen,
                        cause=error.message,
                    )
                )

    def _consolidate_one(self, manifest: Manifest) -> None:
        links = links_to_merge(self._repository, manifest)
        planned = planned_bytes(links)
        watch = SpaceWatch(phrase("restore points"), self._repository.root, self._service.space_reserve)
        watch.check(planned)
        self._service.listener(events.StepStarted(self._vm.vm, events.Step.PRUNE))
        files = sum(link.disk.bytes_stored for chain in links.values() for link in chain)
        control = RunControl(
            stop_requested=self._service.stop_requested,
            watches=(watch,),
            on_progress=lambda done, of: self._service.listener(
                events.Progress(self._vm.vm, events.Step.PRUNE, done, of)
            ),
            total=files + planned,
        )
        damaged = damaged_links(links, control)
        for point_id, cause in damaged.items():
            self._facts[point_id] = dataclasses.replace(self._facts[point_id], good=False)
            self._notice(cause)
        if damaged:
            return
        made = consolidate_point(self._repository, manifest, links, level=self._service.level, control=control)
        self._manifests[made.id] = made
        self._facts[made.id] = dataclasses.replace(self._facts[made.id], parent=None)
        self._consolidated.add(made.id)

    def _report(self, verdicts: list[Verdict], before: int, after: int, *, dry_run: bool) -> Pruned:
        assert self._vm.vm_uuid is not None
        points = tuple(
            PointVerdict(
                id=verdict.id,
                created=self._facts[verdict.id].created,
                kept=verdict.kept,
                consolidated=verdict.id in self._consolidated,
                reasons=tuple(dict.fromkeys(reason.keep.value for reason in verdict.reasons)),
                explanation=explain(verdict, consolidated=verdict.id in self._consolidated, dry_run=dry_run),
            )
            for verdict in verdicts
        )
        return Pruned(
            vm=self._vm.vm,
            vm_uuid=self._vm.vm_uuid,
            repository=self._repository.name,
            dry_run=dry_run,
            points=points,
            bytes_before=before,
            bytes_after=after,
            notices=tuple(self._notices),
            seconds=time.monotonic() - self._began,
        )

    def _notice(self, message: str) -> None:
        self._notices.append(message)
        self._service.listener(events.Notice(self._vm.vm, message))
