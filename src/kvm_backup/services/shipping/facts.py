"""What pages, alerts and metrics know of shipping: kept in tables, because to find it out takes many manifests."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import RLock

from kvm_backup.database.history import History
from kvm_backup.database.lines_by_place import Place
from kvm_backup.database.unshippable_points import UnshippablePoints
from kvm_backup.database.waiting_points import WaitingPoints
from kvm_backup.domain.errors import KvmBackupError, PointNotFoundError
from kvm_backup.domain.run import Run, RunKind, RunState
from kvm_backup.domain.task import PruneTask, ShipTask
from kvm_backup.domain.waiting import (
    RemoteFacts,
    RemoteState,
    ShippingTrouble,
    Unshippable,
    UnshippableSum,
    Waiting,
    WaitingSum,
    is_late,
    worst,
)
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.shipping.departures import Departure, Departures, Problem
from kvm_backup.services.survey.changes import FolderWatch

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one place: what waits, and what cannot be shipped."""

    waiting: Waiting | None = None
    unshippable: Unshippable | None = None


@dataclass(slots=True)
class ShippingFacts:
    """Finds out what waits and what cannot be shipped, everything hourly and what a run has changed after it. Used by
    threads of the service.

    `remotes` gives the local repository that each remote copies, None for one that is only read; `mirror` reads what
    a remote is known to hold, and raises KvmBackupError when that was never read. Each method raises DatabaseError.
    """

    store: WaitingPoints
    unshippable: UnshippablePoints
    departures: Departures
    history: History
    catalogue: Callable[[], Catalogue]
    remotes: Callable[[], Mapping[str, str | None]]
    mirror: Callable[[str], LocalRepository]
    host: str
    clock: Callable[[], datetime]
    revision: int = 0
    """Another one once a row was written."""
    troubles_hold: float = 1.0
    """For how many seconds what is wrong is not looked up again."""
    told: frozenset[str] = frozenset()
    """What was said of the last look at everything."""
    _places: dict[Place, _Known] | None = None
    _facts: dict[str, RemoteFacts] = field(default_factory=dict)
    _troubles: dict[str, ShippingTrouble] = field(default_factory=dict)
    _troubles_until: float = 0.0
    _lock: RLock = field(default_factory=RLock)
    _folders: FolderWatch = field(default_factory=FolderWatch)

    def look_through(self, problem: Problem = lambda _error: None) -> list[Departure]:
        """Look at everything; what waits. `problem` gets what hid the rest."""
        with self._lock:
            before = dict(self._known())
        found: list[Departure] = []
        seen: set[Place] = set()
        changed: dict[Place, _Known] = {}
        departures = self.departures.one_look()
        for local, folder in departures.folders(problem):
            hidden: dict[str, KvmBackupError] = {}
            try:
                # Under the lock, so that what a run has just changed is not overwritten by an older look.
                with self._lock:
                    own = departures.of_folder(local, folder, hidden.__setitem__)
                    changed |= self._take(own)
            except KvmBackupError as error:
                problem(error)
                seen.update(place for place in before if place[1] == folder)  # what was known stays
                continue
            for cause in hidden.values():
                problem(cause)
            found += own
            seen.update((one.remote, folder) for one in own)
            seen.update((remote, folder) for remote in hidden)
            if len(changed) >= _AT_ONCE:
                self._save(changed)
                changed = {}
        remotes = self.remotes()
        away = set(filter(self._is_away, set(remotes.values())))
        with self._lock:
            # What another look has written meanwhile is newer.
            gone = [
                place
                for place, known in before.items()
                if place not in seen and remotes.get(place[0]) not in away and self._known().get(place) is known
            ]
            self._save(changed, gone)
        for name in remotes:
            self._count(name)
        self._forget_remotes(remotes)
        return found

    def look_at(self, ended: Iterable[Run]) -> None:
        """Look at what runs have changed that have just ended."""
        self._look_at_places({place for run in ended for place in self._changed_by(run)})

    def look_at_changes(self, changes: Iterable[tuple[str, str]]) -> None:
        """Look at what commands in other processes have changed: in the mirrors, and `changes`, by local repository
        and folder.
        """
        places = set(changes)
        for name, local in self.remotes().items():
            mirror = self.mirror_if_known(name)
            folders = self._folders.changed(mirror.root) if mirror is not None else set()
            if folders:
                self._count(name, folders=folders)
            if local is not None:
                places.update((local, folder) for folder in folders)
        self._look_at_places(places)

    def _look_at_places(self, places: Iterable[tuple[str, str]]) -> None:
        if not places:
            return
        remotes = self.remotes()
        for local, folder in places:
            copies = [name for name, of in remotes.items() if of == local]
            if not copies:
                continue
            hidden: dict[str, KvmBackupError] = {}
            with self._lock:
                try:
                    own = self.departures.of_folder(local, folder, hidden.__setitem__)
                except PointNotFoundError:
                    own = []
                except KvmBackupError:
                    continue  # the hourly look tells
                changed = self._take(own)
                still = {one.remote for one in own} | hidden.keys()
                gone = [(name, folder) for name in copies if name not in still and (name, folder) in self._known()]
                self._save(changed, gone)

    def note_arrivals(self, ended: Iterable[Run]) -> None:
        """Note when points last arrived, and what the remotes hold since."""
        for run in ended:
            if run.kind is not RunKind.SHIP or not isinstance(run.task, ShipTask):
                continue
            if run.repository in self.remotes():
                arrived = run.ended if run.state is RunState.SUCCEEDED and run.bytes_read else None
                self._count(run.repository, folders=[run.task.folder], arrived=arrived)

    def mirror_if_known(self, name: str) -> LocalRepository | None:
        """What a remote is known to hold; None for one that nobody knows."""
        try:
            return self.mirror(name) if name in self.remotes() else None
        except KvmBackupError:
            return None

    def states(self) -> list[RemoteState]:
        """The remotes that points are shipped to, as alerts judge them."""
        sums, stuck, now = self.store.sums(), self.unshippable.sums(), self.clock()
        self._refresh_troubles()
        states = []
        for name in sorted(name for name, of in self.remotes().items() if of is not None):
            waiting = sums.get(name, WaitingSum())
            trouble, cannot = self._troubles.get(name), stuck.get(name, UnshippableSum())
            states.append(RemoteState(name, waiting, is_late(waiting, now), trouble, cannot))
        return states

    def _refresh_troubles(self) -> None:
        """A run that tries again has no error while it does: what was wrong holds until bytes move.

        Every page asks, so that it is looked up once in a while only: with thousands of runs that wait it takes time.
        """
        asked = time.monotonic()
        if asked < self._troubles_until:
            return
        self._troubles_until = asked + self.troubles_hold
        found: dict[str, list[ShippingTrouble]] = {}
        for trouble in self.history.shipping_troubles(self.host):
            found.setdefault(trouble.remote, []).append(trouble)
        trying = {
            run.repository
            for run in self.history.running(self.host, RunKind.SHIP)
            if run.attempt > 1 and not run.done
        }
        before = {name: trouble for name, trouble in self._troubles.items() if name in trying}
        self._troubles = before | {name: worst(troubles) for name, troubles in found.items()}

    def _changed_by(self, run: Run) -> Iterator[tuple[str, str]]:
        """The local repository and folder whose points a run may have made, removed or shipped."""
        remotes = self.remotes()
        folder = (run.point or "").partition("/")[0]
        if isinstance(run.task, PruneTask | ShipTask):
            folder = run.task.folder
        local = remotes.get(run.repository) if run.kind is RunKind.SHIP else run.repository
        shipped = run.kind in (RunKind.BACKUP, RunKind.PRUNE, RunKind.SHIP)
        if shipped and folder and local is not None and local in remotes.values():
            yield local, folder

    def _take(self, departures: Iterable[Departure]) -> dict[Place, _Known]:
        """Note what waits of one VM, and what cannot be shipped; what of it is new. The caller holds the lock."""
        known, now = self._known(), self.clock()
        changed = {}
        for one in departures:
            place = one.remote, one.points.folder.name
            before = known.get(place, _Known())
            found = _Known(_waiting(one, before.waiting, now), _unshippable(one))
            if found != before:
                known[place] = changed[place] = found
        return changed

    def _save(self, changed: Mapping[Place, _Known], gone: Iterable[Place] = ()) -> None:
        with self._lock:
            places = list(gone)
            for place in places:
                self._known().pop(place, None)
            waiting = {place: one.waiting for place, one in changed.items()}
            stuck = {place: one.unshippable for place, one in changed.items()}
            self.store.save([one for one in waiting.values() if one], [*places, *_without(waiting)])
            self.unshippable.save([one for one in stuck.values() if one], [*places, *_without(stuck)])
            self.revision += bool(changed or places)

    def _known(self) -> dict[Place, _Known]:
        if self._places is None:
            waiting, stuck = self.store.load(), self.unshippable.load()
            self._places = {
                place: _Known(waiting.get(place), stuck.get(place)) for place in waiting.keys() | stuck.keys()
            }
            self._facts = self.store.remotes()
        return self._places

    def _is_away(self, local: str | None) -> bool:
        """Whether a local repository cannot be looked into: what was known of it stays."""
        try:
            return local is not None and not self.departures.open_repository(local)
        except KvmBackupError:
            return True

    def _count(self, name: str, *, folders: Iterable[str] | None = None, arrived: datetime | None = None) -> None:
        """Note what a remote holds; only some VMs' folders are looked at, where they are given."""
        try:
            mirror, catalogue = self.mirror(name), self.catalogue()
            if folders is None:
                catalogue.refresh(mirror)
            for folder in folders or ():
                catalogue.refresh_folder(mirror, folder)
            points, stored, vms = catalogue.held(mirror.catalogue_key)
        except KvmBackupError:
            return  # never read yet, or of another repository, which who asks for it is told
        with self._lock:
            self._known()
            before = self._facts.get(name, RemoteFacts(name))
            facts = replace(before, points=points, bytes=stored, vms=vms, shipped_at=arrived or before.shipped_at)
            if facts != self._facts.get(name):
                self.store.note_remote(facts)
                self._facts[name] = facts
                self.revision += 1

    def _forget_remotes(self, remotes: Mapping[str, str | None]) -> None:
        with self._lock:
            for name in [name for name in self._facts if name not in remotes]:
                self.store.forget_remote(name)
                del self._facts[name]


def _waiting(one: Departure, before: Waiting | None, now: datetime) -> Waiting | None:
    """What waits since now, but for what was known to wait."""
    assert one.points.vm_uuid is not None
    if not one.lack.to_ship:
        return None
    since = before.points if before else {}
    return Waiting(
        one.remote,
        one.points.folder.name,
        one.points.vm,
        one.points.vm_uuid,
        one.lack.bytes,
        {point.manifest.id: since.get(point.manifest.id, now) for point in one.lack.to_ship},
    )


def _unshippable(one: Departure) -> Unshippable | None:
    assert one.points.vm_uuid is not None
    if not one.lack.stuck:
        return None
    return Unshippable(
        one.remote,
        one.points.folder.name,
        one.points.vm,
        one.points.vm_uuid,
        one.lack.stuck,
        next_full=one.lack.newest_stuck and not one.unsure,
        unsure=one.unsure,
    )


def _without(lines: Mapping[Place, object]) -> list[Place]:
    return [place for place, line in lines.items() if line is None]
