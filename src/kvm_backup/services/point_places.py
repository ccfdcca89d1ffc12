"""Where each restore point of a VM is: here, on which other servers, and where it still goes, or cannot go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.waiting import Unshippable, Waiting
from kvm_backup.services.vm_points import HeldPoint, VmPointList


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """One point, however many repositories hold it.

    `home` is the repository on this host that it was made in, as long as that knows it. `repository` is the one to
    read it from: the one on this host as long as its images are there. `here` tells that, `copies` are the remotes
    that hold it in the same state, `waits` those that it is to be shipped to, `never` those that it should go to and
    cannot. `foreign`: it is at a remote only, and was not shipped by this host.
    """

    repository: str
    point: Manifest
    links: int
    here: bool
    elsewhere: tuple[str, ...] | None = None
    home: str | None = None
    copies: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    foreign: bool = False

    def is_in(self, repository: str) -> bool:
        """Whether a repository holds it, or did."""
        return repository in (self.home, self.repository, *self.copies)


@dataclass(frozen=True, slots=True)
class PlacedPoints:
    """The newest point first. `problems` are repositories that cannot be looked into now, by name; `unshippable`
    tells by remote what cannot be shipped.
    """

    points: Sequence[PlacedPoint]
    problems: Mapping[str, KvmBackupError]
    unshippable: Sequence[Unshippable] = ()


def placed_points(
    local: VmPointList,
    there: VmPointList,
    of: Mapping[str, str | None],
    waiting: Iterable[Waiting],
    unshippable: Sequence[Unshippable] = (),
) -> PlacedPoints:
    """Put the points of a VM on this host beside those that remotes are known to hold.

    `of` gives the local repository that each remote copies.
    """
    waits = _remotes_of(waiting, of)
    never = _remotes_of(unshippable, of)
    own = {(held.repository, held.point.id): held for held in local.points}
    copies: dict[tuple[str, str], list[HeldPoint]] = {}
    alone: list[PlacedPoint] = []
    for held in there.points:
        copied = of.get(held.repository)
        if copied is not None and (copied, held.point.id) in own:
            copies.setdefault((copied, held.point.id), []).append(held)
        else:
            alone.append(_there_alone(held))
    found = [_placed(held, copies.get(key, []), waits.get(key, ()), never.get(key, ())) for key, held in own.items()]
    points = sorted([*found, *alone], key=_age, reverse=True)
    # Of a remote that was not read yet its own page tells.
    return PlacedPoints(points, local.problems, unshippable)


def _remotes_of(
    lines: Iterable[Waiting | Unshippable], of: Mapping[str, str | None]
) -> dict[tuple[str | None, str], list[str]]:
    """The remotes that lines name, by the local repository that they copy and the id of the point."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for line in lines:
        for point in line.points:
            found.setdefault((of.get(line.remote), point), []).append(line.remote)
    return found


def _placed(held: HeldPoint, copies: Iterable[HeldPoint], waits: Iterable[str], never: Iterable[str]) -> PlacedPoint:
    same = tuple(sorted(copy.repository for copy in copies if copy.point == held.point))
    here = held.elsewhere is None
    repository = held.repository if here or not same else same[0]
    return PlacedPoint(
        repository,
        held.point,
        held.links,
        here,
        held.elsewhere,
        held.repository,
        same,
        waits=tuple(sorted(waits)),
        never=tuple(sorted(never)),
    )


def _there_alone(held: HeldPoint) -> PlacedPoint:
    return PlacedPoint(
        held.repository, held.point, held.links, here=False, copies=(held.repository,), foreign=held.foreign
    )


def _age(placed: PlacedPoint) -> tuple[datetime, str, str]:
    return placed.point.created, placed.point.id, placed.repository
