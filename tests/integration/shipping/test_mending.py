"""What a check of a remote finds damaged is sent there again, when it is whole here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.task import VerifyTask
from tests.integration.shipping.conftest import House
from tests.unit.builders import flip_bit


def shipped(house: House, length: int) -> list[Manifest]:
    made: list[Manifest] = []
    for seed in range(length):
        made.append(house.shelf.add(made[-1] if made else None, seed=seed))
    house.ship()
    return made


def verify(house: House) -> tuple[RunRequest, KvmBackupError | None]:
    request = house.application.requests.verify_folder(house.points.folder.name, "nas")
    _, error = house.application.work.start(request, listener=house.told.append, stop_requested=lambda: False)
    return request, error


def image(house: House, point: Manifest) -> Path:
    return house.server.store / point.id / "vda.qcow2"


def flip(file: Path) -> None:
    flip_bit(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    for entry in file.parent.iterdir():
        entry.unlink()


@pytest.mark.parametrize("account", ["shell", "rrsync"])
@pytest.mark.parametrize("harm", [flip, Path.unlink, empty])
def test_a_damaged_point_there_waits_again_and_the_next_shipment_mends_it(
    house: House, account: str, harm: Callable[[Path], None]
) -> None:
    house.use(account)
    points = shipped(house, 3)
    whole = image(house, points[1]).read_bytes()
    harm(image(house, points[1]))
    _, error = verify(house)
    assert error is not None
    assert error.hint == f"Whole here, and sent there again by the next shipment: {points[1].id}."
    assert house.waiting() == [points[1].id]
    house.ship()
    assert image(house, points[1]).read_bytes() == whole
    assert verify(house)[1] is None
    assert house.waiting() == []


def test_the_service_asks_for_the_shipment_that_mends_once_the_check_has_ended(house: House) -> None:
    points = shipped(house, 2)
    request, error = verify(house)
    assert error is None
    assert house.application.shipments.after(request) == []
    flip(image(house, points[0]))
    request, _ = verify(house)
    assert isinstance(request.task, VerifyTask)
    wanted = house.application.shipments.after(request)
    assert [(one.repository, one.vm) for one in wanted] == [("nas", "web")]


def test_what_is_damaged_here_too_or_is_only_there_does_not_wait(house: House) -> None:
    points = shipped(house, 2)
    flip(house.shelf.path(points[1]))
    for point in points:
        flip(image(house, point))
    _, error = verify(house)
    assert error is not None
    assert error.hint == (
        f"Whole here, and sent there again by the next shipment: {points[0].id}. Of the others, restore other points."
    )
    assert house.waiting() == [points[0].id]


def test_a_point_whose_images_went_from_here_stays_known_there_though_it_is_damaged(house: House) -> None:
    house.remote["keep_local"] = "nothing"
    house.restart()
    points = shipped(house, 1)
    flip(image(house, points[0]))
    _, error = verify(house)
    assert error is not None
    assert error.hint.startswith("Restore another point")
    assert house.shelf.repository.elsewhere(points[0].id) == ("nas",)
    assert house.application.shipping.mirror("nas").repository.load(points[0].id) == points[0]


def test_a_point_that_goes_nowhere_any_more_is_not_asked_for_again(house: House) -> None:
    points = shipped(house, 1)
    flip(image(house, points[0]))
    house.settings = {"vm": {"web": {"ship_to": []}}}
    house.restart()
    _, error = verify(house)
    assert error is not None
    assert error.hint.startswith("Restore another point")
    assert house.application.shipping.mirror("nas").repository.load(points[0].id) == points[0]
