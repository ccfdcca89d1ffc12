"""The service ships what it backs up: by itself, after the server was away, and after it was killed."""

from collections.abc import Iterator

import pytest

from kvm_backup.repository.local import LocalRepository
from lab import Lab, LabVm
from lab.disks import MIB
from tests.acceptance.service import Service, busy_vm, until
from tests.integration.product import Json, Product
from tests.integration.ship.servers import Server

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    return busy_vm(module_lab, "shipped", 8 * MIB)


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    with Server(lab.folder / "server") as made:
        yield made


def service_with(lab: Lab, server: Server, extra: str = "") -> Service:
    """A host that was told of the server as its user would, by a command."""
    product = Product(lab.folder / "product", f'ssh_config = "{server.config}"\n')
    product.run("repository", "add", "nas", str(server.address()), "--yes").succeeded()
    if extra:
        product.configure(f"{product.settings.read_text()}{extra}\n")
    return Service(product)


def shipments(service: Service) -> list[Json]:
    return [run for run in service.runs() if run["kind"] == "ship"]


def points_there(server: Server) -> list[str]:
    there = LocalRepository.open("there", server.store)
    return [f"{folder.name}/{stamp}" for folder in there.folders() for stamp in there.stamps(folder)]


def points_here(service: Service, vm: LabVm) -> list[str]:
    return [f"{point.parent.name}/{point.name}" for point in service.points(vm)]


def test_a_point_is_shipped_by_itself_and_one_made_while_the_server_was_away_once_it_is_back(
    lab: Lab, server: Server, vm: LabVm
) -> None:
    service = service_with(lab, server)
    with service.start():
        service.product.run("backup", vm.name).succeeded()
        until(lambda: points_there(server) == points_here(service, vm), "ship the point", pause=0.3)
        until(lambda: [run["state"] for run in shipments(service)] == ["succeeded"], "end the shipment", pause=0.3)
        server.stop()
        service.product.run("backup", vm.name).succeeded()
        until(lambda: shipments(service)[0]["state"] == "waiting", "wait for the server", pause=0.3)
        assert shipments(service)[0]["error_code"] == "remote-unreachable"
        waiting = service.product.run("ship", "--waiting", "--json").succeeded().json
        assert [(one["vm"], one["repository"], len(one["points"])) for one in waiting] == [(vm.name, "nas", 1)]
        assert waiting[0]["run"] == shipments(service)[0]["id"]
        server.start()
        until(lambda: points_there(server) == points_here(service, vm), "ship it by itself", pause=1.0)
        until(lambda: shipments(service)[0]["state"] == "succeeded", "end the shipment", pause=0.3)
    assert service.product.run("ship", "--waiting", "--json").succeeded().json == []
    assert len(points_there(server)) == 2


def test_killed_while_it_ships_it_goes_on_where_it_was(lab: Lab, server: Server, vm: LabVm) -> None:
    service = service_with(lab, server, 'bandwidth = "1MiB"')
    with service.start() as running:
        service.product.run("backup", vm.name).succeeded()
        until(lambda: _arrived(server) > 3 * MIB, "be half way", pause=0.2)
        running.kill()
        assert points_there(server) == []
        arrived = _arrived(server)
    with service.start():
        until(lambda: points_there(server) == points_here(service, vm), "finish the shipment", pause=0.3)
        until(lambda: shipments(service)[0]["state"] == "succeeded", "end the run", pause=0.3)
    run = shipments(service)[0]
    assert run["attempt"] == 2
    assert run["bytes_stored"] < 1.02 * (run["bytes_read"] - arrived) + 64 * 1024


def _arrived(server: Server) -> int:
    return sum(file.stat().st_size for file in server.store.glob("*/.incoming-*/*.qcow2"))


def test_without_the_service_the_command_ships_and_says_so_when_it_cannot(
    lab: Lab, server: Server, vm: LabVm
) -> None:
    service = service_with(lab, server)
    service.product.run("backup", vm.name).succeeded()
    assert points_there(server) == points_here(service, vm)
    server.stop()
    done = service.product.run("backup", vm.name)
    assert done.status == 3
    assert "cannot be reached" in done.stderr
    assert len(points_here(service, vm)) == 2
    server.start()
    service.product.run("ship", vm.name).succeeded()
    assert points_there(server) == points_here(service, vm)
