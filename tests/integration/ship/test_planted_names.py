"""A thief who holds the key that adds puts links where another account works: older points stay as they are."""

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RepositoryFormatError
from kvm_backup.repository.ssh import arrival_by_shell
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import NoWatch, Transfer
from tests.integration.ship.points import (
    TOKEN,
    arriving,
    big_shipment,
    files_of,
    replaced_by_full,
    shipment_of,
)
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

SIZE = 1 << 20


class Thief:
    """Knows the server's folder and the points in it, and adds with the stolen key."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        folder.mkdir()

    def link(self, place: str, target: str) -> None:
        """Put a symbolic link there."""
        link = self._folder / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        self._add("-rl", f"{self._folder}/", "adder:/")

    def second_name(self, point: Shipment, place: str) -> None:
        """Put a folder there whose files are the very files of a point, for which only their sizes must be known."""
        fake = self._folder / "fake"
        fake.mkdir()
        for file in point.folder.iterdir():
            (fake / file.name).write_bytes(bytes(file.stat().st_size))
        self._add(
            "-r", "--size-only", "--mkpath", f"--link-dest=/{point.manifest.id}/", f"{fake}/", f"adder:/{place}/"
        )

    def _add(self, *words: str) -> None:
        ssh = f"ssh -F {self._server.config}"
        subprocess.run(["rsync", "-e", ssh, *words], check=True, capture_output=True, timeout=60)


@pytest.fixture
def thief(server: Server, tmp_path: Path) -> Thief:
    return Thief(server, tmp_path / "thief")


def remote(server: Server, account: str = "shell", prune: str | None = None) -> Remote:
    return Remote(
        server.address(account),
        prune_address=server.address(prune) if prune else None,
        config=server.config,
        token=TOKEN,
    )


def a_chain(server: Server, shelf: Shelf, account: str = "shell") -> tuple[Shipment, Shipment]:
    full = big_shipment(shelf, os.urandom(SIZE))
    child = shipment_of(shelf, shelf.add(full.manifest))
    with remote(server, account) as there:
        there.found(shelf.root)
        for shipment in (full, child):
            there.ship(shipment)
    return full, child


PLANTED = [".incoming-{new}", ".incoming-{new}.basis", ".partial-old-{new}", ".incoming-{new}-1"]


@pytest.mark.parametrize("place", PLANTED)
@pytest.mark.parametrize("kind", ["link", "second name"])
@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_what_a_thief_plants_where_a_replacement_might_work_harms_no_older_point(
    server: Server, shelf: Shelf, thief: Thief, place: str, kind: str, account: str
) -> None:
    full, child = a_chain(server, shelf)
    before = files_of(server.store / full.manifest.id)
    planted = f"{full.manifest.folder}/{place.format(new=child.manifest.stamp)}"
    if kind == "link":
        thief.link(planted, full.manifest.stamp)
    else:
        thief.second_name(full, planted)
    consolidated = replaced_by_full(shelf, child, os.urandom(SIZE))
    with remote(server, "adder", prune=account) as there:
        there.ship(consolidated, base=full.manifest.stamp)
    assert files_of(server.store / full.manifest.id) == before
    assert not (server.store / child.manifest.id).is_symlink()
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)


@pytest.mark.parametrize("place", PLANTED)
def test_what_a_thief_plants_where_a_point_might_arrive_harms_no_older_point(
    server: Server, shelf: Shelf, thief: Thief, place: str
) -> None:
    full, child = a_chain(server, shelf)
    before = files_of(server.store / full.manifest.id)
    new = shipment_of(shelf, shelf.add(child.manifest))
    thief.link(f"{full.manifest.folder}/{place.format(new=new.manifest.stamp)}", full.manifest.stamp)
    with remote(server) as there:
        there.ship(new)
    assert files_of(server.store / full.manifest.id) == before
    assert files_of(server.store / new.manifest.id) == files_of(new.folder)


@pytest.mark.parametrize("kind", ["link", "second name"])
def test_nothing_is_written_through_links_even_under_a_name_that_was_found_out(
    server: Server, shelf: Shelf, thief: Thief, kind: str
) -> None:
    full, child = a_chain(server, shelf)
    before = files_of(server.store / full.manifest.id)
    if kind == "link":
        thief.link(arriving(child.manifest), full.manifest.stamp)
    else:
        thief.second_name(full, arriving(child.manifest))
    consolidated = replaced_by_full(shelf, child, os.urandom(SIZE))
    with remote(server) as there:
        there.ship(consolidated, base=full.manifest.stamp)
    assert files_of(server.store / full.manifest.id) == before
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)


def test_a_link_in_the_place_of_a_point_is_replaced_by_it_and_what_it_led_to_stays(
    server: Server, shelf: Shelf, thief: Thief
) -> None:
    full, child = a_chain(server, shelf)
    before = files_of(server.store / full.manifest.id)
    new = shipment_of(shelf, shelf.add(child.manifest))
    thief.link(new.manifest.id, full.manifest.stamp)
    with remote(server) as there:
        there.ship(new)
    assert not (server.store / new.manifest.id).is_symlink()
    assert files_of(server.store / new.manifest.id) == files_of(new.folder)
    assert files_of(server.store / full.manifest.id) == before


def test_a_point_that_a_thief_puts_there_at_the_last_moment_does_not_swallow_the_one_that_arrives(
    server: Server, shelf: Shelf, thief: Thief
) -> None:
    full, child = a_chain(server, shelf)
    new = shipment_of(shelf, shelf.add(child.manifest))

    class Meanwhile(NoWatch):
        done = False

        def reached(self, total: int) -> None:
            if not self.done:
                self.done = True
                thief.second_name(full, new.manifest.id)

    watch = Meanwhile()
    with server.connection() as connection, pytest.raises(RepositoryFormatError, match="meanwhile"):
        arrival_by_shell.ship(Transfer(connection, watch=watch), new)
    assert watch.done
    with remote(server) as there:
        there.ship(new)
    assert files_of(server.store / new.manifest.id) == files_of(new.folder)
    assert files_of(server.store / full.manifest.id) == files_of(full.folder)


def ship(there: Remote, shipment: Shipment) -> None:
    there.ship(shipment)


def remove(there: Remote, shipment: Shipment) -> None:
    there.remove(shipment.manifest.id)


@pytest.mark.parametrize(("adding", "prune"), [("adder", "shell"), ("adder", "rrsync"), ("shell", None)])
@pytest.mark.parametrize("work", [ship, remove])
def test_a_folder_of_a_vm_that_is_a_link_leads_nobody_to_the_points_of_another(
    server: Server,
    shelf: Shelf,
    thief: Thief,
    adding: str,
    prune: str | None,
    work: Callable[[Remote, Shipment], None],
) -> None:
    full, _ = a_chain(server, shelf, "rrsync")
    folder = server.store / full.manifest.folder
    before = tree(folder)
    other = Shelf(shelf.root, "db", "11111111-2222-4333-8444-555555555555")
    new = shipment_of(other, other.add())
    assert new.manifest.stamp == full.manifest.stamp
    thief.link(new.manifest.folder, full.manifest.folder)
    with remote(server, adding, prune) as there:
        if work is remove and prune == "rrsync":
            work(there, new)
        else:
            with pytest.raises(RepositoryFormatError, match="is a link"):
                work(there, new)
    assert tree(folder) == before


@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_clearing_follows_no_links(server: Server, shelf: Shelf, thief: Thief, account: str) -> None:
    full, _ = a_chain(server, shelf)
    elsewhere = server.root / "elsewhere"
    left = elsewhere / ".incoming-20260101T000000Z-1"
    left.mkdir(parents=True)
    (left / "vda.qcow2").write_bytes(b"of another account")
    thief.link("db--1a2b3c4d", str(elsewhere))
    thief.link(f"{full.manifest.folder}/.incoming-20260101T000000Z-2", str(left))
    with remote(server, account) as there:
        there.clear_incoming(timedelta(0))
    assert tree(left) == {"vda.qcow2": b"of another account"}


def test_what_a_replacement_moved_aside_stays_while_a_thief_has_something_in_its_place(
    server: Server, shelf: Shelf, thief: Thief
) -> None:
    full, child = a_chain(server, shelf)
    there = server.store / child.manifest.id
    aside = there.with_name(f".partial-old-{there.name}")
    there.rename(aside)
    before = tree(aside)
    thief.second_name(full, child.manifest.id)
    with remote(server) as connected:
        connected.clear_incoming(timedelta(0))
        assert tree(aside) == before
        consolidated = replaced_by_full(shelf, child, os.urandom(SIZE))
        connected.ship(consolidated)
    assert tree(there) == files_of(consolidated.folder)
    assert not aside.exists()


def test_a_pipe_in_the_place_of_a_manifest_keeps_nobody_waiting(server: Server, shelf: Shelf) -> None:
    full, child = a_chain(server, shelf)
    pipe = server.store / full.manifest.folder / "20270101T000000Z"
    pipe.mkdir()
    os.mkfifo(pipe / "manifest.json")
    with remote(server) as there:
        there.remove(child.manifest.id)
        there.remove(full.manifest.id)
    assert not (server.store / full.manifest.id).exists()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
