"""A server that does not hold any more what it did, or whose points this host has never read."""

import shutil

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.services import events
from tests.integration.shipping.conftest import House


def notices(house: House) -> str:
    return "\n".join(event.message for event in house.told if isinstance(event, events.Notice))


def chain(house: House, length: int) -> list[Manifest]:
    made: list[Manifest] = []
    for seed in range(length):
        made.append(house.shelf.add(made[-1] if made else None, seed=seed))
    return made


def there(house: House) -> list[str]:
    return [point.id for point in house.there.all_points()]


def next_day(house: House) -> None:
    """The mirror was compared so long ago that it is to be compared again."""
    house.application.shipping.mirror("nas").distrust()


@pytest.mark.parametrize("account", ["shell", "adder"])
def test_what_a_server_lost_that_was_set_back_goes_there_again_before_what_builds_on_it(
    house: House, account: str
) -> None:
    house.remote["url"] = str(house.server.address(account))
    house.restart()
    points = chain(house, 3)
    house.ship()
    shutil.rmtree(house.server.store / points[1].id)
    shutil.rmtree(house.server.store / points[2].id)
    newest = house.shelf.add(points[2], seed=8)
    # Compared today: only what the server answers tells.
    assert house.ship() == [points[1].id, points[2].id, newest.id]
    assert there(house) == [*(point.id for point in points), newest.id]
    assert house.waiting() == []
    assert f"{points[2].id} is not at nas any more" in notices(house)


def test_that_a_server_was_set_back_is_noticed_the_next_day_though_a_full_point_needs_nothing_of_it(
    house: House,
) -> None:
    points = chain(house, 2)
    house.ship()
    for point in points:
        shutil.rmtree(house.server.store / point.id)
    full = house.shelf.add(seed=8)
    next_day(house)
    assert house.ship() == [*(point.id for point in points), full.id]
    assert "missing or damaged there now, and sent again" in notices(house)
    assert points[0].id in notices(house)


def test_a_remote_under_another_address_is_read_first_and_takes_the_next_incremental_point(house: House) -> None:
    house.remote["keep_local"] = "nothing"
    house.restart()
    points = chain(house, 2)
    house.ship()
    assert not house.shelf.path(points[1]).exists()
    house.remote["url"] = str(house.server.address("rrsync"))
    house.restart()
    child = house.shelf.add(points[1], seed=9)
    assert house.waiting() == []
    assert len(house.application.shipments.unasked()) == 1
    assert house.ship() == [child.id]
    assert there(house) == [*(point.id for point in points), child.id]
    assert house.application.shipping.mirror("nas").shipped_by_us() == {point.id for point in [*points, child]}


def test_points_whose_parent_is_neither_there_nor_here_are_told_and_do_not_end_in_silence(house: House) -> None:
    points = chain(house, 3)
    house.shelf.repository.withdraw(points[0].id)
    assert house.waiting() == []
    # Nobody has looked there yet: a run does, and says what it cannot ship.
    assert len(house.application.shipments.unasked()) == 1
    assert house.ship() == []
    assert "cannot be shipped to nas" in notices(house)
    assert points[1].id in notices(house)
    assert house.restart().shipments.unasked() == []
    (stuck,) = house.application.shipping.departures.all()
    assert stuck.lack.stuck == (points[1].id, points[2].id)


def test_a_key_that_may_not_read_ships_as_before_and_is_not_asked_each_time(house: House) -> None:
    house.remote["url"] = str(house.server.address("adder"))
    house.restart()
    point = house.shelf.add()
    assert house.ship() == [point.id]
    assert notices(house) == ""
    mirror = house.application.shipping.mirror("nas")
    assert mirror.read is None
    assert mirror.compared is not None


def test_after_a_shipment_that_failed_the_next_one_compares_first(house: House) -> None:
    house.shelf.add()
    house.ship()
    house.shelf.add(seed=2)
    (house.server.store / "kvm-backup.json").rename(house.server.store / "away.json")
    with pytest.raises(Exception, match="holds no repository"):
        house.ship()
    assert house.application.shipping.mirror("nas").compared is None
