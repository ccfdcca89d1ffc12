"""Whatever is lost, waits or is damaged: the newest point that a server really holds whole is not removed there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import events
from kvm_backup.services.links import seem_intact
from tests.integration.shipping.conftest import House
from tests.unit.builders import flip_bit


def rule(last: int) -> dict[str, int]:
    return {"last": last, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0}


def guard(house: House, *, last: int, keep_local: str, prunes_itself: bool = True) -> None:
    """Ships with a key that only adds; another account removes by a rule that keeps the last points."""
    house.remote |= {
        "url": str(house.server.address("adder")),
        "prune_url": str(house.server.address("shell")) if prunes_itself else None,
        "keep_local": keep_local,
        "retention": rule(last),
    }
    house.restart()


def set_back(house: House, saved: Path) -> None:
    shutil.rmtree(house.server.store)
    shutil.copytree(saved, house.server.store)


def save(house: House, tmp_path: Path) -> Path:
    return shutil.copytree(house.server.store, tmp_path / "saved")


def next_day(house: House) -> None:
    house.application.shipping.mirror("nas").distrust()


def whole(repository: LocalRepository) -> list[str]:
    points = [point for point in repository.all_points() if isinstance(point, Manifest)]
    return [point.id for point in points if seem_intact(repository, repository.chain(point))]


def prune(house: House) -> list[str]:
    """By hand; the ids of what went."""
    house.told.clear()
    pruned = house.application.work.pruner("nas", house.told.append, lambda: False).run(house.points)
    return [point.id for point in pruned.points if not point.kept]


def notices(house: House) -> str:
    return "\n".join(event.message for event in house.told if isinstance(event, events.Notice))


def test_points_that_were_lost_there_push_out_none_of_those_that_a_server_was_set_back_to(
    house: House, tmp_path: Path
) -> None:
    guard(house, last=3, keep_local="nothing")
    first = house.shelf.add()
    second = house.shelf.add(first, seed=2)
    old = [first, second, house.shelf.add(second, seed=3)]
    house.ship()
    saved = save(house, tmp_path)
    newer = house.shelf.add(seed=4)
    newest = house.shelf.add(newer, seed=5)
    house.ship()
    set_back(house, saved)
    for seed in range(6, 9):
        newest = house.shelf.add(newest, seed=seed)
    next_day(house)
    house.ship()
    assert whole(house.there) == [point.id for point in old]
    assert prune(house) == []


@pytest.mark.parametrize("keep_local", ["nothing", "all"])
def test_points_that_only_wait_push_out_none_of_those_that_are_there(house: House, keep_local: str) -> None:
    guard(house, last=3, keep_local=keep_local)
    first = house.shelf.add()
    second = house.shelf.add(first, seed=2)
    old = [first, second, house.shelf.add(second, seed=3)]
    house.ship()
    for seed in range(4, 7):
        image = house.shelf.path(house.shelf.add(seed=seed))
        flip_bit(image, image.stat().st_size // 2)
    assert prune(house) == []
    assert whole(house.there) == [point.id for point in old]


def test_a_point_that_the_rule_removed_before_stays_where_a_server_that_was_set_back_holds_no_newer_one(
    house: House, tmp_path: Path
) -> None:
    guard(house, last=1, keep_local="nothing")
    old = house.shelf.add()
    house.ship()
    saved = save(house, tmp_path)
    newer = house.shelf.add(seed=2)
    house.ship()
    assert whole(house.there) == [newer.id]
    set_back(house, saved)
    house.shelf.add(newer, seed=3)
    next_day(house)
    house.ship()
    assert prune(house) == []
    assert whole(house.there) == [old.id]


def flip(image: Path) -> None:
    flip_bit(image, image.stat().st_size // 2)


def shorten(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-1])


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "after a shipment"])
@pytest.mark.parametrize("harm", [flip, shorten, Path.unlink], ids=["flipped", "shortened", "missing"])
def test_the_server_is_asked_for_what_stays_and_nothing_goes_in_favour_of_what_it_lost(
    house: House, harm: Callable[[Path], None], *, by_hand: bool
) -> None:
    guard(house, last=3, keep_local="nothing", prunes_itself=False)
    old, harmed = house.shelf.add(), house.shelf.add(seed=2)
    house.ship()
    harm(house.server.store / harmed.id / "vda.qcow2")
    guard(house, last=1, keep_local="nothing")
    if by_hand:
        assert prune(house) == []
    else:
        house.ship()
    assert (house.server.store / old.id / "vda.qcow2").is_file()
    assert old.id in whole(house.there)
    assert harmed.id in notices(house)


def test_what_is_here_yet_is_asked_for_by_names_and_sizes_and_sent_again(house: House) -> None:
    guard(house, last=3, keep_local="all", prunes_itself=False)
    old, harmed = house.shelf.add(), house.shelf.add(seed=2)
    house.ship()
    (house.server.store / harmed.id / "vda.qcow2").unlink()
    guard(house, last=1, keep_local="all")
    assert prune(house) == []
    assert house.waiting() == [harmed.id]
    house.ship()
    assert whole(house.there) == [harmed.id]
    assert not (house.server.store / old.id).exists()


def test_a_newer_chain_that_is_whole_there_takes_the_place_of_the_older_one(house: House) -> None:
    guard(house, last=1, keep_local="nothing")
    house.shelf.add()
    house.ship()
    newer = house.shelf.add(seed=2)
    house.ship()
    assert whole(house.there) == [newer.id]
    assert notices(house) == ""


@pytest.mark.parametrize("harm", [shorten, Path.unlink], ids=["shortened", "missing"])
def test_encrypted_files_that_a_server_lost_push_out_none(sealed: House, harm: Callable[[Path], None]) -> None:
    sealed.remote |= {"retention": rule(3)}
    sealed.restart()
    old, harmed = sealed.shelf.add(), sealed.shelf.add(seed=2)
    sealed.ship()
    harm(sealed.server.store / harmed.id / "vda.qcow2.age")
    sealed.remote |= {"retention": rule(1)}
    sealed.restart()
    assert prune(sealed) == []
    assert (sealed.server.store / old.id / "manifest.json.age").is_file()
    assert harmed.id in notices(sealed)
    assert sealed.waiting() == [harmed.id]


def test_where_another_host_ships_the_server_is_asked_too(house: House) -> None:
    old, harmed = house.shelf.add(), house.shelf.add(seed=2)
    house.ship()
    house.remote |= {"of": None, "retention": rule(1)}
    house.restart()
    flip(house.server.store / harmed.id / "vda.qcow2")
    assert prune(house) == []
    assert old.id in whole(house.there)
