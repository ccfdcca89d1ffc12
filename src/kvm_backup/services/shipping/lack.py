"""What a remote lacks of a VM's points, and what it holds too much: the local points beside the mirror."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.names import parse_stamp
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, Mode
from kvm_backup.domain.retention import PointFacts, RetentionRule, Verdict, decide
from kvm_backup.domain.shipping import Shippable, removable, waiting
from kvm_backup.repository.durable import read_limited
from kvm_backup.repository.elsewhere import elsewhere
from kvm_backup.repository.local import DamagedPoint, LocalRepository


@dataclass(frozen=True, slots=True)
class Lack:
    """`to_ship`: what waits, parents first. `to_remove`: ids that the remote's rule keeps no longer, children first.
    `held`: what is there as it is here. `verdicts`: what that rule says of each point, oldest first."""

    to_ship: tuple[Shippable, ...] = ()
    to_remove: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def bytes(self) -> int:
        """What the files that wait take here."""
        return sum(one.manifest.bytes_stored for one in self.to_ship)

    @property
    def since(self) -> datetime | None:
        """When the oldest point that waits was made."""
        return min((one.manifest.finished for one in self.to_ship), default=None)


def lack_of(
    local: LocalRepository, mirror: LocalRepository, folder: str, rule: RetentionRule, zone: ZoneInfo
) -> Lack:
    """Compare a VM's folder with what the remote holds of it; `rule` is the remote's.

    The rule is asked about all points as if the remote held them, so that nothing is sent only to be removed, and
    what went from here by the rule of this side stays there by its own. There nothing can be consolidated: a point
    that others build on stays. Raises StorageError.
    """
    here = list(local.points(local.root / folder))
    there = list(mirror.points(mirror.root / folder))
    known = {point.id: point for point in there if isinstance(point, Manifest)}
    facts = _facts([*there, *here])
    everything = set(facts)
    verdicts = decide(facts.values(), rule, zone, unchangeable=everything)
    wanted = {verdict.id for verdict in verdicts if verdict.kept}
    ours = [point for point in here if isinstance(point, Manifest)]
    with_files = [point for point in ours if elsewhere(local.path_of(point.id)) is None]
    return Lack(
        to_ship=tuple(waiting(with_files, known, wanted)),
        to_remove=tuple(removable(known, wanted)),
        held=frozenset(point.id for point in ours if known.get(point.id) == point),
        verdicts=tuple(verdicts),
    )


def surplus_of(mirror: LocalRepository, folder: str, rule: RetentionRule, zone: ZoneInfo) -> Lack:
    """What a remote that another host ships to holds too much of a VM, by a rule for what is there.

    Raises StorageError.
    """
    there = list(mirror.points(mirror.root / folder))
    known = {point.id: point for point in there if isinstance(point, Manifest)}
    facts = _facts(there)
    verdicts = decide(facts.values(), rule, zone, unchangeable=set(facts))
    wanted = {verdict.id for verdict in verdicts if verdict.kept}
    return Lack(to_remove=tuple(removable(known, wanted)), verdicts=tuple(verdicts))


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
