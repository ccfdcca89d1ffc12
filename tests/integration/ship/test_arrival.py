"""Points that arrive on a real server, by a shell or by rsync alone, through cuts and damage."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.errors import (
    BrokenChainError,
    DamagedPointError,
    PointChangedError,
    RemoteAccessError,
    RepositoryFormatError,
)
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.founding import found
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Moved, NoWatch, Transfer
from tests.integration.ship.points import TOKEN, big_shipment, files_of, flip, replaced_by_full, shipment_of
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

BIG = 8 << 20


def ship(
    server: Server,
    account: str,
    shipment: Shipment,
    watch: NoWatch | None = None,
    *,
    base: str | None = None,
    prune: str | None = None,
) -> Shipped:
    with Remote(
        server.address(account),
        prune_address=server.address(prune) if prune else None,
        config=server.config,
        # Slow enough for whoever watches to do something before the end.
        plan=BandwidthPlan(BIG if watch else None),
        watch=watch,
        token=TOKEN,
    ) as remote:
        return remote.ship(shipment, base=base)


def hidden(server: Server) -> list[str]:
    return sorted(path.name for path in server.store.glob("*/.*"))


@pytest.mark.parametrize(
    ("account", "kind"),
    [("shell", Account.SHELL), ("rrsync", Account.RSYNC), ("adder", Account.RSYNC), ("keeper", Account.ADDING)],
)
def test_what_an_account_allows_is_found_out(server: Server, account: str, kind: Account) -> None:
    with server.connection(account) as connection:
        assert account_of(connection) is kind


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder", "keeper"])
def test_a_chain_arrives_and_is_a_repository_that_verifies_there(server: Server, shelf: Shelf, account: str) -> None:
    full = shelf.add()
    child = shelf.add(full)
    with Remote(server.address(account), config=server.config) as remote:
        remote.found(shelf.root)
    for manifest in (full, child):
        assert not ship(server, account, shipment_of(shelf, manifest)).already
    there = LocalRepository.open("there", server.store)
    assert list(there.all_points()) == [full, child]
    assert there.chain(child) == [full, child]
    for manifest in (full, child):
        assert files_of(there.path_of(manifest.id)) == files_of(shelf.repository.path_of(manifest.id))
    assert subprocess.run(["qemu-img", "check", there.path_of(child.id) / "vda.qcow2"], check=False).returncode == 0


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_point_that_is_there_already_crosses_no_second_time(server: Server, shelf: Shelf, account: str) -> None:
    shipment = shipment_of(shelf, shelf.add())
    ship(server, account, shipment)
    again = ship(server, account, shipment)
    assert again.already
    assert again.moved.literal == 0


def test_with_a_shell_nothing_hidden_stays(server: Server, shelf: Shelf) -> None:
    ship(server, "shell", shipment_of(shelf, shelf.add()))
    assert hidden(server) == []


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_child_does_not_appear_before_its_parent(server: Server, shelf: Shelf, account: str) -> None:
    full = shelf.add()
    child = shipment_of(shelf, shelf.add(full))
    with pytest.raises(BrokenChainError):
        ship(server, account, child)
    assert not (server.store / child.manifest.id).exists()
    ship(server, account, shipment_of(shelf, full))
    assert not ship(server, account, child).already
    assert (server.store / child.manifest.id).exists()


def test_a_consolidated_point_crosses_as_the_difference(server: Server, shelf: Shelf) -> None:
    content = os.urandom(BIG)
    full = big_shipment(shelf, content)
    child = shipment_of(shelf, shelf.add(full.manifest))
    for shipment in (full, child):
        ship(server, "shell", shipment)
    changed = 256 << 10
    new = b"".join((content[: BIG // 3], os.urandom(changed), content[BIG // 3 + changed :], os.urandom(1 << 16)))
    consolidated = replaced_by_full(shelf, child, new)
    assert ship(server, "shell", consolidated, base=full.manifest.stamp).moved.sent < 2 * changed
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)
    assert hidden(server) == []


@pytest.mark.parametrize("prune", ["rrsync", "shell"])
@pytest.mark.parametrize("account", ["adder", "keeper"])
def test_a_consolidated_point_replaces_the_old_one_through_the_account_that_prunes(
    server: Server, shelf: Shelf, account: str, prune: str
) -> None:
    content = os.urandom(BIG)
    full = big_shipment(shelf, content)
    child = shipment_of(shelf, shelf.add(full.manifest))
    for shipment in (full, child):
        ship(server, account, shipment)
    consolidated = replaced_by_full(shelf, child, content + os.urandom(1 << 16))
    with pytest.raises(RemoteAccessError):
        ship(server, account, consolidated, base=full.manifest.stamp)
    assert files_of(server.store / child.manifest.id)["manifest.json"] != consolidated.manifest_content
    moved = ship(server, account, consolidated, base=full.manifest.stamp, prune=prune).moved
    assert moved.sent < BIG // 20
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)
    assert ship(server, account, consolidated, prune=prune).already


@pytest.mark.parametrize(
    ("account", "prune"), [("shell", None), ("rrsync", None), ("adder", "rrsync"), ("keeper", "rrsync")]
)
def test_a_bit_that_was_flipped_in_a_point_that_had_arrived_is_mended_with_little(
    server: Server, shelf: Shelf, account: str, prune: str | None
) -> None:
    shipment = big_shipment(shelf, os.urandom(BIG))
    ship(server, account, shipment)
    flip(server.store / shipment.manifest.id / "vda.qcow2", 5_000_000)
    again = ship(server, account, shipment, prune=prune)
    assert not again.already
    assert again.moved.sent < BIG // 20
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_damaged_point_that_the_key_may_not_mend_is_told(server: Server, shelf: Shelf) -> None:
    shipment = shipment_of(shelf, shelf.add())
    ship(server, "adder", shipment)
    flip(server.store / shipment.manifest.id / "vda.qcow2", 70_000)
    with pytest.raises(RemoteAccessError, match="cannot replace"):
        ship(server, "adder", shipment)


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_what_is_damaged_here_is_never_published_there(server: Server, shelf: Shelf, account: str) -> None:
    shipment = shipment_of(shelf, shelf.add())
    flip(shipment.folder / "vda.qcow2", 70_000)
    with pytest.raises(DamagedPointError, match="damaged here"):
        ship(server, account, shipment)
    assert not (server.store / shipment.manifest.id).exists()


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_point_that_was_replaced_or_removed_here_since_it_was_looked_at_is_left_for_the_next_try(
    server: Server, shelf: Shelf, account: str
) -> None:
    full = shelf.add()
    child = shipment_of(shelf, shelf.add(full))
    ship(server, account, shipment_of(shelf, full))
    consolidated = replaced_by_full(shelf, child, os.urandom(1 << 20))
    with pytest.raises(PointChangedError) as changed:
        ship(server, account, child)
    assert changed.value.retryable
    shutil.rmtree(child.folder)
    with pytest.raises(PointChangedError):
        ship(server, account, consolidated)
    assert not (server.store / child.manifest.id).exists()


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_point_that_changes_here_while_it_is_sent_is_not_published_as_a_mixture(
    server: Server, shelf: Shelf, account: str
) -> None:
    shipment = big_shipment(shelf, os.urandom(BIG))

    class Change(NoWatch):
        done = False

        def check(self) -> None:
            arriving = any(path.stat().st_size for path in server.store.glob("*/.incoming-*/vda.qcow2"))
            if arriving and not self.done:
                self.done = True
                replaced_by_full(shelf, shipment, os.urandom(1 << 20))

    change = Change()
    with pytest.raises(PointChangedError):
        ship(server, account, shipment, change)
    assert change.done
    assert not (server.store / shipment.manifest.id / "manifest.json").exists()


def test_a_point_that_changes_here_before_it_becomes_visible_is_shipped_as_it_is_by_the_next_try(
    server: Server, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipment = shipment_of(shelf, shelf.add())
    changed: list[Shipment] = []
    up = Transfer.up

    def change_first(transfer: Transfer, source: Path, target: str, *options: str) -> Moved:
        if target == f"/{shipment.manifest.id}" and not changed:
            changed.append(replaced_by_full(shelf, shipment, os.urandom(1 << 20)))
        return up(transfer, source, target, *options)

    monkeypatch.setattr(Transfer, "up", change_first)
    with pytest.raises(PointChangedError):
        ship(server, "adder", shipment)
    assert not (server.store / shipment.manifest.id / "manifest.json").exists()
    ship(server, "adder", changed[0])
    assert files_of(server.store / shipment.manifest.id) == files_of(changed[0].folder)


def test_a_replacement_that_died_between_its_renames_is_undone_and_done_again(server: Server, shelf: Shelf) -> None:
    full = shipment_of(shelf, shelf.add())
    child = shipment_of(shelf, shelf.add(full.manifest))
    for shipment in (full, child):
        ship(server, "shell", shipment)
    there = server.store / child.manifest.id
    there.rename(there.with_name(f".partial-old-{there.name}"))
    consolidated = replaced_by_full(shelf, child, os.urandom(1 << 20))
    ship(server, "shell", consolidated, base=full.manifest.stamp)
    assert files_of(there) == files_of(consolidated.folder)
    assert hidden(server) == []


def test_a_point_that_arrived_by_rsync_alone_but_for_its_manifest_is_finished(server: Server, shelf: Shelf) -> None:
    shipment = shipment_of(shelf, shelf.add())
    ship(server, "adder", shipment)
    (server.store / shipment.manifest.id / "manifest.json").unlink()
    moved = ship(server, "adder", shipment)
    assert not moved.already
    assert moved.moved.literal == 0
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_file_that_lies_in_the_place_of_a_point_is_no_part_of_it_unless_it_is_the_same(
    server: Server, shelf: Shelf
) -> None:
    shipment = shipment_of(shelf, shelf.add())
    place = server.store / shipment.manifest.id
    place.mkdir(parents=True)
    (place / "vda.qcow2").write_bytes((shipment.folder / "vda.qcow2").read_bytes())
    flip(place / "vda.qcow2", 70_000)
    with pytest.raises(DamagedPointError, match="did not arrive whole"):
        ship(server, "adder", shipment)
    assert not (place / "manifest.json").exists()
    flip(place / "vda.qcow2", 70_000)
    ship(server, "adder", shipment)
    assert files_of(place) == files_of(shipment.folder)


def test_a_folder_that_copies_another_repository_is_refused(server: Server, shelf: Shelf, tmp_path: Path) -> None:
    with server.connection("adder") as connection:
        found(Transfer(connection), shelf.root)
        found(Transfer(connection), shelf.root)
        with pytest.raises(RepositoryFormatError):
            found(Transfer(connection), Shelf(tmp_path / "other").root)


def test_manifests_are_mirrored_and_a_point_is_fetched_by_one_who_may_only_read(
    server: Server, shelf: Shelf, tmp_path: Path
) -> None:
    full = shelf.add()
    child = shelf.add(full)
    with server.connection("shell") as connection:
        found(Transfer(connection), shelf.root)
    for manifest in (full, child):
        ship(server, "shell", shipment_of(shelf, manifest))
    arriving = server.store / full.folder / "20270101T000000Z"
    arriving.mkdir()
    (arriving / "vda.qcow2").write_bytes(b"a point whose manifest is to come")
    with Remote(server.address("reader"), config=server.config) as remote:
        remote.refresh(tmp_path / "mirror")
        mirror = LocalRepository.open("mirror", tmp_path / "mirror")
        assert list(mirror.all_points()) == [full, child]
        remote.fetch(child, tmp_path / "fetched")
    assert files_of(tmp_path / "fetched") == files_of(shelf.repository.path_of(child.id))


def test_a_link_in_the_place_of_a_manifest_leads_nowhere(server: Server, shelf: Shelf, tmp_path: Path) -> None:
    full = shelf.add()
    with server.connection("shell") as connection:
        found(Transfer(connection), shelf.root)
    ship(server, "shell", shipment_of(shelf, full))
    planted = server.store / full.folder / "20270101T000000Z"
    planted.mkdir()
    (planted / "manifest.json").symlink_to(server.store / full.id / "manifest.json")
    with Remote(server.address("reader"), config=server.config) as remote:
        remote.refresh(tmp_path / "mirror")
    [point, damaged] = LocalRepository.open("mirror", tmp_path / "mirror").all_points()
    assert point == full
    assert isinstance(damaged, DamagedPoint)
