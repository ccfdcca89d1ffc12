"""The catalogue says what the files say, and is made anew when it cannot."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.point import serialize
from kvm_backup.repository.catalogue import CACHE_VERSION, Catalogue
from tests.unit.builders import VM_UUID, Shelf, a_manifest


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalogue.db"


@pytest.fixture
def catalogue(database: Path) -> Catalogue:
    return Catalogue.open(database)


def test_it_lists_what_is_in_the_repository_by_vm_and_time(shelf: Shelf, catalogue: Catalogue) -> None:
    web = [shelf.add(), shelf.add()]
    shelf.vm_name, shelf.vm_uuid = "db", "55555555-0000-4000-8000-000000000002"
    db = shelf.add()
    assert catalogue.refresh(shelf.repository) == []
    assert catalogue.points(shelf.repository) == [db, *web]
    assert catalogue.points(shelf.repository, "web") == web
    assert catalogue.points(shelf.repository, VM_UUID) == web
    assert catalogue.points(shelf.repository, "we") == []


def test_a_new_point_is_seen_and_a_removed_one_is_forgotten(shelf: Shelf, catalogue: Catalogue) -> None:
    first, second = shelf.add(), shelf.add()
    catalogue.refresh(shelf.repository)
    shutil.rmtree(shelf.repository.path_of(first.id))
    third = shelf.add()
    catalogue.refresh(shelf.repository)
    assert catalogue.points(shelf.repository) == [second, third]


def test_a_changed_manifest_is_read_again(shelf: Shelf, catalogue: Catalogue) -> None:
    manifest = shelf.add()
    catalogue.refresh(shelf.repository)
    consolidated = manifest.model_copy(update={"notices": ("consolidated",)})
    shelf.replace_manifest(manifest, serialize(consolidated))
    catalogue.refresh(shelf.repository)
    assert catalogue.points(shelf.repository) == [consolidated]


def test_an_unchanged_manifest_is_not_read_again_but_a_rescan_reads_all(shelf: Shelf, catalogue: Catalogue) -> None:
    manifest = shelf.add()
    catalogue.refresh(shelf.repository)
    path = shelf.path(manifest, "manifest.json")
    times = path.stat()
    shelf.replace_manifest(manifest, b"{}")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert catalogue.refresh(shelf.repository) == []
    assert [point.id for point in catalogue.refresh(shelf.repository, everything=True)] == [manifest.id]
    assert catalogue.points(shelf.repository) == []


def test_a_damaged_manifest_is_reported_each_time_and_never_listed(shelf: Shelf, catalogue: Catalogue) -> None:
    good, bad = shelf.add(), shelf.add()
    catalogue.refresh(shelf.repository)
    shelf.replace_manifest(bad, b"{}")
    for _ in range(2):
        assert [point.id for point in catalogue.refresh(shelf.repository)] == [bad.id]
        assert catalogue.points(shelf.repository) == [good]
    shelf.replace_manifest(bad, serialize(bad))
    assert catalogue.refresh(shelf.repository) == []
    assert catalogue.points(shelf.repository) == [good, bad]


def test_repositories_do_not_mix(shelf: Shelf, catalogue: Catalogue, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    mine, theirs = shelf.add(), other.add()
    catalogue.refresh(shelf.repository)
    catalogue.refresh(other.repository)
    catalogue.refresh(shelf.repository)
    assert catalogue.points(shelf.repository) == [mine]
    assert catalogue.points(other.repository) == [theirs]


def test_a_catalogue_of_another_version_is_made_anew(shelf: Shelf, database: Path) -> None:
    manifest = shelf.add()
    Catalogue.open(database).refresh(shelf.repository)
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE points")
        connection.execute("CREATE TABLE points (something_else TEXT)")
        connection.execute(f"PRAGMA user_version = {CACHE_VERSION + 1}")
    catalogue = Catalogue.open(database)
    assert catalogue.points(shelf.repository) == []
    catalogue.refresh(shelf.repository)
    assert catalogue.points(shelf.repository) == [manifest]


def test_a_corrupt_file_is_an_error_that_says_what_to_do_and_the_file_stays(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"catalogue\.db cannot be used: file is not a database") as caught:
        Catalogue.open(database)
    assert "repository rescan" in caught.value.hint
    assert database.read_bytes() == b"this is no database" * 100


def test_a_file_whose_pages_are_damaged_is_an_error(shelf: Shelf, database: Path) -> None:
    for _ in range(4):
        shelf.add()
    Catalogue.open(database).refresh(shelf.repository)
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(StorageError, match="cannot be used"):
        Catalogue.open(database).refresh(shelf.repository)


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Not a directory"):
        Catalogue.open(tmp_path / "file" / "state" / "catalogue.db")


def test_a_folder_where_the_file_should_be_is_an_error_of_ours(database: Path) -> None:
    database.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be used"):
        Catalogue.open(database)


@pytest.mark.parametrize("name", ["a b", "per%20cent", "question?mode=ro", "hash#x", "é"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    Catalogue.open(tmp_path / name / "catalogue.db")
    assert (tmp_path / name / "catalogue.db").is_file()


_REFRESH = """
import sys
from pathlib import Path
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.local import LocalRepository
sys.stdin.readline()
repository = LocalRepository.open("shelf", Path(sys.argv[1]))
for _ in range(5):
    catalogue = Catalogue.open(Path(sys.argv[2]))
    catalogue.refresh(repository, everything=True)
    print(len(catalogue.points(repository)))
"""


def test_processes_that_make_and_fill_the_catalogue_at_once_do_not_disturb_each_other(
    shelf: Shelf, database: Path
) -> None:
    for _ in range(20):
        partial = shelf.repository.begin_point("web", VM_UUID, a_manifest().created)
        point_id = f"web--1a2b3c4d/{partial.name.removeprefix('.partial-')}"
        shelf.repository.publish(partial, a_manifest(id=point_id, repository=shelf.repository.id))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _REFRESH, str(shelf.root), str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [process.communicate("go\n") for process in processes]
    assert ended == [("20\n" * 5, "")] * 3
