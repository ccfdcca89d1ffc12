"""Points that somebody with the adding key put on the server are not taken for this host's."""

from pathlib import Path

import pytest

from kvm_backup.domain.errors import EXIT_NOT_FOUND
from kvm_backup.domain.point import Manifest
from tests.integration.product import Product
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf


class Siege:
    """A host that has shipped two points of `web`, and a thief who can add points beside them."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.variables = {"KVM_BACKUP_SSH_CONFIG": str(self.server.config), "TZ": "UTC"}
        self.product = Product(folder / "product", variables=self.variables)
        self.shelf = Shelf(self.product.repository)
        self.own = [self.shelf.add(), self.shelf.add(seed=2)]
        self.product.run("repository", "add", "nas", str(self.server.address()), "--yes").succeeded()
        self.product.run("ship").succeeded()

    def plant(self) -> Manifest:
        """A whole point, newer than all, that this host does not know; the last here is again its own."""
        planted = self.shelf.add(seed=66)
        self.shelf.repository.path_of(planted.id).rename(self.server.store / planted.id)
        self.product.run("repository", "rescan", "nas").succeeded()
        return planted

    def spoil(self) -> None:
        """A manifest, later than all, that nobody can read."""
        point = self.server.store / self.own[0].folder / "20361122T020000Z"
        point.mkdir()
        (point / "manifest.json").write_text("?")
        self.product.run("repository", "rescan", "nas")


def damage(point: Path) -> None:
    """Flip the bits of a byte of its image."""
    [image] = point.glob("*.qcow2")
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 0xFF
    image.write_bytes(content)


@pytest.fixture
def siege(tmp_path: Path, server: Server) -> Siege:
    return Siege(tmp_path, server)


def test_the_latest_point_there_is_the_newest_that_this_host_has_shipped(siege: Siege, tmp_path: Path) -> None:
    planted = siege.plant()
    siege.spoil()
    shown = siege.product.run("point", "show", "web/latest", "-r", "nas").succeeded()
    assert siege.own[-1].id in shown.stdout
    [note] = shown.stderr.splitlines()
    spoilt = f"{planted.folder}/20361122T020000Z (damaged)"
    assert f"not shipped by this host: {planted.id}, {spoilt}; the latest is {siege.own[-1].id}" in note
    assert not siege.product.run("point", "show", siege.own[-1].id, "-r", "nas").succeeded().stderr
    siege.product.run("restore", "web/latest", "-r", "nas", "--to", tmp_path / "out").succeeded()
    assert siege.own[-1].id in siege.product.run("verify", "web/latest", "-r", "nas").succeeded().stdout


def test_a_point_that_this_host_did_not_ship_is_marked_and_restored_only_by_its_id_and_a_word(
    siege: Siege, tmp_path: Path
) -> None:
    planted = siege.plant()
    lines = siege.product.run("point", "list", "-r", "nas").succeeded().stdout.splitlines()
    assert [line.split()[0] for line in lines if "not from this host" in line] == [planted.id]
    marked = {row["id"]: row["foreign"] for row in siege.product.points(repository="nas")}
    assert marked == {planted.id: True} | {own.id: False for own in siege.own}
    refused = siege.product.run("restore", planted.id, "-r", "nas", "--to", tmp_path / "out").failed(1)
    assert "was not shipped by this host" in refused.stderr
    assert not (tmp_path / "out").exists()
    taken = siege.product.run("restore", planted.id, "-r", "nas", "--to", tmp_path / "out", "--yes").succeeded()
    assert "was not shipped by this host" in taken.stderr


@pytest.mark.parametrize("words", [(), ("--vm", "web"), ("--deep",)], ids=["all", "of a VM", "deep"])
def test_a_damaged_point_of_somebody_else_is_told_and_fails_no_check_of_this_hosts_points(
    siege: Siege, words: tuple[str, ...]
) -> None:
    planted = siege.plant()
    damage(siege.server.store / planted.id)
    siege.spoil()
    checked = siege.product.run("verify", *words, "-r", "nas").succeeded()
    assert all(own.id in checked.stdout for own in siege.own)
    assert planted.id not in checked.stdout
    [told] = [line for line in checked.stderr.splitlines() if "not shipped by this host and not checked" in line]
    assert planted.id in told
    assert "20361122T020000Z" in told
    assert planted.id in siege.product.run("verify", planted.id, "-r", "nas").failed(1).stdout


def test_a_damaged_point_of_this_host_still_fails_the_check(siege: Siege) -> None:
    siege.plant()
    damage(siege.server.store / siege.own[0].id)
    assert siege.own[0].id in siege.product.run("verify", "-r", "nas").failed(1).stdout


def test_no_point_is_the_latest_of_a_vm_of_which_this_host_has_shipped_none(siege: Siege) -> None:
    other = Shelf(siege.shelf.root, vm_name="db", vm_uuid="2b2b3c4d-0000-4000-8000-000000000002")
    planted = other.add()
    folder = siege.server.store / planted.folder
    folder.mkdir()
    other.repository.path_of(planted.id).rename(siege.server.store / planted.id)
    siege.product.run("repository", "rescan", "nas").succeeded()
    refused = siege.product.run("point", "show", "db/latest", "-r", "nas").failed(EXIT_NOT_FOUND)
    assert "holds no point of db that this host has shipped" in refused.stderr


def test_a_host_that_has_shipped_nothing_there_takes_the_newest_of_all(siege: Siege, tmp_path: Path) -> None:
    planted = siege.plant()
    fresh = Product(tmp_path / "fresh", variables=siege.variables)
    fresh.run("repository", "add", "nas", str(siege.server.address()), "--yes", "--only-read").succeeded()
    assert planted.id in fresh.run("point", "show", "web/latest", "-r", "nas").succeeded().stdout
