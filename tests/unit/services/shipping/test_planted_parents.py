"""A point of this host's whose parent at a remote may be somebody else's."""

from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import ForeignPointError
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.services.shipping.lack import lack_of
from kvm_backup.services.stores.trust import require_trust
from tests.unit.services.shipping.conftest import Harbour


def plant(harbour: Harbour, point: Manifest) -> None:
    """It is there, this host did not bring it, and does not hold it."""
    harbour.application.shipping.mirror("nas").show(point.id, serialize(point))
    harbour.shelf.repository.withdraw(point.id)


def test_a_point_of_this_host_that_builds_on_a_planted_one_is_restored_only_by_a_word(harbour: Harbour) -> None:
    parent, alone = harbour.shelf.add(), harbour.shelf.add()
    child = harbour.shelf.add(parent)
    grandchild = harbour.shelf.add(child)
    harbour.arrive("nas", alone)
    harbour.arrive("nas", child)
    harbour.arrive("nas", grandchild)
    plant(harbour, parent)
    store = harbour.application.store("nas")
    require_trust(store, alone.id, agreed=False, hint="-")
    for point in (child, grandchild):
        with pytest.raises(ForeignPointError, match=f"{point.id} builds on {parent.id}"):
            require_trust(store, point.id, agreed=False, hint="-")
        require_trust(store, point.id, agreed=True, hint="-")


def test_a_point_is_not_shipped_onto_a_planted_parent_but_onto_one_of_this_host(harbour: Harbour) -> None:
    planted, own = harbour.shelf.add(), harbour.shelf.add()
    on_planted, on_own = harbour.shelf.add(planted), harbour.shelf.add(own)
    harbour.arrive("nas", own)
    plant(harbour, planted)
    everything = RetentionRule(last=9, chain=9)
    mirror = harbour.application.shipping.mirror("nas")
    lack = lack_of(harbour.shelf.repository, mirror, own.folder, everything, ZoneInfo("UTC"), harbour.now)
    assert [one.manifest.id for one in lack.to_ship] == [on_own.id]
    assert lack.stuck == (on_planted.id,)
