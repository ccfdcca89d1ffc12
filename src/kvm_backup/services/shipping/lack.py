"""What a remote lacks of a VM's points, and what it holds too much: the local points beside the mirror."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.names import parse_stamp
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, Mode
from kvm_backup.domain.remote_retention import Sides
from kvm_backup.domain.retention import RetentionRule, Verdict
from kvm_backup.domain.shipping import Shippable, lacking, removable, waiting
from kvm_backup.repository.durable import read_limited
from kvm_backup.repository.elsewhere import elsewhere
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services.links import images_are_here

_AHEAD = timedelta(days=1)
"""By so much may clocks and their time zones differ; what is dated later was made by nobody yet."""

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Lack:
    """`to_ship`: what waits, parents first. `to_remove`: ids that the remote's rule keeps no longer, children first.
    `held`: what is there as it is here. `verdicts`: what that rule says of each point as if the remote held it, and
    `verdicts_there` of those alone that are there, both oldest first. `kept_there`: what stays there, oldest first;
    `newest_there`: of that the newest point that is whole, with what it builds on, full one first.

    The rule neither counts nor removes points there that are `foreign`, which this host did not ship, as far as it
    knows, and has not here, or `ahead`, dated in the future. `stuck` cannot be shipped: what they build on is neither
    there nor here. `again` of what waits was shipped before. All these are ids, oldest first. `newest_stuck`: so is
    the newest point here, and with it whatever would be built on it.
    """

    to_ship: tuple[Shippable, ...] = ()
    to_remove: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    verdicts: tuple[Verdict, ...] = ()
    verdicts_there: tuple[Verdict, ...] = ()
    newest_there: tuple[Manifest, ...] = ()
    kept_there: tuple[Manifest, ...] = ()
    foreign: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    newest_stuck: bool = False

    @property
    def bytes(self) -> int:
        """What the files that wait take here."""
        return sum(one.manifest.bytes_stored for one in self.to_ship)

    @property
    def since(self) -> datetime | None:
        """When the oldest point that waits was made."""
        return min((one.manifest.finished for one in self.to_ship), default=None)


def lack_of(
    local: LocalRepository, mirror: Mirror, folder: str, rule: RetentionRule, zone: ZoneInfo, now: datetime
) -> Lack:
    """Compare a VM's folder with what the remote holds of it; `rule` is the remote's (domain/remote_retention.py).

    What went from here by the rule of this side stays there by its own. There nothing can be consolidated: a point
    that others build on stays. Whoever may only add there could add points that fill the rule: of those that are
    there alone, only what this host shipped counts. Raises StorageError.
    """
    here = list(local.points(local.root / folder))
    there = list(mirror.repository.points(mirror.repository.root / folder))
    known = _manifests(there)
    origins = mirror.origins(point.id for point in there)
    own = {point.id for point in here} | origins.shipped
    ahead = {point.id for point in [*there, *here] if _is_ahead(point, now, is_own=point.id in own)}
    back, foreign = set(origins.back - own), origins.foreign - own
    ours = list(_manifests(here).values())
    with_files = [point for point in ours if elsewhere(local.path_of(point.id)) is None]
    sides = Sides(
        here=_manifests(here),
        there=known,
        with_images={
            point.id for point in with_files if known.get(point.id) == point or images_are_here(local, point)
        },
        unreadable={point.id for point in here if isinstance(point, DamagedPoint)},
        unreadable_there={point.id for point in there if isinstance(point, DamagedPoint)},
    )
    verdicts = sides.wanted(own - ahead, rule, zone)
    wanted = _kept(verdicts) | ahead
    # Nothing of ours is put on what somebody else may have put there.
    ours_there = {id_: point for id_, point in known.items() if id_ in own}
    to_ship = waiting(with_files, ours_there, wanted)
    sent = {one.manifest.id for one in to_ship}
    stuck = tuple(point.id for point in lacking(with_files, ours_there, wanted) if point.id not in sent)
    newest = max((point.id for point in ours if point.mode is not Mode.SNAPSHOT), default=None)
    return replace(
        _of_there(sides, own - ahead, back - ahead, wanted | foreign, rule, zone),
        to_ship=tuple(to_ship),
        held=frozenset(point.id for point in ours if known.get(point.id) == point),
        verdicts=tuple(verdicts),
        foreign=tuple(sorted(foreign)),
        ahead=tuple(sorted(ahead - foreign)),
        stuck=stuck,
        newest_stuck=newest in stuck,
        again=tuple(sorted((sent & mirror.shipped_by_us()) - known.keys())),
    )


def surplus_of(mirror: LocalRepository, folder: str, rule: RetentionRule, zone: ZoneInfo, now: datetime) -> Lack:
    """What a remote that another host ships to holds too much of a VM, by a rule for what is there.

    Nobody here knows who shipped them: all count but those that are dated in the future. Raises StorageError.
    """
    there = list(mirror.points(mirror.root / folder))
    ahead = {point.id for point in there if _is_ahead(point, now)}
    unreadable = {point.id for point in there if isinstance(point, DamagedPoint)}
    sides = Sides(here={}, there=_manifests(there), unreadable_there=unreadable)
    found = _of_there(sides, {point.id for point in there} - ahead, set(), ahead, rule, zone)
    return replace(found, verdicts=found.verdicts_there, ahead=tuple(sorted(ahead)))


def _of_there(
    sides: Sides, own: set[str], back: set[str], untouched: set[str], rule: RetentionRule, zone: ZoneInfo
) -> Lack:
    """What goes there and what stays; `untouched` stays in any case."""
    verdicts = sides.kept_there(own, back, rule, zone)
    to_remove = removable(sides.there, _kept(verdicts) | untouched)
    return Lack(
        to_remove=tuple(to_remove),
        verdicts_there=tuple(verdicts),
        newest_there=sides.newest_whole_there(own | back),
        kept_there=tuple(sides.there[point] for point in sorted((own | back) & sides.there.keys() - set(to_remove))),
    )


def _manifests(points: Iterable[Manifest | DamagedPoint]) -> dict[str, Manifest]:
    return {point.id: point for point in points if isinstance(point, Manifest)}


def _kept(verdicts: Iterable[Verdict]) -> set[str]:
    return {verdict.id for verdict in verdicts if verdict.kept}


def _is_ahead(point: Manifest | DamagedPoint, now: datetime, *, is_own: bool = False) -> bool:
    """By its id, which orders the points, or by the time that its manifest tells. The ids of our own go on from the
    newest one, also when that was made while the clock was wrong: what is our own is judged by its manifest alone.
    """
    if isinstance(point, Manifest) and is_own:
        return point.created - now > _AHEAD
    dates = [parse_stamp(point.id.rpartition("/")[2])]
    if isinstance(point, Manifest):
        dates.append(point.created)
    return max(dates) - now > _AHEAD


def shown(points: Sequence[str]) -> str:
    """The first of these ids, and how many more there are: whoever may add there could add thousands."""
    more = len(points) - _SHOWN
    return ", ".join([*points[:_SHOWN], *([f"… +{more}"] if more > 0 else [])])


def stuck_in_words(remote: str, lack: Lack, *, unsure: bool = False) -> str:
    """What `Lack.stuck` means, and what comes of it; `unsure`: nobody has made sure of what is there."""
    if unsure:
        outcome = phrase("The next shipment looks whether that is so.")
    elif lack.newest_stuck:
        outcome = phrase("The next backup will be a full one: it goes there again, and all that follows it.")
    else:
        outcome = phrase("Newer points do not need them.")
    return phrase(
        "{points} cannot be shipped to {name}: what they build on is neither there nor here with its images. "
        "{outcome}",
        name=remote,
        points=shown(lack.stuck),
        outcome=outcome,
    )


def own_points(local: LocalRepository, mirror: Mirror) -> list[str]:
    """The ids of what the remote holds in the very state that it has here. Raises StorageError."""
    view = mirror.repository
    return [
        f"{folder.name}/{stamp}"
        for folder in view.folders()
        for stamp in view.stamps(folder)
        if (here := _bytes(local, f"{folder.name}/{stamp}")) and here == _bytes(view, f"{folder.name}/{stamp}")
    ]


def lacks_nothing(local: LocalRepository, mirror: LocalRepository, folder: str) -> bool:
    """Whether all points here are there with the same manifests: quick, and says nothing of what is to be removed."""
    there = set(mirror.stamps(mirror.root / folder))
    return all(
        stamp in there and _bytes(local, f"{folder}/{stamp}") == _bytes(mirror, f"{folder}/{stamp}")
        for stamp in local.stamps(local.root / folder)
    )


def _bytes(repository: LocalRepository, point: str) -> bytes | None:
    try:
        return read_limited(repository.path_of(point) / MANIFEST_FILE, MANIFEST_BYTES_MAX)
    except KvmBackupError:
        return None
