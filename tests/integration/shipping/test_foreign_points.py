"""Points on a server that this host did not ship, as a thief of the adding key can put there: they fill no rule."""

from datetime import UTC, datetime, timedelta

import pytest

from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.services import events
from kvm_backup.services.prune import Pruned
from tests.integration.shipping.conftest import House
from tests.unit.builders import a_manifest

KEEP_THREE = {"last": 3, "daily": 0, "weekly": 0, "monthly": 0}


@pytest.fixture
def guarded(house: House) -> House:
    """Ships with the key that only adds; another account may remove."""
    house.remote |= {
        "url": str(house.server.address("keeper")),
        "prune_url": str(house.server.address("shell")),
        "retention": KEEP_THREE,
    }
    house.restart()
    return house


def plant(house: House, created: datetime) -> str:
    """A small whole manifest of the VM, without any image."""
    stamp = f"{created:%Y%m%dT%H%M%SZ}"
    folder = house.server.store / house.points.folder.name / stamp
    folder.mkdir(parents=True)
    point = a_manifest(
        id=f"{house.points.folder.name}/{stamp}",
        repository=house.shelf.repository.id,
        created=created,
        finished=created,
    )
    (folder / "manifest.json").write_bytes(serialize(point))
    return point.id


def there(house: House) -> set[str]:
    return {point.id for point in house.there.all_points()}


def prune(house: House, *, dry_run: bool = False) -> Pruned:
    house.told.clear()
    return house.application.work.pruner("nas", house.told.append, lambda: False).run(house.points, dry_run=dry_run)


def shipped(house: House, count: int) -> list[Manifest]:
    points = [house.shelf.add(seed=seed) for seed in range(count)]
    assert house.ship() == [point.id for point in points]
    return points


@pytest.mark.parametrize("years", [-1, 64], ids=["past", "future"])
def test_planted_points_take_no_own_ones_place_and_are_told_and_stay(guarded: House, years: int) -> None:
    own = shipped(guarded, 3)
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(days=365 * years)
    planted = {plant(guarded, begin + timedelta(days=day)) for day in range(6)}
    guarded.rescan()
    for dry_run in (True, False):
        pruned = prune(guarded, dry_run=dry_run)
        assert {point.id for point in pruned.points if not point.kept} == set()
        assert {point.id for point in pruned.points if point.reasons == ("foreign",)} == planted
        assert "not ship them" in pruned.notices[0]
        notices = [event.message for event in guarded.told if isinstance(event, events.Notice)]
        assert notices == list(pruned.notices)
    assert there(guarded) == {point.id for point in own} | planted
    newest = guarded.shelf.add(seed=9)
    guarded.ship()
    assert there(guarded) == {point.id for point in [*own[1:], newest]} | planted


def test_points_that_went_from_here_still_count_since_this_host_shipped_them(guarded: House) -> None:
    own = shipped(guarded, 3)
    for point in own[:2]:
        guarded.shelf.repository.withdraw(point.id)
    pruned = prune(guarded)
    assert [point.reasons[0] for point in pruned.points] == ["last"] * 3
    assert pruned.notices == ()
    newest = guarded.shelf.add(seed=9)
    guarded.ship()
    assert there(guarded) == {point.id for point in [*own[1:], newest]}


def test_what_the_rule_removed_goes_again_when_the_server_brings_it_back(guarded: House) -> None:
    own = shipped(guarded, 3)
    folder = guarded.server.store / own[0].id
    saved = {file.name: file.read_bytes() for file in folder.iterdir()}
    guarded.shelf.add(seed=9)
    guarded.ship()
    guarded.shelf.repository.withdraw(own[0].id)
    assert not folder.exists()
    folder.mkdir()
    for name, content in saved.items():
        (folder / name).write_bytes(content)
    guarded.rescan()
    pruned = prune(guarded)
    assert [point.id for point in pruned.points if not point.kept] == [own[0].id]
    assert not folder.exists()


def test_where_another_host_ships_future_points_fill_no_rule(guarded: House) -> None:
    own = shipped(guarded, 3)
    planted = {plant(guarded, datetime(2090, 1, day, tzinfo=UTC)) for day in range(1, 7)}
    guarded.remote |= {"of": None, "prune_url": None, "url": str(guarded.server.address("shell"))}
    guarded.rescan()
    pruned = prune(guarded)
    assert {point.id for point in pruned.points if point.reasons == ("future",)} == planted
    assert "dated in the future" in pruned.notices[0]
    assert there(guarded) == {point.id for point in own} | planted
