"""Links that break, lose, delay or fall silent: nothing lost, little sent twice, whole once they are well again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.connection import SshConnection
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.link import Link, Rules
from tests.integration.ship.points import TOKEN, arriving, big_shipment, files_of, replaced_by_full, shipment_of
from tests.integration.ship.servers import Server, free_port
from tests.unit.builders import Shelf

SIZE = 12 << 20
IN_FLIGHT = 2 << 20
"""ssh's window: so much may be under way when a link breaks, and is lost with it."""


@pytest.fixture
def link(server: Server) -> Link:
    return Link(server)


def ship(server: Server, account: str, shipment: Shipment, base: str | None = None) -> None:
    with Remote(server.address(account), config=server.config, token=TOKEN) as remote:
        remote.ship(shipment, base=base)


def visible(server: Server) -> list[str]:
    return [point.id for point in LocalRepository.open("there", server.store).all_points()]


def found(server: Server, shelf: Shelf) -> None:
    with Remote(server.address("shell"), config=server.config) as remote:
        remote.found(shelf.root)


@pytest.mark.parametrize("account", ["shell", "adder", "keeper"])
def test_a_link_that_breaks_at_nine_tenths_costs_little_more_than_the_file(
    server: Server, shelf: Shelf, link: Link, account: str
) -> None:
    found(server, shelf)
    shipment = big_shipment(shelf, os.urandom(SIZE))
    before = link.sent
    link.follow(Rules(cut_after=SIZE * 9 // 10))
    with pytest.raises(RemoteUnreachableError) as cut:
        ship(server, account, shipment)
    assert cut.value.retryable
    assert "goes on where it was" in cut.value.hint
    assert visible(server) == []
    link.follow(Rules())
    ship(server, account, shipment)
    assert link.sent - before < 1.02 * SIZE + IN_FLIGHT
    assert visible(server) == [shipment.manifest.id]
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


def test_a_consolidated_point_whose_transfer_breaks_crosses_as_little_as_in_one_go(
    server: Server, shelf: Shelf, link: Link
) -> None:
    found(server, shelf)
    content = os.urandom(SIZE)
    full = big_shipment(shelf, content)
    child = shipment_of(shelf, shelf.add(full.manifest))
    for shipment in (full, child):
        ship(server, "shell", shipment)
    changed = 4 << 20
    new = b"".join((content[: SIZE // 2], os.urandom(changed), content[SIZE // 2 :]))
    consolidated = replaced_by_full(shelf, child, new)
    manifest = (server.store / child.manifest.id / "manifest.json").read_bytes()
    before = link.sent
    link.follow(Rules(cut_after=changed * 9 // 10))
    with pytest.raises(RemoteUnreachableError):
        ship(server, "shell", consolidated, full.manifest.stamp)
    assert (server.store / child.manifest.id / "manifest.json").read_bytes() == manifest
    link.follow(Rules())
    ship(server, "shell", consolidated, full.manifest.stamp)
    assert link.sent - before < changed + SIZE // 20 + IN_FLIGHT
    assert files_of(server.store / child.manifest.id) == files_of(consolidated.folder)
    assert visible(server) == [full.manifest.id, child.manifest.id]


def test_a_delay_of_200_ms_changes_nothing(server: Server, shelf: Shelf, link: Link) -> None:
    found(server, shelf)
    shipment = shipment_of(shelf, shelf.add())
    link.follow(Rules(delay=0.1))
    ship(server, "shell", shipment)
    assert visible(server) == [shipment.manifest.id]


def test_a_link_that_falls_silent_is_given_up_and_the_rest_crosses_when_it_is_back(
    server: Server, shelf: Shelf, link: Link
) -> None:
    found(server, shelf)
    shipment = big_shipment(shelf, os.urandom(SIZE))
    before = link.sent
    link.follow(Rules(silent_after=SIZE // 2))
    with (
        pytest.raises(RemoteUnreachableError),
        SshConnection(server.address("shell"), config=server.config, alive_interval=1) as connection,
    ):
        Transfer(connection).up(
            shipment.folder,
            str(server.store / arriving(shipment.manifest)),
            "--append",
            "--mkpath",
        )
    link.follow(Rules())
    ship(server, "shell", shipment)
    assert link.sent - before < 1.02 * SIZE + IN_FLIGHT
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[Server]:
    """A server in a network namespace that loses 30 % of all packets that come in."""
    name = f"kvmb{os.getpid()}"
    host, guest = f"{name}h"[-15:], f"{name}g"[-15:]
    net = f"10.213.{os.getpid() % 250}"
    rule = ["-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP"]
    inside = ["ip", "netns", "exec", name]
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", host, "type", "veth", "peer", "name", guest, "netns", name],
        ["ip", "address", "add", f"{net}.1/30", "dev", host],
        ["ip", "link", "set", host, "up"],
        [*inside, "ip", "address", "add", f"{net}.2/30", "dev", guest],
        [*inside, "ip", "link", "set", guest, "up"],
        [*inside, "iptables", "-A", "INPUT", *rule],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True)
        with Server(tmp_path / "server", host=f"{net}.2", namespace=name, port=free_port()) as server:
            yield server
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_link_that_loses_30_percent_ships_a_chain_in_the_end(lossy: Server, shelf: Shelf) -> None:
    full = shelf.add()
    child = shelf.add(full)
    with Remote(lossy.address("shell"), config=lossy.config) as remote:
        remote.found(shelf.root)
        for manifest in (full, child):
            remote.ship(shipment_of(shelf, manifest))
    assert visible(lossy) == [full.id, child.id]
    for manifest in (full, child):
        assert files_of(lossy.store / manifest.id) == files_of(shelf.repository.path_of(manifest.id))
