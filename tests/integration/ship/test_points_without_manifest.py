"""What an arrival by rsync alone leaves that is killed between the files of a point and its manifest."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CancelledError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh import arrival_by_rsync
from kvm_backup.repository.ssh.remote import Remote
from tests.integration.ship.points import TOKEN, files_of, shipment_of
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

WEEK = timedelta(days=7)
LONG_AGO = time.time() - timedelta(days=8).total_seconds()


def remote(server: Server, account: str) -> Remote:
    return Remote(server.address(account), config=server.config, token=TOKEN)


def dies(*_arguments: object) -> None:
    raise CancelledError("the process is gone", hint="Go on.")


@pytest.fixture
def points(server: Server, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> tuple[Manifest, Manifest]:
    """One that arrived, and one that was killed before its manifest."""
    whole, cut = shelf.add(), shelf.add(seed=2)
    with remote(server, "rrsync") as there:
        there.found(shelf.root)
        there.ship(shipment_of(shelf, whole))
        with monkeypatch.context() as patched:
            patched.setattr(arrival_by_rsync, "_put_manifest", dies)
            with pytest.raises(CancelledError):
                there.ship(shipment_of(shelf, cut))
    assert {file.name for file in (server.store / cut.id).iterdir()} == {"domain.xml", "vda.qcow2"}
    assert arriving(server, cut).is_dir()
    return whole, cut


def arriving(server: Server, manifest: Manifest) -> Path:
    return server.store / manifest.folder / f".incoming-{manifest.stamp}-{TOKEN}-1"


def grow_old(*folders: Path) -> None:
    for folder in folders:
        for path in (*folder.iterdir(), folder):
            os.utime(path, (LONG_AGO, LONG_AGO))


def names(server: Server) -> set[str]:
    return {str(path.relative_to(server.store)) for path in server.store.glob("*/*")}


def test_it_goes_once_nobody_has_touched_it_for_a_week(
    server: Server, shelf: Shelf, points: tuple[Manifest, Manifest]
) -> None:
    whole, _ = points
    for manifest in points:
        grow_old(server.store / manifest.id, arriving(server, manifest))
    with remote(server, "rrsync") as there:
        there.clear_incoming(WEEK)
    assert names(server) == {whole.id}
    assert list(LocalRepository.open("there", server.store).all_points()) == [whole]
    assert files_of(server.store / whole.id) == files_of(shelf.repository.path_of(whole.id))


@pytest.mark.parametrize("touched", ["the point", "what it arrives in"])
def test_it_stays_while_somebody_still_sends_it(
    server: Server, shelf: Shelf, points: tuple[Manifest, Manifest], touched: str
) -> None:
    _, cut = points
    grow_old(server.store / cut.id if touched == "what it arrives in" else arriving(server, cut))
    if touched == "the point":
        # Its files are those of the hidden folder; the folder itself is what the last try made.
        os.utime(server.store / cut.id)
    with remote(server, "rrsync") as there:
        there.clear_incoming(WEEK)
        assert (server.store / cut.id).is_dir()
        there.ship(shipment_of(shelf, cut))
    assert files_of(server.store / cut.id) == files_of(shelf.repository.path_of(cut.id))


def test_points_whose_manifest_is_encrypted_stay(server: Server, points: tuple[Manifest, Manifest]) -> None:
    whole, _ = points
    there = server.store / whole.id
    (there / "manifest.json").rename(there / "manifest.json.age")
    grow_old(there)
    with remote(server, "rrsync") as connected:
        connected.clear_incoming(WEEK)
    assert (there / "manifest.json.age").is_file()


def test_an_account_with_a_shell_clears_it_when_nothing_is_left_of_what_it_arrived_in(
    server: Server, points: tuple[Manifest, Manifest]
) -> None:
    whole, cut = points
    with remote(server, "shell") as there:
        there.clear_incoming(timedelta(minutes=5))
        assert {cut.id, f"{cut.folder}/{arriving(server, cut).name}"} <= names(server)
        there.clear_incoming(timedelta(0))
    assert names(server) == {whole.id}


def test_a_shell_follows_no_link_to_a_folder_without_a_manifest(
    server: Server, points: tuple[Manifest, Manifest]
) -> None:
    _, cut = points
    elsewhere = server.root / "elsewhere" / cut.stamp
    elsewhere.mkdir(parents=True)
    (elsewhere / "vda.qcow2").write_bytes(b"of another account")
    (server.store / "db--1a2b3c4d").symlink_to(elsewhere.parent)
    (server.store / cut.folder / "20200101T000000Z").symlink_to(elsewhere)
    with remote(server, "shell") as there:
        there.clear_incoming(timedelta(0))
    assert files_of(elsewhere) == {"vda.qcow2": b"of another account"}
