"""What a VM's points come to."""

from datetime import UTC, datetime, timedelta
from typing import Any

from kvm_backup.domain.point import Mode
from kvm_backup.domain.point_facts import PointSummary, facts_of
from kvm_backup.domain.protection import Newest

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def point(day: int, parent: int | None = None, **changes: Any) -> PointSummary:
    fields: dict[str, Any] = {
        "id": f"web--1a2b3c4d/2026112{day}T020000Z",
        "vm_name": "web",
        "vm_uuid": "1a2b3c4d-0000-4000-8000-000000000001",
        "uuid": f"uuid-{day}",
        "created": MOMENT + day * DAY,
        "mode": Mode.FULL if parent is None else Mode.INCREMENTAL,
        "parent": None if parent is None else f"web--1a2b3c4d/2026112{parent}T020000Z",
        "parent_uuid": None if parent is None else f"uuid-{parent}",
        "bytes_stored": 100,
    }
    return PointSummary(**fields | changes)


def test_the_newest_point_and_its_chain_are_found_in_any_order() -> None:
    facts = facts_of({"default": [point(3, 2), point(1), point(2, 1), point(0)]})
    assert (facts.last_point, facts.last_point_at) == (point(3).id, MOMENT + 3 * DAY)
    assert (facts.last_point_mode, facts.last_point_repository) == (Mode.INCREMENTAL, "default")
    assert (facts.chain_length, facts.points, facts.bytes_stored) == (3, 4, 400)


def test_of_several_repositories_the_newest_point_of_all_is_the_last_one() -> None:
    facts = facts_of({"near": [point(1)], "far": [point(2)]})
    assert (facts.last_point_repository, facts.points) == ("far", 2)
    assert facts.newest == {
        "near": Newest(MOMENT + DAY, MOMENT + DAY),
        "far": Newest(MOMENT + 2 * DAY, MOMENT + 2 * DAY),
    }


def test_a_snapshot_is_no_last_point() -> None:
    facts = facts_of({"default": [point(1), point(2, mode=Mode.SNAPSHOT)]})
    assert (facts.last_point, facts.last_snapshot_at) == (point(1).id, MOMENT + 2 * DAY)
    assert facts.newest == {"default": Newest(MOMENT + DAY, MOMENT + 2 * DAY)}


def test_what_builds_on_a_missing_foreign_or_damaged_point_is_not_good() -> None:
    chain = [point(0), point(1), point(2, 1), point(3, 2)]
    missing = facts_of({"default": [one for one in chain if one.id != point(1).id]})
    foreign = facts_of({"default": [point(0), point(1, uuid="another"), point(2, 1), point(3, 2)]})
    damaged = facts_of({"default": chain}, {("default", point(1).id)})
    assert [facts.last_point for facts in (missing, foreign, damaged)] == [
        point(0).id,
        point(1).id,
        point(0).id,
    ]
    assert [facts.points for facts in (missing, foreign, damaged)] == [3, 4, 4]


def test_damage_in_one_repository_says_nothing_of_another() -> None:
    both = {"near": [point(1)], "far": [point(1)]}
    assert facts_of(both, {("near", point(1).id)}).last_point_repository == "far"


def test_without_points_nothing_is_known() -> None:
    facts = facts_of({})
    assert (facts.last_point, facts.points, facts.newest) == (None, 0, {})
