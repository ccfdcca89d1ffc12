"""Faults of servers, disks and hosts: nothing is half visible, nothing lost, and shipping goes on afterwards."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.domain.errors import NoSpaceError, PointChangedError, RemoteAccessError, RemoteUnreachableError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.points import TOKEN, arriving, big_shipment, files_of, replaced_by_full, shipment_of
from tests.integration.ship.servers import Server, make_key
from tests.unit.builders import Shelf


def ship(server: Server, account: str, shipment: Shipment, base: str | None = None) -> Shipped:
    with Remote(server.address(account), config=server.config, token=TOKEN) as remote:
        return remote.ship(shipment, base=base)


def visible(store: Path) -> list[str]:
    return [point.id for point in LocalRepository.open("there", store).all_points() if isinstance(point, Manifest)]


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_disk_that_is_full_there_shows_nothing_and_takes_the_point_once_it_has_room(
    server: Server, shelf: Shelf, account: str
) -> None:
    with disk(server.store, 4):
        shutil.copy(shelf.root / "kvm-backup.json", server.store)
        shipment = big_shipment(shelf, os.urandom(6 << 20))
        with pytest.raises(NoSpaceError) as full:
            ship(server, account, shipment)
        assert full.value.retryable
        assert "Free space there" in full.value.hint
        assert visible(server.store) == []
        subprocess.run(["mount", "-o", "remount,size=16m", server.store], check=True)
        ship(server, account, shipment)
        assert visible(server.store) == [shipment.manifest.id]
        assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_disk_that_fills_up_while_a_point_crosses_keeps_what_arrived(server: Server, shelf: Shelf) -> None:
    with disk(server.store, 8):
        shutil.copy(shelf.root / "kvm-backup.json", server.store)
        shipment = big_shipment(shelf, os.urandom(6 << 20))
        (server.store / "other").write_bytes(bytes(4 << 20))
        place = str(server.store / arriving(shipment.manifest))
        with server.connection() as connection, pytest.raises(NoSpaceError):
            Transfer(connection).up(shipment.folder, place, "--append", "--mkpath")
        (server.store / "other").unlink()
        assert ship(server, "shell", shipment).moved.literal < 4 << 20
        assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_difference_is_not_refused_for_room_that_it_does_not_need(server: Server, shelf: Shelf) -> None:
    with disk(server.store, 11):
        content = os.urandom(4 << 20)
        full = big_shipment(shelf, content)
        child = shipment_of(shelf, shelf.add(full.manifest))
        for shipment in (full, child):
            ship(server, "shell", shipment)
        # As a joined copy for the next attempt, the old image would have to fit a second time.
        left = server.store / arriving(child.manifest)
        left.mkdir()
        (left / "vda.qcow2").write_bytes(content[: 1 << 20])
        consolidated = replaced_by_full(shelf, child, content)
        assert ship(server, "shell", consolidated, full.manifest.stamp).moved.sent < 1 << 20
        assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)


def test_a_server_that_dies_between_the_rename_and_its_answer_has_the_point(server: Server, shelf: Shelf) -> None:
    programs = server.root / "programs"
    programs.mkdir()
    fake = programs / "sync"
    # The second one comes right after the rename.
    fake.write_text('#!/bin/sh\necho . >> "$0.calls"\n[ "$(wc -l < "$0.calls")" != 2 ] || kill -9 "$PPID"\n')
    fake.chmod(0o755)
    server.add_account("dying", f'command="PATH={programs}:$PATH; eval \\"exec $SSH_ORIGINAL_COMMAND\\"" ')
    shutil.copy(shelf.root / "kvm-backup.json", server.store)
    shipment = shipment_of(shelf, shelf.add())
    with Remote(SshAddress("dying", str(server.store)), config=server.config) as remote:
        with pytest.raises(RemoteUnreachableError) as died:
            remote.ship(shipment)
        assert died.value.retryable
        assert visible(server.store) == [shipment.manifest.id]
        assert remote.ship(shipment).already
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


@pytest.mark.parametrize("moment", [0, 4_000_000_000])
def test_no_clock_of_the_server_decides_what_is_there(
    server: Server, shelf: Shelf, tmp_path: Path, moment: int
) -> None:
    full = shelf.add()
    child = shelf.add(full)
    with Remote(server.address("shell"), config=server.config, token=TOKEN) as remote:
        remote.found(shelf.root)
        remote.ship(shipment_of(shelf, full))
        shutil.copytree(shelf.repository.path_of(child.id), server.store / arriving(child))
        for path in server.store.rglob("*"):
            os.utime(path, (moment, moment))
        assert remote.ship(shipment_of(shelf, full)).already
        assert remote.ship(shipment_of(shelf, child)).moved.literal == 0
        remote.refresh(tmp_path / "mirror")
    assert visible(tmp_path / "mirror") == visible(server.store) == [full.id, child.id]


def test_two_hosts_ship_to_one_server_at_once(server: Server, tmp_path: Path) -> None:
    def ship_all(name: str) -> list[str]:
        shelf = Shelf(tmp_path / name)
        address = SshAddress("shell", f"{server.store}/{name}")
        points = [shelf.add()]
        points += [shelf.add(points[0]), shelf.add(points[0])]
        with Remote(address, config=server.config) as remote:
            remote.found(shelf.root)
            for manifest in points:
                remote.ship(shipment_of(shelf, manifest))
            remote.clear_incoming(timedelta(0))
        return [manifest.id for manifest in points]

    with ThreadPoolExecutor(2) as hosts:
        for name, points in zip(("one", "two"), hosts.map(ship_all, ("one", "two")), strict=True):
            assert visible(server.store / name) == points
            for point in points:
                assert files_of(server.store / name / point) == files_of(tmp_path / name / point)


def test_a_disk_that_is_full_here_is_not_blamed_on_the_server(server: Server, shelf: Shelf, tmp_path: Path) -> None:
    shipment = big_shipment(shelf, os.urandom(2 << 20))
    ship(server, "shell", shipment)
    small = tmp_path / "small"
    small.mkdir()
    with disk(small, 1), Remote(server.address("reader"), config=server.config) as remote:
        with pytest.raises(NoSpaceError, match="on this host"):
            remote.fetch(shipment.manifest, small / "point")
        subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
        remote.fetch(shipment.manifest, small / "point")
        assert files_of(small / "point") == files_of(shipment.folder)


def test_files_that_are_gone_here_are_not_blamed_on_the_server(server: Server, tmp_path: Path) -> None:
    with server.connection() as connection, pytest.raises(PointChangedError, match="went away here"):
        Transfer(connection).up(tmp_path / "gone", f"{server.store}/files")


def test_the_key_that_came_back_ships_what_waited(server: Server, shelf: Shelf) -> None:
    shipment = shipment_of(shelf, shelf.add())
    before = server.authorized.read_text()
    server.authorized.write_text(make_key(server.root / "other") + "\n")
    with pytest.raises(RemoteAccessError) as refused:
        ship(server, "adder", shipment)
    assert "authorized_keys" in refused.value.hint
    server.authorized.write_text(before)
    ship(server, "adder", shipment)
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A small file system, in MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)
