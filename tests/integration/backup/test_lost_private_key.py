"""Backups of a VM whose points another server holds for a key that is none any more."""

import subprocess
from collections.abc import Iterator

import pytest

from kvm_backup.repository.encryption.keys import Identities
from lab import DiskSpec, Lab
from lab.disks import MIB
from tests.integration.product import Product
from tests.integration.ship.servers import Server

pytestmark = pytest.mark.vm


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    with Server(lab.folder / "server") as made:
        yield made


def test_after_the_recipient_was_exchanged_one_full_backup_is_made_and_the_new_key_alone_restores_the_newest(
    lab: Lab, server: Server
) -> None:
    vm = lab.create_vm("keyless", [DiskSpec(size=4 * MIB)], guest=False)
    product = Product(lab.folder / "product", f'ssh_config = "{server.config}"\n')
    keys = [Identities.new(), Identities.new()]
    files = [lab.folder / f"{number}.key" for number in range(2)]
    for key, file in zip(keys, files, strict=True):
        file.write_text(key.secrets[0])
        product.run("key", "check", file).succeeded()
    address = str(server.address())
    product.run("repository", "add", "nas", address, "--yes", "--recipient", keys[0].recipients[0]).succeeded()

    def back_up(number: int) -> tuple[str, str | None]:
        vm.write_blocks("vda", number * 256 * 1024, 64 * 1024, number + 1)
        events = product.run(*product.backup_words(vm.name)).succeeded().events  # it ships what it made
        made = next(event for event in events if event["event"] == "finished")
        return made["mode"], made["reason"]

    modes = [back_up(0), back_up(1)]
    product.configure(product.settings.read_text().replace(keys[0].recipients[0], keys[1].recipients[0]))
    modes += [back_up(2), back_up(3)]
    assert modes == [
        ("full", "no-point"),
        ("incremental", None),
        ("full", "chain-closed"),
        ("incremental", None),
    ]
    newest = max(row["id"] for row in product.points())
    new = Product(lab.folder / "new", f'ssh_config = "{server.config}"\n')
    words = ("--only-read", "--yes", "--identity-file", files[1])
    new.run("repository", "add", "nas", address, *words).succeeded()
    restored, live = lab.folder / "restored", lab.folder / "live.qcow2"
    new.run("restore", newest, "--repository", "nas", "--to", restored).succeeded()
    vm.suspend()
    vm.copy_disk("vda", live)
    subprocess.run(["qemu-img", "compare", live, restored / "vda.qcow2"], check=True, capture_output=True)
