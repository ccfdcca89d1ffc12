"""What stays on this host of points that every remote they go to holds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class KeepLocal(StrEnum):
    """From the most that stays to the least."""

    ALL = "all"
    NEWEST_CHAIN = "newest-chain"
    """The newest point of a VM and what it builds on, so that it can be restored without a server."""
    NOTHING = "nothing"


def keeps_most(wishes: Iterable[KeepLocal]) -> KeepLocal:
    """The wish that keeps the most; everything where nobody wishes anything."""
    wanted = set(wishes)
    return next((wish for wish in KeepLocal if wish in wanted), KeepLocal.ALL)


@dataclass(frozen=True, slots=True)
class LocalPoint:
    """A point that holds data, whether its images are here or not. `shipped`: every remote it goes to holds it."""

    id: str
    parent: str | None
    shipped: bool


def may_go(points: Iterable[LocalPoint], keep: KeepLocal) -> list[str]:
    """The ids of a VM's points whose images need not be here, children first.

    What a point that is not shipped builds on stays with it: until it has arrived it can be restored from here alone.
    In this order each point that still has its images has those of its parents too, wherever one stops.
    """
    by_id = {point.id: point for point in points}
    if keep is KeepLocal.ALL or not by_id:
        return []
    stay: set[str] = set()
    if keep is KeepLocal.NEWEST_CHAIN:
        stay.update(_with_parents(max(by_id), by_id))
    for point in by_id.values():
        if not point.shipped:
            stay.update(_with_parents(point.id, by_id))
    return sorted(by_id.keys() - stay, reverse=True)


def with_children(ids: Iterable[str], points: Iterable[LocalPoint]) -> set[str]:
    """These points, and all that build on them. A parent is older than its child."""
    found = set(ids)
    for point in sorted(points, key=lambda each: each.id):
        if point.parent in found:
            found.add(point.id)
    return found


def _with_parents(id_: str | None, by_id: Mapping[str, LocalPoint]) -> Iterator[str]:
    """A point and what it builds on, as far as that is there. A parent is older than its child."""
    while id_ is not None and id_ in by_id:
        yield id_
        parent = by_id[id_].parent
        id_ = parent if parent is not None and parent < id_ else None
