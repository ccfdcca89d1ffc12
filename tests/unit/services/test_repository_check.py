"""The check of a repository names everything that is not accounted for, without reading disk data."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.point import Manifest
from kvm_backup.services.repository_check import check_repository
from tests.unit.builders import MOMENT, VM_UUID, Shelf, flip_bit


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


@pytest.fixture
def chain(shelf: Shelf) -> tuple[Manifest, Manifest]:
    full = shelf.add()
    return full, shelf.add(full)


def problems(shelf: Shelf) -> list[tuple[str, str]]:
    """What was found: where, below the repository, and the problem."""
    return [
        (str(oddity.path.relative_to(shelf.root)), oddity.problem) for oddity in check_repository(shelf.repository)
    ]


def test_a_repository_in_order_has_nothing_to_report(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    (shelf.root / "lost+found").mkdir()
    assert problems(shelf) == []


def _is_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _is_link(path: Path) -> None:
    target = path.parents[3] / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def _is_shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "is missing"),
        (_is_folder, "is no regular file"),
        (_is_link, "is no regular file"),
        (_is_shorter, "bytes, the manifest says"),
    ],
)
@pytest.mark.parametrize("name", ["vda.qcow2", "domain.xml"])
def test_a_file_of_a_point_that_is_not_as_it_should_be_is_named(
    shelf: Shelf, chain: tuple[Manifest, ...], spoil: Callable[[Path], None], problem: str, name: str
) -> None:
    path = shelf.path(chain[1], name)
    if spoil is _is_shorter and name == "domain.xml":
        path.write_bytes(b"short")
    else:
        spoil(path)
    [(place, found)] = problems(shelf)
    assert place == f"{chain[1].id}/{name}"
    assert problem in found


def test_data_is_not_read(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    flip_bit(shelf.path(chain[0]), 70_000)
    assert problems(shelf) == []


def test_a_damaged_manifest_is_named_and_so_is_the_chain_that_needs_it(
    shelf: Shelf, chain: tuple[Manifest, ...]
) -> None:
    flip_bit(shelf.path(chain[0], "manifest.json"), 50)
    found = problems(shelf)
    assert [place for place, _ in found] == [chain[0].id, chain[1].id]
    assert "does not match its digest" in found[0][1]
    assert f"needs its parent {chain[0].id}" in found[1][1]


def test_a_missing_parent_is_named(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    shutil.rmtree(shelf.repository.path_of(chain[0].id))
    [(place, problem)] = problems(shelf)
    assert place == chain[1].id
    assert f"needs its parent {chain[0].id}" in problem


def test_what_is_none_of_ours_is_named_wherever_it_lies(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    folder = chain[0].folder
    for stray in ("notes.txt", f"{folder}/notes.txt", f"{folder}/20270101T000000Z", f"{chain[0].id}/core"):
        (shelf.root / stray).write_text("x")
    assert dict(problems(shelf)) == {
        "notes.txt": "is not part of a repository",
        f"{folder}/notes.txt": "is not a restore point",
        f"{folder}/20270101T000000Z": "is not a restore point",
        f"{chain[0].id}/core": "is not named in the manifest",
    }


def test_an_unfinished_point_is_named(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    partial = shelf.repository.begin_point("web", VM_UUID, MOMENT.replace(year=2030))
    [(place, problem)] = problems(shelf)
    assert place == str(partial.relative_to(shelf.root))
    assert "unfinished" in problem


def test_a_repository_that_vanished_is_an_error(shelf: Shelf) -> None:
    shutil.rmtree(shelf.root)
    with pytest.raises(StorageError):
        problems(shelf)
