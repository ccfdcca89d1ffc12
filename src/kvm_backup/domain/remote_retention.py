"""What a remote should hold of a VM's points, and what stays of those that it holds. Pure rules.

Two questions to one retention rule. What should be there is asked about all points as if they were there, so that
nothing is sent only to be removed. What stays there is asked about those alone that are there: one that waits, is
lost, or cannot arrive takes no other one's place. So the newest point that is whole there always stays, with all that
it builds on (invariant 6).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from kvm_backup.domain.names import parse_stamp
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.retention import PointFacts, RetentionRule, Verdict, decide
from kvm_backup.domain.shipping import waiting, whole


@dataclass(frozen=True, slots=True)
class Sides:
    """What is known of a VM's points, by id: `here` and `there` their manifests, oldest first.

    `with_images` are the points here whose files are here, too, as far as that is known without reading them.
    `unreadable` have no manifest that can be read: here, or (`unreadable_there`) at the remote.
    """

    here: Mapping[str, Manifest]
    there: Mapping[str, Manifest]
    with_images: Collection[str] = ()
    unreadable: Collection[str] = ()
    unreadable_there: Collection[str] = ()
    whole_there: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole_there", frozenset(whole(self.there)))

    def wanted(self, counted: Collection[str], rule: RetentionRule, zone: ZoneInfo) -> list[Verdict]:
        """What the rule says of the `counted` points as if the remote held them all, oldest first. A point is good
        when it is whole there, or can become so.
        """
        sendable = [point for point in self.here.values() if point.id in self.with_images]
        intact = {point: manifest for point, manifest in self.there.items() if point in self.whole_there}
        arriving = {one.manifest.id for one in waiting(sendable, intact, self.here.keys())}
        points = {**self.there, **self.here}
        unreadable = {*self.unreadable, *self.unreadable_there}
        return _verdicts(points, self.whole_there | arriving, unreadable, counted, rule, zone)

    def kept_there(
        self, own: Collection[str], back: Collection[str], rule: RetentionRule, zone: ZoneInfo
    ) -> list[Verdict]:
        """What the rule says of those points that are there, oldest first.

        `back` was removed by the rule before, and is there again. Nobody knows who brought it: it takes no place of
        one of our `own`, but stays where the rule would keep it beside them.
        """
        verdicts = [
            _verdicts(self.there, self.whole_there, self.unreadable_there, counted, rule, zone)
            for counted in (own, {*own, *back})
        ]
        of_own = {verdict.id: verdict for verdict in verdicts[0] if verdict.kept}
        return [of_own.get(verdict.id, verdict) for verdict in verdicts[1]]

    def newest_whole_there(self, among: Collection[str]) -> tuple[Manifest, ...]:
        """The newest of these points that is whole there, and what it builds on, full one first; () if none is."""
        newest = max((point for point in among if point in self.whole_there), default=None)
        chain: list[Manifest] = []
        while newest is not None:
            chain.insert(0, self.there[newest])
            newest = chain[0].parent
        return tuple(chain)


def _verdicts(
    points: Mapping[str, Manifest],
    good: Collection[str],
    unreadable: Iterable[str],
    counted: Collection[str],
    rule: RetentionRule,
    zone: ZoneInfo,
) -> list[Verdict]:
    """Nothing can be consolidated there. What a good point builds on is there, whether it counts or not."""
    known = {id_: point for id_, point in points.items() if id_ in counted and point.mode is not Mode.SNAPSHOT}
    facts = [
        PointFacts(id_, point.created, point.parent if point.parent in known else None, good=id_ in good)
        for id_, point in known.items()
    ]
    facts += [
        PointFacts(id_, parse_stamp(id_.rpartition("/")[2]), None, good=False, readable=False)
        for id_ in unreadable
        if id_ in counted and id_ not in known
    ]
    return decide(facts, rule, zone, unchangeable={fact.id for fact in facts})
