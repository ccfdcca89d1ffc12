"""Images that could not go right after a shipment, or that are back, are looked at again by themselves."""

import shutil

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.services.vm_lock import hold_vm
from tests.integration.shipping.conftest import House
from tests.unit.builders import VM_UUID


def asked_for(house: House) -> list[tuple[str, str]]:
    """The runs that the service's hourly look asks for."""
    return [(one.repository, one.vm) for one in house.application.shipments.unasked()]


def are_here(house: House, points: list[Manifest]) -> list[bool]:
    return [house.shelf.path(point).exists() for point in points]


@pytest.fixture
def points(house: House) -> list[Manifest]:
    house.remote["keep_local"] = "nothing"
    house.restart()
    full = house.shelf.add()
    return [full, house.shelf.add(full, seed=2)]


def test_what_could_not_go_while_another_run_held_the_vm_goes_with_the_next_look(
    house: House, points: list[Manifest]
) -> None:
    with hold_vm(house.application.folders.locks, "web", VM_UUID, wait=0):
        assert house.ship() == [point.id for point in points]
    assert are_here(house, points) == [True, True]
    assert house.waiting() == []
    house.restart()
    assert asked_for(house) == [("nas", "web")]
    assert house.ship() == []
    assert are_here(house, points) == [False, False]
    assert asked_for(house) == []


def test_images_that_were_copied_back_where_they_may_stay_count_as_here_after_the_next_look(
    house: House, points: list[Manifest]
) -> None:
    house.ship()
    assert asked_for(house) == []
    house.remote["keep_local"] = "all"
    house.restart()
    assert asked_for(house) == []
    for point in points:
        shutil.copy(house.server.store / point.id / "vda.qcow2", house.shelf.path(point))
    assert asked_for(house) == [("nas", "web")]
    house.ship()
    assert [house.shelf.repository.elsewhere(point.id) for point in points] == [None, None]
    assert asked_for(house) == []


def test_a_part_of_an_image_that_was_copied_back_makes_no_run(house: House, points: list[Manifest]) -> None:
    house.ship()
    house.remote["keep_local"] = "all"
    house.restart()
    house.shelf.path(points[0]).write_bytes((house.server.store / points[0].id / "vda.qcow2").read_bytes()[:-1])
    assert asked_for(house) == []


def test_images_to_look_at_are_told_as_no_points_that_wait(house: House, points: list[Manifest]) -> None:
    with hold_vm(house.application.folders.locks, "web", VM_UUID, wait=0):
        house.ship()
    assert asked_for(house) == [("nas", "web")]
    assert house.application.shipping.facts.store.get("nas", points[0].folder) is None
    assert [one.lacks_points for one in house.application.shipments.everything_that_waits()] == [False]
