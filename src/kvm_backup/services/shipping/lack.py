"""What a remote lacks of a VM's points, and what it holds too much: the local points beside the mirror."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.names import parse_stamp
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, Mode
from kvm_backup.domain.retention import PointFacts, RetentionRule, Verdict, decide
from kvm_backup.domain.shipping import Shippable, lacking, removable, waiting
from kvm_backup.repository.durable import read_limited
from kvm_backup.repository.elsewhere import elsewhere
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror

_AHEAD = timedelta(days=1)
"""By so much may clocks and their time zones differ; what is dated later was made by nobody yet."""

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Lack:
    """`to_ship`: what waits, parents first. `to_remove`: ids that the remote's rule keeps no longer, children first.
    `held`: what is there as it is here. `verdicts`: what that rule says of each point, oldest first.

    The rule neither counts nor removes points there that are `foreign`, which this host did not ship, as far as it
    knows, or `ahead`, dated in the future. `stuck` cannot be shipped: what they build on is neither there nor here.
    `again` of what waits was shipped before. All these are ids, oldest first.
    """

    to_ship: tuple[Shippable, ...] = ()
    to_remove: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    verdicts: tuple[Verdict, ...] = ()
    foreign: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

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
    """Compare a VM's folder with what the remote holds of it; `rule` is the remote's.

    The rule is asked about all points as if the remote held them, so that nothing is sent only to be removed, and
    what went from here by the rule of this side stays there by its own. There nothing can be consolidated: a point
    that others build on stays. Whoever may only add there could add points that fill the rule: of those that are
    there alone, only what this host shipped counts. Raises StorageError.
    """
    here = list(local.points(local.root / folder))
    there = list(mirror.repository.points(mirror.repository.root / folder))
    known = {point.id: point for point in there if isinstance(point, Manifest)}
    shipped = mirror.shipped_by_us()
    own = {point.id for point in here} | {point.id for point in there if point.id in shipped}
    ahead = {point.id for point in [*there, *here] if _is_ahead(point, now)}
    # What the rule has removed once and is there again, since the server was rolled back, goes again.
    foreign = {point.id for point in there} - own - mirror.removed_by_rule()
    counted = own - ahead
    facts = _facts([point for point in [*there, *here] if point.id in counted])
    verdicts = decide(facts.values(), rule, zone, unchangeable=set(facts))
    ours = [point for point in here if isinstance(point, Manifest)]
    with_files = [point for point in ours if elsewhere(local.path_of(point.id)) is None]
    wanted = {verdict.id for verdict in verdicts if verdict.kept} | ahead
    to_ship = waiting(with_files, known, wanted)
    sent = {one.manifest.id for one in to_ship}
    return Lack(
        to_ship=tuple(to_ship),
        to_remove=tuple(removable(known, wanted | foreign)),
        held=frozenset(point.id for point in ours if known.get(point.id) == point),
        verdicts=tuple(verdicts),
        foreign=tuple(sorted(foreign)),
        ahead=tuple(sorted(ahead - foreign)),
        stuck=tuple(point.id for point in lacking(with_files, known, wanted) if point.id not in sent),
        again=tuple(sorted((sent & shipped) - known.keys())),
    )


def surplus_of(mirror: LocalRepository, folder: str, rule: RetentionRule, zone: ZoneInfo, now: datetime) -> Lack:
    """What a remote that another host ships to holds too much of a VM, by a rule for what is there.

    Nobody here knows who shipped them: all count but those that are dated in the future. Raises StorageError.
    """
    there = list(mirror.points(mirror.root / folder))
    known = {point.id: point for point in there if isinstance(point, Manifest)}
    ahead = {point.id for point in there if _is_ahead(point, now)}
    facts = _facts([point for point in there if point.id not in ahead])
    verdicts = decide(facts.values(), rule, zone, unchangeable=set(facts))
    wanted = {verdict.id for verdict in verdicts if verdict.kept} | ahead
    return Lack(to_remove=tuple(removable(known, wanted)), verdicts=tuple(verdicts), ahead=tuple(sorted(ahead)))


def _is_ahead(point: Manifest | DamagedPoint, now: datetime) -> bool:
    """By its id, which orders the points, or by the time that its manifest tells."""
    dates = [parse_stamp(point.id.rpartition("/")[2])]
    if isinstance(point, Manifest):
        dates.append(point.created)
    return max(dates) - now > _AHEAD


def shown(points: Sequence[str]) -> str:
    """The first of these ids, and how many more there are: whoever may add there could add thousands."""
    more = len(points) - _SHOWN
    return ", ".join([*points[:_SHOWN], *([f"… +{more}"] if more > 0 else [])])


def stuck_in_words(remote: str, points: Sequence[str]) -> str:
    """What `Lack.stuck` means, and what helps."""
    return phrase(
        "{points} cannot be shipped to {name}: what they build on is neither there nor here with its images. A full "
        "backup goes there again, and all that follows it.",
        name=remote,
        points=shown(points),
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


def _facts(points: Iterable[Manifest | DamagedPoint]) -> dict[str, PointFacts]:
    """By id; of a point that is in both places the last one counts, ours, in its newest state."""
    found: dict[str, PointFacts] = {}
    for point in points:
        if isinstance(point, Manifest):
            if point.mode is not Mode.SNAPSHOT:
                found[point.id] = PointFacts(point.id, point.created, point.parent)
        elif point.id not in found:
            created = parse_stamp(point.path.name)
            found[point.id] = PointFacts(point.id, created, None, good=False, readable=False)
    return _on_known_parents(found)


def _on_known_parents(found: dict[str, PointFacts]) -> dict[str, PointFacts]:
    """A point whose parent is in neither place counts as damaged."""
    return {
        fact.id: fact if fact.parent is None or fact.parent in found else replace(fact, good=False)
        for fact in found.values()
    }
