"""The service restores and verifies from another server: killed while it fetches, told to end, started again."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from tests.acceptance.service import Service, second_attempt, until
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.product import Product
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

SLOW = 'bandwidth = "150KiB"\n'


class House:
    """A host whose points, a chain of three, are on a server alone; its service has run once."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.folder = folder
        self.product = Product(folder / "product", variables={"KVM_BACKUP_SSH_CONFIG": str(server.config)})
        self.service = Service(self.product)
        shelf = Shelf(server.root / "shelf")
        self.points: list[Manifest] = [shelf.add()]
        for seed in (2, 3):
            self.points.append(shelf.add(self.points[-1], seed=seed))
        server.store.rmdir()
        shelf.root.rename(server.store)
        self.product.run("repository", "add", "nas", str(server.address()), "--yes").succeeded()
        with self.service.start():
            pass  # it makes the queue

    def slow(self) -> None:
        self.product.configure(self.product.settings.read_text() + SLOW)

    def quick(self) -> None:
        self.product.configure(self.product.settings.read_text().replace(SLOW, ""))

    def ask(self, *words: str | Path) -> str:
        """Queue a run that reads from the server; its id."""
        return self.service.ask(*words, repository="nas")

    def killed_at(self, instant: str, run_id: str) -> None:
        with stopped_at(self.product, instant, "daemon") as service:
            service.kill()
        assert self.service.run_of(run_id)["state"] == "running"

    def fetched(self) -> list[Path]:
        return sorted((self.product.state / "scratch" / "fetched").glob("*/*/*/.*")) + sorted(
            (self.product.state / "scratch" / "fetched").glob("*/*/*/*.qcow2")
        )

    def same_as_there(self, restored: Path) -> None:
        there = self.server.store / self.points[2].id / "vda.qcow2"
        subprocess.run(["qemu-img", "compare", restored, there], check=True, capture_output=True)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Server(tmp_path / "server") as server:
        yield House(tmp_path, server)


def test_a_restore_that_was_killed_while_it_fetched_is_finished_by_the_next_start(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.killed_at("progress:fetch", run_id)
    assert house.fetched() != []
    assert not (house.folder / "out").exists()
    house.quick()
    second_attempt(house.service.ended_after_the_restart(run_id))
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


@pytest.mark.parametrize("instant", ["step:verify", "progress:restore"])
def test_a_restore_that_was_killed_when_all_was_fetched_needs_the_server_no_more(house: House, instant: str) -> None:
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.killed_at(instant, run_id)
    assert len(house.fetched()) == 3
    house.server.stop()
    second_attempt(house.service.ended_after_the_restart(run_id))
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


def test_a_verify_that_was_killed_while_it_fetched_is_done_again(house: House) -> None:
    house.slow()
    run_id = house.ask("verify", house.points[2].id)
    house.killed_at("progress:verify", run_id)
    house.quick()
    run = house.service.ended_after_the_restart(run_id)
    second_attempt(run)
    assert (run["point"], run["repository"]) == (house.points[2].id, "nas")
    assert house.fetched() == []


def test_a_service_that_is_told_to_end_keeps_what_it_has_fetched_for_its_next_start(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.service.told_to_end_in("fetch")
    assert house.service.run_of(run_id)["state"] == "waiting"
    assert house.fetched() != []
    house.quick()
    run = house.service.ended_after_the_restart(run_id)
    assert run["state"] == "succeeded"
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


def test_a_slow_link_keeps_no_other_run_on_the_vm_waiting(house: House) -> None:
    here = Shelf(house.product.repository).add()
    house.slow()
    far = house.ask("to", house.points[2].id, house.folder / "out")
    with stopped_at(house.product, "progress:fetch", "daemon") as service:
        near = house.service.ask("verify", here.id)
        house.server.signal(signal.SIGSTOP)
        service.go_on()
        until(lambda: house.service.run_of(near)["ended"] is not None, "end the run here", pause=0.3)
        assert [house.service.run_of(near)["state"], house.service.run_of(far)["state"]] == ["succeeded", "running"]
        house.server.signal(signal.SIGCONT)
        until(lambda: house.service.run_of(far)["ended"] is not None, "end the run there", pause=0.3)
    assert house.service.run_of(far)["state"] == "succeeded"


def test_a_restore_whose_link_was_cut_fails_and_a_retry_goes_on_with_what_had_come(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    with stopped_at(house.product, "progress:fetch", "daemon") as service:
        house.server.cut()
        service.go_on()
        until(lambda: house.service.run_of(run_id)["ended"] is not None, "end the run", pause=0.3)
    run = house.service.run_of(run_id)
    assert (run["state"], run["error_code"]) == ("failed", "remote-unreachable")
    assert house.fetched() != []
    house.quick()
    house.product.run("run", "retry", run_id).succeeded()
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []
