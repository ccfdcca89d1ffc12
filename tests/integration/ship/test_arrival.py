"""Points that arrive on a real server, by a shell or by rsync alone, through cuts and damage."""

import os
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.errors import BrokenChainError, RemoteUnreachableError, RepositoryFormatError
from kvm_backup.domain.point import Manifest, Mode, serialize
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.founding import found
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.remote_points import fetch_point, mirror_manifests
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import NoWatch, Transfer
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf, a_disk

BIG = 16 << 20


class CutAt(NoWatch):
    """Cuts the connection once that many bytes are dealt with."""

    def __init__(self, server: Server, total: int) -> None:
        self._server = server
        self._total = total
        self.was_cut = False

    def reached(self, total: int) -> None:
        if total >= self._total and not self.was_cut:
            self.was_cut = True
            self._server.cut()


def shipment_of(shelf: Shelf, manifest: Manifest) -> Shipment:
    return Shipment(shelf.repository.path_of(manifest.id), manifest)


def ship(server: Server, account: str, shipment: Shipment, watch: NoWatch | None = None, **options: str) -> Shipped:
    # rsync tells its progress once a second: slow enough that a cut comes before the end.
    plan = BandwidthPlan(BIG // 8 if watch else None)
    with Remote(server.address(account), config=server.config, plan=plan, watch=watch) as remote:
        return remote.ship(shipment, **options)


def big_shipment(shelf: Shelf, content: bytes) -> Shipment:
    """A point whose image is `content`; nothing of rsync or ssh looks into it."""
    manifest = shelf.add()
    path = shelf.path(manifest)
    path.write_bytes(content)
    digest = by_hand(path)
    grown = manifest.model_copy(update={"disks": (a_disk(image_sha256=digest, bytes_stored=len(content)),)})
    shelf.replace_manifest(manifest, serialize(grown))
    return Shipment(path.parent, grown)


def by_hand(path: Path) -> str:
    script = '(tail -c +65537 "$1"; head -c 65536 "$1") | sha256sum'
    told = subprocess.run(["sh", "-c", script, "sh", path], check=True, capture_output=True, text=True).stdout
    return told.split()[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def hidden(server: Server) -> list[str]:
    return sorted(path.name for path in server.store.glob("*/.*"))


@pytest.mark.parametrize(
    ("account", "kind"), [("shell", Account.SHELL), ("rrsync", Account.RSYNC), ("adder", Account.RSYNC)]
)
def test_what_an_account_allows_is_found_out(server: Server, account: str, kind: Account) -> None:
    with server.connection(account) as connection:
        assert account_of(connection) is kind


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder"])
def test_a_chain_arrives_and_is_a_repository_that_verifies_there(server: Server, shelf: Shelf, account: str) -> None:
    full = shelf.add()
    child = shelf.add(full)
    with server.connection(account) as connection:
        found(Transfer(connection), shelf.root)
    for manifest in (full, child):
        assert not ship(server, account, shipment_of(shelf, manifest)).already
    there = LocalRepository.open("there", server.store)
    assert list(there.all_points()) == [full, child]
    assert there.chain(child) == [full, child]
    for manifest in (full, child):
        assert files_of(there.path_of(manifest.id)) == files_of(shelf.repository.path_of(manifest.id))
    assert subprocess.run(["qemu-img", "check", there.path_of(child.id) / "vda.qcow2"], check=False).returncode == 0


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder"])
def test_a_point_that_is_there_already_crosses_no_second_time(server: Server, shelf: Shelf, account: str) -> None:
    shipment = shipment_of(shelf, shelf.add())
    ship(server, account, shipment)
    again = ship(server, account, shipment)
    assert again.already
    assert again.moved.literal == 0


@pytest.mark.parametrize("account", ["shell", "adder"])
def test_after_a_cut_nothing_is_visible_and_the_rest_alone_crosses(
    server: Server, shelf: Shelf, account: str
) -> None:
    shipment = big_shipment(shelf, os.urandom(BIG))
    cut = CutAt(server, BIG * 3 // 4)
    with pytest.raises(RemoteUnreachableError):
        ship(server, account, shipment, cut)
    assert cut.was_cut
    assert not (server.store / shipment.manifest.id).exists()
    arrived = sum(path.stat().st_size for path in server.store.glob("*/.incoming-*/vda.qcow2"))
    assert BIG // 2 < arrived < BIG
    moved = ship(server, account, shipment).moved
    assert moved.sent < (BIG - arrived) * 1.02 + 65536
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_with_a_shell_nothing_hidden_stays(server: Server, shelf: Shelf) -> None:
    ship(server, "shell", shipment_of(shelf, shelf.add()))
    assert hidden(server) == []


def test_a_child_does_not_appear_before_its_parent(server: Server, shelf: Shelf) -> None:
    full = shelf.add()
    child = shipment_of(shelf, shelf.add(full))
    with pytest.raises(BrokenChainError):
        ship(server, "shell", child)
    assert not (server.store / child.manifest.id).exists()
    ship(server, "shell", shipment_of(shelf, full))
    assert not ship(server, "shell", child).already
    assert (server.store / child.manifest.id).exists()


@pytest.mark.parametrize("account", ["shell", "adder"])
def test_what_was_damaged_on_the_server_while_it_arrived_is_mended(
    server: Server, shelf: Shelf, account: str
) -> None:
    shipment = big_shipment(shelf, os.urandom(BIG))
    with pytest.raises(RemoteUnreachableError):
        ship(server, account, shipment, CutAt(server, BIG // 2))
    [arriving] = server.store.glob("*/.incoming-*/vda.qcow2")
    flip(arriving, 100_000)
    ship(server, account, shipment)
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_bit_that_was_flipped_in_a_point_that_had_arrived_is_mended_with_a_shell(
    server: Server, shelf: Shelf
) -> None:
    shipment = big_shipment(shelf, os.urandom(BIG))
    ship(server, "shell", shipment)
    flip(server.store / shipment.manifest.id / "vda.qcow2", 5_000_000)
    again = ship(server, "shell", shipment, base=shipment.manifest.stamp)
    assert again.moved.sent < BIG // 20
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)
    assert hidden(server) == []


@pytest.mark.parametrize("cut", [False, True])
def test_a_consolidated_point_crosses_as_the_difference(server: Server, shelf: Shelf, *, cut: bool) -> None:
    content = os.urandom(BIG)
    full = big_shipment(shelf, content)
    ship(server, "shell", full)
    child = shipment_of(shelf, shelf.add(full.manifest))
    ship(server, "shell", child)
    new = content[: BIG // 3] + os.urandom(1 << 20) + content[BIG // 3 + (1 << 20) :] + os.urandom(1 << 16)
    consolidated = replaced_by_full(shelf, child, new)
    sent = 0
    if cut:
        with pytest.raises(RemoteUnreachableError):
            ship(server, "shell", consolidated, CutAt(server, BIG // 2), base=full.manifest.stamp)
        assert files_of(server.store / child.manifest.id)["manifest.json"] != consolidated_manifest(consolidated)
    sent += ship(server, "shell", consolidated, base=full.manifest.stamp).moved.sent
    assert sent < BIG // 20
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)
    assert hidden(server) == []


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
    with server.connection("reader") as connection:
        mirror_manifests(Transfer(connection), tmp_path / "mirror")
        mirror = LocalRepository.open("mirror", tmp_path / "mirror")
        assert list(mirror.all_points()) == [full, child]
        fetch_point(Transfer(connection), child, tmp_path / "fetched")
    assert files_of(tmp_path / "fetched") == files_of(shelf.repository.path_of(child.id))


def test_a_link_in_the_place_of_a_manifest_leads_nowhere(server: Server, shelf: Shelf, tmp_path: Path) -> None:
    full = shelf.add()
    with server.connection("shell") as connection:
        found(Transfer(connection), shelf.root)
    ship(server, "shell", shipment_of(shelf, full))
    planted = server.store / full.folder / "20270101T000000Z"
    planted.mkdir()
    (planted / "manifest.json").symlink_to(server.store / full.id / "manifest.json")
    with server.connection("reader") as connection:
        mirror_manifests(Transfer(connection), tmp_path / "mirror")
    [point, damaged] = LocalRepository.open("mirror", tmp_path / "mirror").all_points()
    assert point == full
    assert isinstance(damaged, DamagedPoint)


def flip(path: Path, offset: int) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_by_full(shelf: Shelf, child: Shipment, content: bytes) -> Shipment:
    path = child.folder / "vda.qcow2"
    path.write_bytes(content)
    manifest = child.manifest.model_copy(
        update={
            "mode": Mode.FULL,
            "parent": None,
            "parent_uuid": None,
            "disks": (a_disk(image_sha256=by_hand(path), bytes_stored=len(content)),),
        }
    )
    shelf.replace_manifest(manifest, serialize(manifest))
    return Shipment(child.folder, manifest)


def consolidated_manifest(shipment: Shipment) -> bytes:
    return (shipment.folder / "manifest.json").read_bytes()
