"""Where the points of a VM go, and what of them waits to be shipped. Pure rules.

A *remote* is a repository on another server that copies a local one. A point *waits* for a remote when that should
hold it and does not, or holds it in another state: as the incremental that it was before it was consolidated.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, Mode


def marked_places(names: Iterable[str], remotes: Container[str]) -> list[str]:
    """Names of remotes as people are told of them; a phrase of one that is not in the settings."""
    return [name if name in remotes else phrase("{name} (not in the settings)", name=name) for name in names]


def remotes_of_vm(
    remotes: Collection[str], own: Sequence[str] | None, schedules: Iterable[Sequence[str] | None]
) -> list[str]:
    """The remotes that a VM's points go to, in the order of `remotes`, which are those of its local repository.

    `own` is what the settings say of the VM, None: nothing. Else all that the `schedules` name which back it up; one
    of those that names none means every remote. Without schedules, too, every remote.
    """
    wishes = [own] if own is not None else list(schedules)
    if not wishes or any(wish is None for wish in wishes):
        return list(remotes)
    wanted = {name for wish in wishes for name in wish or ()}
    return [name for name in remotes if name in wanted]


@dataclass(frozen=True, slots=True)
class Shippable:
    """A point to send. `base` is an older point of the VM that the server has and that much of this one is in:
    what they share does not cross."""

    manifest: Manifest
    base: Manifest | None = None


def waiting(here: Sequence[Manifest], there: Mapping[str, Manifest], wanted: Collection[str]) -> list[Shippable]:
    """What a remote lacks of a VM's points, parents first.

    `here` are the local points, oldest first, whose files are here; `there` is what the remote holds, by id; `wanted`
    are the ids that its retention keeps. A snapshot's disks stay on the host, so that it is not shipped; nor is a
    point whose parent the remote neither holds nor gets, because its files are here no longer: it would restore
    nothing.
    """
    uuids = {point.id: point.uuid for point in there.values()}
    found = []
    for point in lacking(here, there, wanted):
        if point.parent is None or uuids.get(point.parent) == point.parent_uuid:
            found.append(Shippable(point, _base(there.get(point.id), there)))
            uuids[point.id] = point.uuid
    return found


def lacking(here: Sequence[Manifest], there: Mapping[str, Manifest], wanted: Collection[str]) -> list[Manifest]:
    """What of the local points a remote should hold, as `waiting`, whether it can be sent or not."""
    return [
        point
        for point in here
        if point.id in wanted and point.mode is not Mode.SNAPSHOT and there.get(point.id) != point
    ]


def whole(points: Mapping[str, Manifest]) -> set[str]:
    """The ids of those points whose chain is all among them, down to the full one that it was made on."""
    found: set[str] = set()
    for point in sorted(points.values(), key=lambda each: each.id):  # a parent is older than its child
        parent = points.get(point.parent) if point.parent else None
        if point.parent is None or (parent is not None and parent.id in found and parent.uuid == point.parent_uuid):
            found.add(point.id)
    return found


def removable(there: Mapping[str, Manifest], wanted: Collection[str]) -> list[str]:
    """The points of a remote that it need not keep, children first: not wanted, and no wanted one there, in the state
    that it is in there, builds on them.
    """
    stay: set[str] = set()
    for point in there:
        if point in wanted:
            link: str | None = point
            while link is not None and link in there and link not in stay:
                stay.add(link)
                link = there[link].parent
    return sorted(there.keys() - stay, reverse=True)


def _base(before: Manifest | None, there: Mapping[str, Manifest]) -> Manifest | None:
    """The bottom of the chain that a point stood on before it was consolidated: most of it came from there."""
    found = before
    while found is not None and found.parent is not None and found.parent in there:
        found = there[found.parent]
    return found
