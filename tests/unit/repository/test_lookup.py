"""From what a person types to exactly one point, or to an error that says why not."""

import shutil
from pathlib import Path

import pytest

from kvm_backup.domain.errors import DamagedManifestError, PointNotFoundError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.lookup import find_point, points_of_vm
from tests.unit.builders import VM_UUID, Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


@pytest.fixture
def points(shelf: Shelf) -> list[Manifest]:
    return [shelf.add(), shelf.add()]


@pytest.mark.parametrize(
    "reference",
    [
        "web--1a2b3c4d/20261122T020000Z",
        "web/20261122T020000Z",
        "web/20261122T02",
        f"{VM_UUID}/20261122T020000Z",
        "20261122T020000Z",
        "20261122T02",
    ],
)
def test_a_whole_id_or_enough_of_one_names_the_point(shelf: Shelf, points: list[Manifest], reference: str) -> None:
    assert find_point(shelf.repository, reference) == points[0]


@pytest.mark.parametrize("vm", ["web", "web--1a2b3c4d", VM_UUID])
def test_latest_is_the_newest_point_of_the_vm(shelf: Shelf, points: list[Manifest], vm: str) -> None:
    assert find_point(shelf.repository, f"{vm}/latest") == points[1]


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "/",
        "latest",
        "/latest",
        "web/",
        "db/latest",
        "web/2025",
        "nope",
        "../..",
        "web--1a2b3c4d/../x",
        "[red]x",
        "*",
    ],
)
def test_what_names_no_point_is_not_found(shelf: Shelf, points: list[Manifest], reference: str) -> None:
    with pytest.raises(PointNotFoundError, match="no restore point in repository shelf matches"):
        find_point(shelf.repository, reference)


def test_what_names_several_points_is_an_error_that_lists_them(shelf: Shelf, points: list[Manifest]) -> None:
    with pytest.raises(PointNotFoundError, match=f"2 restore points .*: {points[0].id}, {points[1].id}$"):
        find_point(shelf.repository, "web/2026")


def test_a_vm_whose_name_begins_like_anothers_folder_has_only_its_own_points(shelf: Shelf) -> None:
    mine = shelf.add()
    shelf.vm_name, shelf.vm_uuid = "web--x", "55555555-0000-4000-8000-000000000002"
    other = shelf.add()
    assert points_of_vm(shelf.repository, "web") == [mine]
    assert points_of_vm(shelf.repository, "web--x") == [other]
    assert find_point(shelf.repository, "web/latest") == mine


def test_latest_of_a_name_that_two_vms_had_is_an_error(shelf: Shelf) -> None:
    first = shelf.add()
    shelf.vm_uuid = "55555555-0000-4000-8000-000000000002"
    second = shelf.add()
    with pytest.raises(PointNotFoundError, match="2 restore points"):
        find_point(shelf.repository, "web/latest")
    assert find_point(shelf.repository, f"{first.folder}/latest") == first
    assert find_point(shelf.repository, f"{second.vm_uuid}/latest") == second


def test_points_of_a_renamed_vm_are_found_by_either_name_and_all_by_uuid(shelf: Shelf) -> None:
    old = shelf.add()
    shelf.vm_name = "shop"
    new = shelf.add()
    assert points_of_vm(shelf.repository, "web") == [old]
    assert points_of_vm(shelf.repository, "shop") == [new]
    assert points_of_vm(shelf.repository, VM_UUID) == [old, new]


def test_a_damaged_newest_point_is_an_error_and_no_older_one_is_taken(shelf: Shelf, points: list[Manifest]) -> None:
    shelf.replace_manifest(points[1], b"{}")
    for reference in ("web/latest", f"{VM_UUID}/latest", points[1].id):
        with pytest.raises(DamagedManifestError):
            find_point(shelf.repository, reference)
    assert find_point(shelf.repository, points[0].id) == points[0]


def test_a_point_whose_folder_is_gone_is_not_found(shelf: Shelf, points: list[Manifest]) -> None:
    shutil.rmtree(shelf.repository.path_of(points[0].id))
    with pytest.raises(PointNotFoundError):
        find_point(shelf.repository, points[0].id)
