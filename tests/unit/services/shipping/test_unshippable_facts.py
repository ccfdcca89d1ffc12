"""What pages and alerts know of points that a remote cannot get."""

import pytest

from kvm_backup.domain.alert import Condition, Situation, conditions
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.waiting import Unshippable
from kvm_backup.repository.elsewhere import mark_elsewhere
from tests.unit.builders import VM_UUID
from tests.unit.services.shipping.conftest import Harbour


@pytest.fixture
def child(harbour: Harbour) -> Manifest:
    """A point that `away` cannot get: the images of its parent are at `nas` alone."""
    parent = harbour.shelf.add()
    harbour.arrive("nas", parent)
    mark_elsewhere(harbour.shelf.repository.path_of(parent.id), ["nas"])
    point = harbour.shelf.add(parent)
    harbour.application.shipping.mirror("away").note_compared()
    harbour.facts.look_through()
    return point


def known(harbour: Harbour) -> list[Unshippable]:
    return harbour.facts.unshippable.page()


def alerts(harbour: Harbour) -> list[Condition]:
    return list(conditions(Situation(remotes=harbour.facts.states())))


def test_it_is_known_by_remote_and_does_not_count_as_waiting(harbour: Harbour, child: Manifest) -> None:
    folder = child.id.partition("/")[0]
    assert known(harbour) == [Unshippable("away", folder, "web", VM_UUID, (child.id,), next_full=True)]
    assert harbour.waiting() == {("nas", "web"): 1}
    [alert] = alerts(harbour)
    assert (alert.kind, alert.subject.name, alert.severity) == ("points-unshippable", "away", "warning")
    assert alert.facts == {"vms": 1, "points": 1, "names": ["web"]}


def test_a_full_point_ends_the_alert_and_the_older_one_stays_told(harbour: Harbour, child: Manifest) -> None:
    harbour.shelf.add()
    harbour.facts.look_at_changes([("shelf", child.id.partition("/")[0])])
    assert [(one.points, one.next_full) for one in known(harbour)] == [((child.id,), False)]
    assert harbour.waiting()["away", "web"] == 1
    assert alerts(harbour) == []


def test_nobody_is_alarmed_as_long_as_nobody_has_made_sure(harbour: Harbour, child: Manifest) -> None:
    harbour.application.shipping.mirror("away").distrust()
    harbour.facts.look_through()
    assert [(one.unsure, one.next_full) for one in known(harbour)] == [(True, False)]
    assert alerts(harbour) == []


def test_it_is_forgotten_once_what_it_builds_on_is_there_also_after_a_restart(
    harbour: Harbour, child: Manifest
) -> None:
    harbour.restart()
    assert len(known(harbour)) == 1
    harbour.arrive("away", harbour.shelf.repository.load(child.parent or ""))
    before = harbour.facts.revision
    harbour.facts.look_through()
    assert known(harbour) == []
    assert harbour.waiting() == {("nas", "web"): 1, ("away", "web"): 1}
    assert harbour.facts.revision > before


def test_a_vms_points_tell_where_each_cannot_go(harbour: Harbour, child: Manifest) -> None:
    harbour.application.catalogue.refresh(harbour.shelf.repository)
    placed = harbour.application.points.placed(VM_UUID)
    assert [(one.point.id, one.waits, one.never) for one in placed.points if one.here] == [
        (child.id, ("nas",), ("away",))
    ]
    assert placed.unshippable == known(harbour)
