"""A server that dies between the two renames of a replacement: whoever reads it next has the old point back."""

import os
import shutil
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from tests.integration.ship.points import TOKEN, big_shipment, files_of, replaced_by_full, shipment_of
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

SIZE = 1 << 20
DIES_AT_THE_SECOND_RENAME = """#!/bin/sh
if [ "$1" != --help ]; then
    echo . >> "$0.calls"
    if [ "$(wc -l < "$0.calls")" = 2 ]; then kill -9 "$PPID"; exit 1; fi
fi
exec /bin/mv "$@"
"""


def remote(server: Server, account: str = "shell", path: str = "") -> Remote:
    address = SshAddress(account, path) if path else server.address(account)
    return Remote(address, config=server.config, token=TOKEN)


@pytest.fixture
def cut(server: Server, shelf: Shelf) -> tuple[Shipment, Shipment]:
    """A full point and its child on the server, where the child's replacement was cut off between its renames; the
    child as it was, and as it shall be."""
    full = big_shipment(shelf, os.urandom(SIZE))
    child = shipment_of(shelf, shelf.add(full.manifest))
    with remote(server) as there:
        there.found(shelf.root)
        for shipment in (full, child):
            there.ship(shipment)
    before = Shipment(server.root / "before", child.manifest)
    shutil.copytree(child.folder, before.folder)
    consolidated = replaced_by_full(shelf, child, os.urandom(SIZE))
    programs = server.root / "programs"
    programs.mkdir()
    (programs / "mv").write_text(DIES_AT_THE_SECOND_RENAME)
    (programs / "mv").chmod(0o755)
    server.add_account("dying", f'command="PATH={programs}:$PATH; eval \\"exec $SSH_ORIGINAL_COMMAND\\"" ')
    with remote(server, "dying", str(server.store)) as there, pytest.raises(RemoteUnreachableError):
        there.ship(consolidated)
    assert points(server.store) == [full.manifest]
    assert aside(server, child.manifest).is_dir()
    return before, consolidated


def points(folder: Path) -> list[object]:
    return list(LocalRepository.open("there", folder).all_points())


def aside(server: Server, manifest: Manifest) -> Path:
    return server.store / manifest.folder / f".partial-old-{manifest.stamp}"


def test_a_new_machine_that_reads_the_server_finds_the_point_as_it_was(
    server: Server, cut: tuple[Shipment, Shipment], tmp_path: Path
) -> None:
    before, _ = cut
    with remote(server) as there:
        there.refresh(tmp_path / "mirror")
        there.fetch(before.manifest, tmp_path / "fetched")
    assert before.manifest in points(tmp_path / "mirror")
    assert files_of(tmp_path / "fetched") == files_of(before.folder)
    assert not aside(server, before.manifest).exists()


def test_the_replacement_goes_on_after_somebody_has_read_the_server(
    server: Server, cut: tuple[Shipment, Shipment], tmp_path: Path
) -> None:
    _, consolidated = cut
    with remote(server) as there:
        there.refresh(tmp_path / "mirror")
        assert there.ship(consolidated).moved.literal == 0
    assert files_of(server.store / consolidated.manifest.id) == files_of(consolidated.folder)


@pytest.mark.parametrize("taken", ["{stamp}", ".partial-removed-{stamp}"])
def test_what_stands_in_the_place_of_the_point_or_is_being_removed_is_left_alone(
    server: Server, cut: tuple[Shipment, Shipment], tmp_path: Path, taken: str
) -> None:
    before, _ = cut
    other = server.store / before.manifest.folder / taken.format(stamp=before.manifest.stamp)
    other.mkdir()
    with remote(server) as there:
        there.refresh(tmp_path / "mirror")
    assert list(other.iterdir()) == []
    assert files_of(aside(server, before.manifest)) == files_of(before.folder)


def test_links_are_neither_followed_nor_given_the_name_of_a_point(
    server: Server, cut: tuple[Shipment, Shipment], tmp_path: Path
) -> None:
    before, _ = cut
    elsewhere = server.root / "elsewhere"
    shutil.move(aside(server, before.manifest), elsewhere / "vm" / aside(server, before.manifest).name)
    aside(server, before.manifest).symlink_to(elsewhere / "vm" / aside(server, before.manifest).name)
    (server.store / "db--1a2b3c4d").symlink_to(elsewhere / "vm")
    with remote(server) as there:
        there.refresh(tmp_path / "mirror")
    assert [entry.name for entry in (elsewhere / "vm").iterdir()] == [aside(server, before.manifest).name]
    assert aside(server, before.manifest).is_symlink()


def test_an_account_without_a_shell_reads_what_there_is(
    server: Server, cut: tuple[Shipment, Shipment], tmp_path: Path
) -> None:
    before, _ = cut
    with remote(server, "rrsync") as there:
        there.refresh(tmp_path / "mirror")
    assert before.manifest not in points(tmp_path / "mirror")
    assert aside(server, before.manifest).is_dir()
