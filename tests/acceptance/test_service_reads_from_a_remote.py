"""The service restores and verifies from another server: killed while it fetches, told to end, started again."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from tests.acceptance.service import Service, until
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.product import Json, Product
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

ROOT = Path(__file__).parents[2]
SLOW = 'bandwidth = "150KiB"\n'
ASK = """
import sys
from kvm_backup.bootstrap import Application
from kvm_backup.domain.task import ToFolder
application = Application.from_environment()
words = sys.argv[2:]
if sys.argv[1] == "verify-here":
    run = application.request_verify(words[0], None, "zoé")
elif sys.argv[1] == "verify":
    run = application.request_verify(words[0], "nas", "zoé", deep=True)
else:
    run = application.request_restore(words[0], ToFolder(words[1]), "nas", "zoé")
print(run.id)
"""


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
        """Queue a run as the web page does; its id."""
        asked = subprocess.run(
            [sys.executable, "-c", ASK, *words],
            env=self.product.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return asked.stdout.strip()

    def run_of(self, run_id: str) -> Json:
        found: Json = self.product.run("run", "show", run_id, "--json").succeeded().json
        return found

    def killed_at(self, instant: str, run_id: str) -> None:
        with stopped_at(self.product, instant, "daemon") as service:
            service.kill()
        assert self.run_of(run_id)["state"] == "running"

    def told_to_end_while_it_fetches(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "tests.integration.faults.driver", "told-to-end:fetch", "daemon"],
            env=self.product.environment,
            check=True,
            capture_output=True,
            timeout=120,
            cwd=ROOT,
        )

    def ended_after_the_restart(self, run_id: str) -> Json:
        with self.service.start():
            until(lambda: self.run_of(run_id)["ended"] is not None, "end the run", pause=0.3)
            return self.run_of(run_id)

    def fetched(self) -> list[Path]:
        return sorted((self.product.state / "scratch" / "fetched").glob("*/*/*/.*")) + sorted(
            (self.product.state / "scratch" / "fetched").glob("*/*/*/*.qcow2")
        )

    def same_as_there(self, restored: Path) -> None:
        there = self.server.store / self.points[2].id / "vda.qcow2"
        subprocess.run(["qemu-img", "compare", restored, there], check=True, capture_output=True)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    server = Server(tmp_path / "server")
    try:
        yield House(tmp_path, server)
    finally:
        server.stop()


def second_attempt(run: Json) -> None:
    assert (run["state"], run["attempt"], run["error"], run["trigger"]) == ("succeeded", 2, None, "web"), run


def test_a_restore_that_was_killed_while_it_fetched_is_finished_by_the_next_start(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.killed_at("progress:fetch", run_id)
    assert house.fetched() != []
    assert not (house.folder / "out").exists()
    house.quick()
    second_attempt(house.ended_after_the_restart(run_id))
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


@pytest.mark.parametrize("instant", ["step:verify", "progress:restore"])
def test_a_restore_that_was_killed_when_all_was_fetched_needs_the_server_no_more(house: House, instant: str) -> None:
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.killed_at(instant, run_id)
    assert len(house.fetched()) == 3
    house.server.stop()
    second_attempt(house.ended_after_the_restart(run_id))
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


def test_a_verify_that_was_killed_while_it_fetched_is_done_again(house: House) -> None:
    house.slow()
    run_id = house.ask("verify", house.points[2].id)
    house.killed_at("progress:verify", run_id)
    house.quick()
    run = house.ended_after_the_restart(run_id)
    second_attempt(run)
    assert (run["point"], run["repository"]) == (house.points[2].id, "nas")
    assert house.fetched() == []


def test_a_service_that_is_told_to_end_keeps_what_it_has_fetched_for_its_next_start(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    house.told_to_end_while_it_fetches()
    assert house.run_of(run_id)["state"] == "waiting"
    assert house.fetched() != []
    house.quick()
    run = house.ended_after_the_restart(run_id)
    assert run["state"] == "succeeded"
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []


def test_a_slow_link_keeps_no_other_run_on_the_vm_waiting(house: House) -> None:
    here = Shelf(house.product.repository).add()
    house.slow()
    far = house.ask("to", house.points[2].id, house.folder / "out")
    with stopped_at(house.product, "progress:fetch", "daemon") as service:
        near = house.ask("verify-here", here.id)
        house.server.signal(signal.SIGSTOP)
        service.go_on()
        until(lambda: house.run_of(near)["ended"] is not None, "end the run here", pause=0.3)
        assert [house.run_of(near)["state"], house.run_of(far)["state"]] == ["succeeded", "running"]
        house.server.signal(signal.SIGCONT)
        until(lambda: house.run_of(far)["ended"] is not None, "end the run there", pause=0.3)
    assert house.run_of(far)["state"] == "succeeded"


def test_a_restore_whose_link_was_cut_fails_and_a_retry_goes_on_with_what_had_come(house: House) -> None:
    house.slow()
    run_id = house.ask("to", house.points[2].id, house.folder / "out")
    with stopped_at(house.product, "progress:fetch", "daemon") as service:
        house.server.cut()
        service.go_on()
        until(lambda: house.run_of(run_id)["ended"] is not None, "end the run", pause=0.3)
    run = house.run_of(run_id)
    assert (run["state"], run["error_code"]) == ("failed", "remote-unreachable")
    assert house.fetched() != []
    house.quick()
    house.product.run("run", "retry", run_id).succeeded()
    house.same_as_there(house.folder / "out" / "vda.qcow2")
    assert house.fetched() == []
