"""Points that a server cannot get, as what they build on is neither there nor here: told, mended by a full one."""

import shutil
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.domain.vm import Vm, VmState
from tests.integration.product import Product
from tests.integration.ship.servers import Server
from tests.integration.shipping.conftest import House
from tests.unit.builders import VM_UUID, Shelf

FULL_NEXT = "The next backup will be a full one"


def unshippable(house: House) -> frozenset[str]:
    """What the next backup of the VM builds nothing on."""
    vm = Vm(name="web", uuid=VM_UUID, state=VmState.STOPPED, disks=())
    return house.application.rules.backup_options(vm, house.application.repository("shelf")).unshippable


def move_to_an_empty_folder(house: House) -> None:
    """All images are at the old address alone; the server at the new one holds an empty copy."""
    shutil.rmtree(house.server.store)
    house.server.store.mkdir()
    house.found()


@pytest.fixture
def moved(house: House) -> tuple[House, Manifest]:
    """A VM whose images are only at the old address, and its newest point, made since the remote has a new one."""
    house.remote["keep_local"] = "nothing"
    house.restart()
    parent = house.shelf.add()
    house.ship()
    assert not house.shelf.path(parent).exists()
    move_to_an_empty_folder(house)
    house.remote["url"] = str(house.server.address("keeper"))
    house.restart()
    return house, house.shelf.add(parent, seed=2)


def test_nothing_is_built_on_a_stuck_point_once_a_shipment_has_looked_until_a_full_one_was_made(
    moved: tuple[House, Manifest],
) -> None:
    house, newest = moved
    assert unshippable(house) == frozenset()
    done = house.application.shipping.service("nas").run(house.points)
    assert done.in_words().endswith("cannot be shipped: 1, so the next backup will be a full one")
    assert unshippable(house) == {newest.id}
    full = house.shelf.add(seed=3)
    assert full.id not in unshippable(house)
    child = house.shelf.add(full, seed=4)
    assert house.ship() == [full.id, child.id]
    assert not {full.id, child.id} & unshippable(house)
    assert not house.shelf.path(child).exists()


def test_a_point_that_only_waits_for_a_server_that_is_away_is_built_on(moved: tuple[House, Manifest]) -> None:
    house, _newest = moved
    house.ship()
    full = house.shelf.add(seed=3)
    house.server.stop()
    with pytest.raises(Exception, match="cannot be reached"):
        house.ship()
    assert full.id in house.waiting()
    child = house.shelf.add(full, seed=4)
    assert not {full.id, child.id} & unshippable(house)


def test_schedules_that_cannot_be_read_keep_no_backup_from_being_made(moved: tuple[House, Manifest]) -> None:
    house, newest = moved
    house.ship()
    assert unshippable(house) == {newest.id}
    house.application.schedule_file.path.write_text("no schedules")
    house.restart()
    assert unshippable(house) == frozenset()


@pytest.fixture
def desk(tmp_path: Path, server: Server) -> tuple[Product, Manifest, Shelf]:
    """The same host by its commands."""
    product = Product(tmp_path / "product", variables={"KVM_BACKUP_SSH_CONFIG": str(server.config), "TZ": "UTC"})
    shelf = Shelf(product.repository)
    parent = shelf.add()
    product.run("repository", "add", "nas", str(server.address()), "--yes").succeeded()
    product.configure(f'{product.settings.read_text()}keep_local = "nothing"\n')
    product.run("ship").succeeded()
    product.run("repository", "add", "new", f"{server.address()}-new", "--yes").succeeded()
    tables = product.settings.read_text().split("[[repository]]")
    product.configure(tables[0] + "[[repository]]" + tables[2].replace('"new"', '"nas"') + 'keep_local = "nothing"\n')
    return product, shelf.add(parent, seed=2), shelf


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_standard_output_tells_what_cannot_be_shipped_and_what_comes_of_it(
    desk: tuple[Product, Manifest, Shelf],
) -> None:
    product, newest, shelf = desk
    before = product.run("ship", "--waiting").succeeded()
    assert "The next shipment looks whether that is so." in one_line(before.stdout)
    assert "nothing waits" not in before.stdout
    assert "so the next backup will be a full one" in product.run("ship").succeeded().stdout
    for words in (["ship"], ["ship", "--waiting"]):
        told = product.run(*words).succeeded().stdout
        assert f"{newest.id} cannot be shipped to nas" in one_line(told)
        assert FULL_NEXT in one_line(told)
        assert "nothing waits" not in told
    (event,) = product.run("ship", "--json").succeeded().events
    assert event["event"] == "notice"
    assert FULL_NEXT in event["message"]
    (waiting,) = product.run("ship", "--waiting", "--json").succeeded().json
    assert (waiting["stuck"], waiting["next_full"], waiting["points"]) == ([newest.id], True, [])
    full = shelf.add(seed=3)
    (waiting,) = product.run("ship", "--waiting", "--json").succeeded().json
    assert (waiting["stuck"], waiting["next_full"], waiting["points"]) == ([newest.id], False, [full.id])
    assert "Newer points do not need them." in one_line(product.run("ship", "--waiting").succeeded().stdout)
