"""What the restore points of a VM come to, made of what the catalogue knows of each. Pure; sizes in bytes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kvm_backup.domain.inventory import PointFacts
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Newest

_CLOCKS_DIFFER = timedelta(minutes=5)
_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER_TOO_LATE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PointSummary:
    """What counting and chains need of a point; the rest is in its manifest. `bytes_stored` is what is here; `lost`:
    its images were elsewhere only, and no repository holds them any more."""

    id: str
    vm_name: str
    vm_uuid: str
    uuid: str
    created: datetime
    mode: Mode
    parent: str | None
    parent_uuid: str | None
    bytes_stored: int
    lost: bool = False


def facts_of(
    points: Mapping[str, Sequence[PointSummary]],
    damaged: Collection[tuple[str, str]] = frozenset(),
    now: datetime = _NEVER_TOO_LATE,
) -> PointFacts:
    """The points of one VM, by repository.

    `damaged` are repositories and ids of points that were found damaged. Such a point, or one that is lost, and one
    whose chain is not whole or holds such a point, counts and takes its space, but is no good one. One from after
    `now` was made when the clock was wrong: it keeps no promise, as nobody knows how old it is.
    """

    def made(point: PointSummary) -> datetime:
        return _UNKNOWN if now < point.created - _CLOCKS_DIFFER else point.created

    newest: dict[str, Newest] = {}
    best: tuple[str, PointSummary, int] | None = None
    last_snapshot: datetime | None = None
    for repository, some in points.items():
        links = _links(some, {id_ for place, id_ in damaged if place == repository})
        good = [point for point in some if point.id in links]
        data = max((point for point in good if point.mode is not Mode.SNAPSHOT), key=made, default=None)
        snapshot = max((point for point in good if point.mode is Mode.SNAPSHOT), key=made, default=None)
        times = [made(point) for point in (data, snapshot) if point is not None]
        newest[repository] = Newest(made(data) if data else None, max(times, default=None))
        if data is not None and (best is None or made(data) > made(best[1])):
            best = (repository, data, links[data.id])
        if snapshot is not None:
            last_snapshot = max(last_snapshot or snapshot.created, snapshot.created)
    return PointFacts(
        last_point=best[1].id if best else None,
        last_point_at=best[1].created if best else None,
        last_point_mode=best[1].mode if best else None,
        last_point_repository=best[0] if best else None,
        last_snapshot_at=last_snapshot,
        chain_length=best[2] if best else 0,
        points=sum(map(len, points.values())),
        bytes_stored=sum(point.bytes_stored for some in points.values() for point in some),
        newest=newest,
    )


def _links(points: Sequence[PointSummary], damaged: Collection[str]) -> dict[str, int]:
    """How many points the chain of each has up to itself; those whose chain is not whole are left out."""
    links: dict[str, int] = {}
    by_id = {point.id: point for point in points}
    for id_ in sorted(by_id):  # a parent is older than its child, and so comes before it
        point = by_id[id_]
        if id_ in damaged or point.lost:
            continue
        if point.parent is None:
            links[id_] = 1
        elif point.parent in links and by_id[point.parent].uuid == point.parent_uuid:
            links[id_] = links[point.parent] + 1
    return links
