"""The one way in which services reach a repository on another server."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.domain.errors import (
    BrokenChainError,
    RemoteAccessError,
    RepositoryFormatError,
    RepositoryNotFoundError,
)
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.ssh.account import Account
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from tests.integration.ship.points import TOKEN
from tests.integration.ship.servers import Server
from tests.unit.builders import REPOSITORY_ID, Shelf, flip_bit

READERS = ["shell", "rrsync"]


def remote(server: Server, account: str, prune: str | None = None) -> Remote:
    return Remote(
        server.address(account),
        prune_address=server.address(prune) if prune else None,
        config=server.config,
        token=TOKEN,
    )


def shipment_of(shelf: Shelf, manifest: Manifest) -> Shipment:
    return Shipment(shelf.repository.path_of(manifest.id), manifest)


def shipped(server: Server, shelf: Shelf, account: str, *manifests: Manifest) -> None:
    with remote(server, account) as there:
        there.found(shelf.root)
        for manifest in manifests:
            there.ship(shipment_of(shelf, manifest))


def names(server: Server) -> list[str]:
    """What lies in the store, hidden things included, without the repository's own file."""
    return sorted(str(path.relative_to(server.store)) for path in server.store.glob("*/*"))


def visible(server: Server) -> list[Manifest | DamagedPoint]:
    return list(LocalRepository.open("there", server.store).all_points())


@pytest.mark.parametrize("account", ["shell", "rrsync", "reader"])
def test_the_repository_that_is_there_is_named(server: Server, shelf: Shelf, account: str) -> None:
    with remote(server, account) as there:
        assert there.identity() is None
        shutil.copy(shelf.root / "kvm-backup.json", server.store)
        assert there.identity() == shelf.repository.id


def test_a_folder_that_is_not_there_holds_no_repository(server: Server) -> None:
    server.store.rmdir()
    with remote(server, "shell") as there:
        assert there.identity() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"format": 1}', b'{"format": 2, "id": "%s"}' % REPOSITORY_ID.encode(), b"[" * 60_000, b"\xff\xfe"],
)
def test_an_identity_of_ill_will_is_an_error_that_names_the_server(server: Server, content: bytes) -> None:
    (server.store / "kvm-backup.json").write_bytes(content)
    with remote(server, "shell") as there, pytest.raises(RepositoryFormatError, match="ssh://shell"):
        there.identity()


def test_neither_a_link_nor_a_folder_nor_a_huge_file_is_taken_for_an_identity(server: Server, shelf: Shelf) -> None:
    place = server.store / "kvm-backup.json"
    with remote(server, "shell") as there:
        place.symlink_to(shelf.root / "kvm-backup.json")
        assert there.identity() is None
        place.unlink()
        (place / "kvm-backup.json").mkdir(parents=True)
        assert there.identity() is None
        shutil.rmtree(place)
        place.write_bytes((shelf.root / "kvm-backup.json").read_bytes() + b" " * 100_000)
        assert there.identity() is None


@pytest.mark.parametrize("account", ["adder", "keeper"])
def test_who_may_not_read_is_told_so_and_what_helps(server: Server, account: str) -> None:
    with remote(server, account) as there, pytest.raises(RemoteAccessError) as refused:
        there.identity()
    assert "prune_url" in refused.value.hint


def test_the_key_that_only_adds_reads_and_removes_through_the_other_one(
    server: Server, shelf: Shelf, tmp_path: Path
) -> None:
    full = shelf.add()
    with remote(server, "keeper", prune="rrsync") as there:
        assert there.account is Account.ADDING
        there.found(shelf.root)
        assert there.identity() == shelf.repository.id
        there.ship(shipment_of(shelf, full))
        there.refresh(tmp_path / "mirror")
        assert list(LocalRepository.open("mirror", tmp_path / "mirror").all_points()) == [full]
        there.fetch(full, tmp_path / "fetched")
        assert (tmp_path / "fetched" / "vda.qcow2").read_bytes() == shelf.path(full).read_bytes()
        there.remove(full.id)
    assert visible(server) == []


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_nothing_is_taken_for_a_copy_that_is_none(server: Server, shelf: Shelf, tmp_path: Path, account: str) -> None:
    with remote(server, account) as there:
        with pytest.raises(RepositoryNotFoundError, match="holds no repository"):
            there.check_copies(shelf.root)
        there.found(shelf.root)
        there.check_copies(shelf.root)
        with pytest.raises(RepositoryFormatError):
            there.check_copies(Shelf(tmp_path / "other").root)


def test_a_mirror_outlives_a_disk_that_is_not_mounted_on_the_server(
    server: Server, shelf: Shelf, tmp_path: Path
) -> None:
    full = shelf.add()
    shipped(server, shelf, "shell", full)
    mirror = tmp_path / "mirror"
    with remote(server, "shell") as there:
        there.refresh(mirror)
        server.store.rename(server.store.with_name("unmounted"))
        server.store.mkdir()
        with pytest.raises(RepositoryNotFoundError):
            there.refresh(mirror)
        shutil.copy(Shelf(tmp_path / "other").root / "kvm-backup.json", server.store)
        with pytest.raises(RepositoryFormatError):
            there.refresh(mirror)
    assert list(LocalRepository.open("mirror", mirror).all_points()) == [full]


def test_damage_there_is_found_with_nothing_but_the_mirror_here(server: Server, shelf: Shelf, tmp_path: Path) -> None:
    full = shelf.add()
    shipped(server, shelf, "shell", full)
    with remote(server, "shell") as there:
        there.refresh(tmp_path / "mirror")
        mirrored = Shipment(tmp_path / "mirror" / full.id, full)
        assert there.differing(mirrored) == []
        flip_bit(server.store / full.id / "vda.qcow2", 70_000)
        assert there.differing(mirrored) == ["vda.qcow2"]
        (server.store / full.id / "domain.xml").unlink()
        assert there.differing(mirrored) == ["vda.qcow2", "domain.xml"]
    with remote(server, "rrsync") as there:
        assert there.differing(mirrored) is None


@pytest.mark.parametrize(("adding", "account"), [("shell", "shell"), ("rrsync", "rrsync"), ("adder", "shell")])
def test_a_point_that_is_removed_leaves_nothing_and_the_others_stay(
    server: Server, shelf: Shelf, adding: str, account: str
) -> None:
    full = shelf.add()
    child = shelf.add(full)
    shipped(server, shelf, adding, full, child)
    with remote(server, account) as there:
        there.remove(child.id)
        assert visible(server) == [full]
        assert not [name for name in names(server) if child.stamp in name]
        there.remove(child.id)
        assert visible(server) == [full]
        there.remove(full.id)
        assert not list(server.store.glob("*/*"))
        shutil.rmtree(server.store / full.folder, ignore_errors=True)
        there.remove(full.id)


def test_a_shell_does_not_remove_what_another_point_builds_on(server: Server, shelf: Shelf) -> None:
    full = shelf.add()
    child = shelf.add(full)
    shipped(server, shelf, "shell", full, child)
    with remote(server, "shell") as there, pytest.raises(BrokenChainError, match=child.stamp):
        there.remove(full.id)
    assert visible(server) == [full, child]


@pytest.mark.parametrize("again", ["remove", "clear"])
@pytest.mark.parametrize("account", READERS)
def test_a_removal_that_was_killed_is_finished_by_the_next(
    server: Server, shelf: Shelf, account: str, again: str
) -> None:
    full = shelf.add()
    shipped(server, shelf, account, full)
    folder = server.store / full.folder
    if account == "shell":
        (folder / full.stamp).rename(folder / f".partial-removed-{full.stamp}")
        assert visible(server) == []
    else:
        (folder / f".partial-removed-{full.stamp}").touch()
        (folder / full.stamp / "manifest.json").unlink()
    with remote(server, account) as there:
        if again == "remove":
            there.remove(full.id)
        else:
            there.clear_incoming(timedelta(0))
    assert visible(server) == []
    assert names(server) == []


@pytest.mark.parametrize("account", READERS)
def test_what_was_left_goes_by_the_age_it_has_on_the_server_whatever_times_files_were_given(
    server: Server, shelf: Shelf, account: str
) -> None:
    full = shelf.add()
    shipped(server, shelf, "shell", full)
    left = server.store / full.folder / ".incoming-20260101T000000Z-1"
    left.mkdir()
    (left / "vda.qcow2").write_bytes(b"half")
    if account == "shell":
        # A transfer gives files the times that they had here; the server's own mark of a change stays.
        for path in (left / "vda.qcow2", left):
            os.utime(path, (0, 0))
    with remote(server, account) as there:
        there.clear_incoming(timedelta(minutes=5))
        assert left.is_dir()
        there.clear_incoming(timedelta(0))
    assert not left.exists()
    assert visible(server) == [full]
    assert not list(server.store.rglob(".*"))


def test_what_an_old_file_of_this_host_just_arrived_in_is_not_old(server: Server, shelf: Shelf) -> None:
    full = shelf.add()
    folder = shelf.path(full).parent
    for path in (*folder.iterdir(), folder):
        os.utime(path, (0, 0))
    shipped(server, shelf, "adder", full)
    arrived = server.store / full.folder / f".incoming-{full.stamp}-{TOKEN}-1"
    with remote(server, "rrsync") as there:
        there.clear_incoming(timedelta(minutes=5))
        assert arrived.is_dir()
        there.clear_incoming(timedelta(0))
    assert not arrived.exists()
    assert visible(server) == [full]


def test_a_point_that_came_back_after_a_removal_died_is_not_cleared(server: Server, shelf: Shelf) -> None:
    full = shelf.add()
    shipped(server, shelf, "rrsync", full)
    (server.store / full.folder / f".partial-removed-{full.stamp}").touch()
    with remote(server, "rrsync") as there:
        there.clear_incoming(timedelta(0))
    assert visible(server) == [full]


def test_the_key_that_only_adds_neither_removes_nor_clears(server: Server, shelf: Shelf) -> None:
    full = shelf.add()
    shipped(server, shelf, "adder", full)
    with remote(server, "adder") as there:
        with pytest.raises(RemoteAccessError):
            there.remove(full.id)
        with pytest.raises(RemoteAccessError):
            there.clear_incoming(timedelta(0))
    assert visible(server) == [full]
