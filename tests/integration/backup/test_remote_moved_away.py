"""Backups of a VM whose images are only at an address that its remote has left."""

from collections.abc import Iterator

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from lab import DiskSpec, Lab
from lab.disks import MIB
from tests.integration.product import Product
from tests.integration.ship.servers import Server

pytestmark = pytest.mark.vm


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    with Server(lab.folder / "server") as made:
        yield made


def test_a_remote_at_a_new_address_that_cannot_be_read_is_whole_again_by_itself_after_one_full_backup(
    lab: Lab, server: Server
) -> None:
    vm = lab.create_vm("moved", [DiskSpec(size=4 * MIB)], guest=False)
    product = Product(lab.folder / "product", f'ssh_config = "{server.config}"\n')
    without = product.settings.read_text()

    def move_to(url: str) -> None:
        product.configure(without)
        product.run("repository", "add", "nas", url, "--yes").succeeded()
        product.configure(f'{product.settings.read_text()}keep_local = "nothing"\n')

    def back_up(number: int) -> tuple[str, str | None]:
        vm.write_blocks("vda", number * 256 * 1024, 64 * 1024, number + 1)
        events = product.run(*product.backup_words(vm.name)).succeeded().events  # it ships what it made
        made = next(event for event in events if event["event"] == "finished")
        return made["mode"], made["reason"]

    move_to(f"{server.address()}")
    modes = [back_up(0), back_up(1)]
    server.store.rename(lab.folder / "old")
    server.store.mkdir()
    move_to(str(server.address("keeper")))
    modes += [back_up(number) for number in range(2, 5)]
    assert modes == [
        ("full", "no-point"),
        ("incremental", None),
        ("incremental", None),  # nobody had looked what the new server holds
        ("full", "chain-unshippable"),
        ("incremental", None),
    ]
    there = LocalRepository.open("there", server.store)
    assert [point.id for point in there.all_points()] == sorted(row["id"] for row in product.points())[3:]
    (folder,) = there.folders()
    newest = there.newest(folder)
    assert isinstance(newest, Manifest)
    assert len(there.chain(newest)) == 2
