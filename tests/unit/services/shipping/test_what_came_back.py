"""A point that a remote's rule removed and somebody brought back: it goes again, and is not trusted meanwhile."""

from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import ForeignPointError
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.services.shipping.lack import Lack, lack_of
from kvm_backup.services.stores.trust import require_trust
from tests.unit.services.shipping.conftest import Harbour

NEWEST_ONLY = RetentionRule(last=1, daily=0, weekly=0, monthly=0)


def bring_back(harbour: Harbour, point: Manifest) -> None:
    """It was there, the rule removed it, and it is there again."""
    harbour.arrive("nas", point)
    mirror = harbour.application.shipping.mirror("nas")
    mirror.forget(point.id, by_rule=True)
    mirror.show(point.id, serialize(point))


def lack(harbour: Harbour, point: Manifest) -> Lack:
    mirror = harbour.application.shipping.mirror("nas")
    return lack_of(harbour.shelf.repository, mirror, point.folder, NEWEST_ONLY, ZoneInfo("UTC"), harbour.now)


def test_what_came_back_is_no_strangers_to_the_rule_and_goes_again(harbour: Harbour) -> None:
    old, new = harbour.shelf.add(), harbour.shelf.add()
    bring_back(harbour, old)
    harbour.arrive("nas", new)
    harbour.shelf.repository.withdraw(old.id)
    found = lack(harbour, new)
    assert (found.foreign, found.to_remove) == ((), (old.id,))


def test_what_came_back_is_restored_only_by_a_word(harbour: Harbour) -> None:
    old, new = harbour.shelf.add(), harbour.shelf.add()
    bring_back(harbour, old)
    harbour.arrive("nas", new)
    store = harbour.application.store("nas")
    require_trust(store, new.id, agreed=False, hint="-")
    with pytest.raises(ForeignPointError):
        require_trust(store, old.id, agreed=False, hint="-")


@pytest.mark.parametrize("is_here", [True, False])
def test_what_came_back_takes_the_place_of_another_only_when_it_is_here_too(harbour: Harbour, is_here: bool) -> None:
    old, new = harbour.shelf.add(), harbour.shelf.add()
    harbour.arrive("nas", old)
    bring_back(harbour, new)
    if not is_here:
        harbour.shelf.repository.withdraw(new.id)
    assert lack(harbour, old).to_remove == ((old.id,) if is_here else ())
