"""The restore points of one VM, in all repositories."""

from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from datetime import datetime

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.inventory import PointFacts
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.point_facts import PointSummary, facts_of
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.local import LocalRepository


@dataclass(frozen=True, slots=True)
class HeldPoint:
    """A point, and the name of the repository that holds it. `links` counts it and those that it builds on.

    `elsewhere` are the repositories that hold its images when that one does not; None: it does. `foreign`: that one
    is at a remote, and this host, which ships there, did not bring the point.
    """

    repository: str
    point: Manifest
    links: int
    elsewhere: tuple[str, ...] | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class VmPointList:
    """The newest point first. `problems` are repositories that cannot be looked into now, by name."""

    points: list[HeldPoint]
    problems: dict[str, KvmBackupError]


def points_everywhere(
    names: Iterable[str],
    open_repository: Callable[[str], LocalRepository],
    catalogue: Catalogue,
    vm_uuid: str,
    foreign_in: Callable[[str], Container[str]] = lambda _name: frozenset(),
) -> VmPointList:
    """The points of a VM as the catalogue knows them, in the repositories of these names.

    `foreign_in` gives the ids of the points of a repository that this host did not bring there.
    """
    found: list[HeldPoint] = []
    problems: dict[str, KvmBackupError] = {}
    for name in names:
        try:
            repository = open_repository(name)
            points = catalogue.points(repository, vm_uuid)
            elsewhere = catalogue.elsewhere(repository, vm_uuid)
            foreign = foreign_in(name)
        except KvmBackupError as error:
            problems[name] = error
            continue
        known = {point.id: point for point in points}
        found += [
            HeldPoint(name, point, _links(point, known), elsewhere.get(point.id), point.id in foreign)
            for point in points
        ]
    return VmPointList(sorted(found, key=lambda held: held.point.created, reverse=True), problems)


def facts_here(points: Iterable[HeldPoint], damaged: Collection[tuple[str, str]], now: datetime) -> PointFacts:
    """What points on this host come to, as `facts_of` counts; `damaged` are names of repositories and ids."""
    by_repository: dict[str, list[PointSummary]] = {}
    for held in points:
        by_repository.setdefault(held.repository, []).append(_summary(held))
    return facts_of(by_repository, damaged, now)


def _summary(held: HeldPoint) -> PointSummary:
    point = held.point
    is_here = held.elsewhere is None
    return PointSummary(
        point.id,
        point.vm_name,
        point.vm_uuid,
        point.uuid,
        point.created,
        point.mode,
        point.parent,
        point.parent_uuid,
        point.bytes_stored if is_here else sum(stored.bytes for stored in point.files),
        lost=held.elsewhere == (),
    )


def _links(point: Manifest, known: dict[str, Manifest]) -> int:
    links, below = 1, known.get(point.parent or "")
    # A parent is always older than its child, so this ends.
    while below is not None:
        links, below = links + 1, known.get(below.parent or "")
    return links
