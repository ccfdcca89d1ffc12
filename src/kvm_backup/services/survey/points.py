"""What the repositories hold of each VM, from the catalogue."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path

from kvm_backup.domain.alert import Damage
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point_facts import PointSummary, facts_of
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services.survey.changes import FolderWatch
from kvm_backup.services.survey.ledger import Ledger

_BATCH = 500
_DEEP = "deep verify"

Repositories = Mapping[str, Callable[[], LocalRepository]]
"""What opens each repository, by its name; raises KvmBackupError."""


@dataclass(slots=True)
class PointWatch:
    """Looks through all repositories of this host hourly, and at one VM's folder after each of its runs."""

    ledger: Ledger
    catalogue: Callable[[], Catalogue]
    mirror: Callable[[str], LocalRepository | None] = lambda _name: None
    """What a repository on another server is known to hold, by its name; None for any other name."""
    away: dict[str, KvmBackupError] = field(default_factory=dict)
    roots: dict[str, Path] = field(default_factory=dict)
    """Of the repositories that are there."""
    samples: dict[str, SpaceSample] = field(default_factory=dict)
    damages: dict[tuple[str, str], Damage] = field(default_factory=dict)
    """By repository and point; those that a verification found stay until the point is gone or found whole."""
    _ids: dict[str, str] = field(default_factory=dict)
    _folders: FolderWatch = field(default_factory=FolderWatch)

    def look_through(self, repositories: Repositories, now: datetime) -> None:
        """Read what is new or changed everywhere. Raises KvmBackupError when the catalogue cannot be used."""
        catalogue = self.catalogue()
        self.away.clear()
        self.samples.clear()
        for name, open_repository in repositories.items():
            try:
                repository = open_repository()
                self._folders.changed(repository.root)  # all of it is looked at now
                found = catalogue.refresh(repository)
                self.roots[name], self._ids[name] = repository.root, repository.id
            except KvmBackupError as error:
                self.away[name] = error
                self.roots.pop(name, None)
                continue
            self._note_damaged(name, found, folder=None)
            sample = _sample(repository.root, catalogue.bytes_stored(repository.id), now)
            if sample is not None:
                self.samples[name] = sample
        for name in [name for name in self._ids if name not in repositories]:
            self.roots.pop(name, None)
            del self._ids[name]
        self._folders.keep_only(self.roots.values())
        self._forget_damages_of_points_that_are_gone(repositories)
        known = {uuid for id_ in self._ids.values() for uuid in catalogue.vms(id_)}
        self._count(catalogue, known | {record.uuid for record in self.ledger}, now)

    def look_at(self, repositories: Repositories, changes: Iterable[tuple[str, str, str]], now: datetime) -> None:
        """Read what is new or changed of some VMs: repository, folder of the VM in it, UUID of the VM."""
        catalogue = self.catalogue()
        touched = set()
        for name, folder, uuid in changes:
            with suppress(KvmBackupError):  # the hourly look tells that it is away
                repository = repositories[name]() if name in repositories else None
                if repository is None:
                    continue
                self.roots[name], self._ids[name] = repository.root, repository.id
                self._note_damaged(name, catalogue.refresh_folder(repository, folder), folder)
                touched.add(uuid)
        self._count(catalogue, touched, now)

    def look_at_changes(self, repositories: Repositories, now: datetime, sampled: datetime) -> set[tuple[str, str]]:
        """Read what commands of other processes have changed; repository and folder of each.

        The samples taken at the time `sampled` are taken anew where something changed.
        """
        catalogue = self.catalogue()
        self.samples.clear()
        changes: set[tuple[str, str]] = set()
        touched: set[str] = set()
        for name, root in self.roots.items():
            folders = self._folders.changed(root)
            if not folders or name not in repositories:
                continue
            with suppress(KvmBackupError):  # the hourly look tells that it is away
                repository = repositories[name]()
                for folder in folders:
                    touched |= catalogue.vms_in(repository.id, folder)
                    self._note_damaged(name, catalogue.refresh_folder(repository, folder), folder)
                    touched |= catalogue.vms_in(repository.id, folder)
                    changes.add((name, folder))
                sample = _sample(repository.root, catalogue.bytes_stored(repository.id), sampled)
                if sample is not None:
                    self.samples[name] = sample
        self._count(catalogue, touched, now)
        return changes

    def verified(
        self, repository: str, folder: str, point: str | None, damaged: Mapping[str, str], *, deep: bool
    ) -> None:
        """Take what a verification found: of all points in a VM's folder, or of one and those it builds on.

        `damaged` are ids of points and what is wrong with each. What a deep one found, only a deep one takes back.
        """
        looked_at = None if point is None else self._chain(repository, point)
        for key, damage in list(self.damages.items()):
            mine = key[0] == repository and key[1].startswith(f"{folder}/")
            if mine and (looked_at is None or key[1] in looked_at) and (deep or damage.found_by != _DEEP):
                del self.damages[key]
        for id_, message in damaged.items():
            self.damages[repository, id_] = Damage(id_, repository, message, _DEEP if deep else "verify")

    def _chain(self, repository: str, point: str | None) -> set[str]:
        """A point and those it builds on, as far as the catalogue knows them."""
        chain: set[str] = set()
        while point is not None:
            chain.add(point)
            key = self._key(repository)
            point = self.catalogue().parent(key, point) if key is not None else None
        return chain

    def _key(self, repository: str) -> str | None:
        """What the catalogue knows a repository by."""
        mirror = None if repository in self._ids else self.mirror(repository)
        return self._ids.get(repository) if mirror is None else mirror.catalogue_key

    def _note_damaged(self, name: str, found: list[DamagedPoint], folder: str | None) -> None:
        for key, damage in list(self.damages.items()):
            looked_at = key[0] == name and (folder is None or key[1].startswith(f"{folder}/"))
            if looked_at and damage.found_by == "manifest":
                del self.damages[key]
        for point in found:
            self.damages[name, point.id] = Damage(point.id, name, point.error.message, "manifest")

    def _forget_damages_of_points_that_are_gone(self, repositories: Repositories) -> None:
        for name, point in list(self.damages):
            mirror = None if name in repositories else self.mirror(name)
            root = self.roots.get(name) if mirror is None else mirror.root
            known = name in repositories or mirror is not None
            if not known or (root is not None and not (root / point).is_dir()):
                del self.damages[name, point]

    def _count(self, catalogue: Catalogue, uuids: Iterable[str], now: datetime) -> None:
        wanted = sorted(uuids)
        for at in range(0, len(wanted), _BATCH):
            some = wanted[at : at + _BATCH]
            points: dict[str, dict[str, list[PointSummary]]] = {uuid: {} for uuid in some}
            for name, id_ in self._ids.items():
                for uuid, own in groupby(catalogue.summaries(id_, some), key=lambda point: point.vm_uuid):
                    points[uuid][name] = list(own)
            for uuid in some:
                self._take(uuid, points[uuid], now)

    def _take(self, uuid: str, points: Mapping[str, list[PointSummary]], now: datetime) -> None:
        known = self.ledger.get(uuid)
        if known is None:
            if not points:
                return
            newest = max((point for own in points.values() for point in own), key=lambda point: point.created)
            known = VmRecord(uuid, newest.vm_name, gone_since=now)
        if any(name in self.away and name not in self._ids for name in known.points.newest):
            return  # a repository with points of it is away, and was so when the service started: all stays as known
        facts = facts_of(points, self.damages.keys(), now)
        if known.gone and not facts.points:
            self.ledger.remove(uuid)
        else:
            self.ledger.put(replace(known, points=facts))


def _sample(root: Path, used: int, now: datetime) -> SpaceSample | None:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return None
    return SpaceSample(now, used, usage.free, usage.total)
