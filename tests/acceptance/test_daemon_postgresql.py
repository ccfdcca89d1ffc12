"""The service with its queue and history on PostgreSQL, alone and beside that of another host."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab import Lab, LabVm
from tests.acceptance.service import SLOW, Service, busy_vm, freeze, until
from tests.integration.product import Json, Product, Running
from tests.postgresql import Server, running_server

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def vms(module_lab: Lab) -> list[LabVm]:
    return [busy_vm(module_lab, "busy-a"), busy_vm(module_lab, "busy-b")]


@pytest.fixture
def server() -> Iterator[Server]:
    """One for each test, which may stop it."""
    with running_server() as made:
        yield made


class Hosts:
    """Services of several hosts, each with a state folder of its own, on one database."""

    def __init__(self, lab: Lab, server: Server) -> None:
        self._folder = lab.folder
        self._url = server.new_database().render_as_string(hide_password=False)

    def __call__(self, name: str, folder: str | None = None) -> Service:
        variables = {"KVM_BACKUP_DATABASE__URL": self._url, "KVM_BACKUP_HOST": name}
        return Service(Product(self._folder / (folder or name), SLOW, variables))


@pytest.fixture
def host(lab: Lab, server: Server) -> Hosts:
    return Hosts(lab, server)


def runs_of(service: Service, vm: LabVm) -> list[Json]:
    return [run for run in service.runs() if run["vm_name"] == vm.name]


def ended(service: Service, vm: LabVm) -> Json:
    """The only run of the VM, when it has succeeded."""
    until(lambda: [run["state"] for run in runs_of(service, vm)] == ["succeeded"], "succeed", pause=0.3)
    return runs_of(service, vm)[0]


def said_by(running: Running) -> str:
    """What a process has written to standard error so far."""
    return Path(f"/proc/{running.pid}/fd/2").read_text()


def logged_vms(service: Service) -> set[str]:
    log = service.product.state / "logs" / "kvm-backup.jsonl"
    return {json.loads(line)["vm"] for line in log.read_text().splitlines()}


def test_a_due_schedule_that_is_killed_in_the_copy_is_finished_after_the_restart(
    host: Hosts, vms: list[LabVm]
) -> None:
    service, vm = host("alpha"), vms[0]
    due = service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step="copy")
        freeze(running)
        running.kill()
    assert [run["state"] for run in service.runs()] == ["running"]
    with service.start():
        run = ended(service, vm)
        until(lambda: service.schedule_named("night")["status"] == "scheduled", "settle the schedule")
    assert (run["attempt"], run["late"], run["host"]) == (2, True, "alpha")
    assert datetime.fromisoformat(run["due"]) == due
    assert [point.name for point in service.points(vm)] == [run["point"].split("/")[1]]
    assert {path.name for path in service.product.state.glob("*.db")} == {"catalogue.db"}


def test_services_of_two_hosts_do_their_own_runs_once_each(host: Hosts, vms: list[LabVm]) -> None:
    services = [host("alpha"), host("beta")]
    dues = [service.schedule("night", vm.name) for service, vm in zip(services, vms, strict=True)]
    with services[0].start(), services[1].start():
        found = [ended(services[0], vm) for vm in vms]
    assert [run["host"] for run in found] == ["alpha", "beta"]
    assert [datetime.fromisoformat(run["due"]) for run in found] == dues
    for service, vm, other in zip(services, vms, reversed(vms), strict=True):
        assert logged_vms(service) == {vm.name}
        assert len(service.points(vm)) == 1
        assert service.points(other) == []


def test_what_a_host_was_killed_in_waits_for_it_and_is_not_taken_up_by_another(host: Hosts, vms: list[LabVm]) -> None:
    alpha, beta = host("alpha"), host("beta")
    with alpha.start():
        beta.schedule("night", vms[1].name)
        with beta.start() as running:
            beta.wait_for_line(vms[1], event="step", step="copy")
            freeze(running)
            running.kill()
        alpha.product.backup(vms[0].name)
        assert [run["state"] for run in runs_of(alpha, vms[1])] == ["running"]
        assert alpha.points(vms[1]) == []
        with beta.start():
            assert ended(beta, vms[1])["attempt"] == 2
    assert logged_vms(alpha) == {vms[0].name}
    assert len(beta.points(vms[1])) == 1


def test_a_second_host_of_the_same_name_is_refused_until_the_first_was_killed(host: Hosts) -> None:
    first, second = host("alpha"), host("alpha", "another-folder")
    with first.start() as running:
        refused = second.product.run("daemon").failed(1)
        assert "another service works for a host called alpha" in refused.stderr
        assert "'host'" in refused.stderr
        running.kill()
    with second.start() as running:
        assert running.process.poll() is None


def test_a_server_that_is_away_for_a_while_loses_nothing_and_stops_no_heart(
    host: Hosts, server: Server, vms: list[LabVm]
) -> None:
    service, (vm, other) = host("alpha"), vms
    due = service.schedule("night", vm.name)
    with service.start() as running:
        service.wait_for_line(vm, event="step", step="copy")
        server.stop()
        late = {"name": "day", "id": "d" * 32, "vm_names": [other.name]}
        file = service.product.state / "scheduled_backups.json"
        held = json.loads(file.read_text())
        file.write_text(json.dumps([*held, held[0] | late | {"next_run": due.isoformat()}]))
        until(lambda: len(service.points(vm)) == 1, "make the point without the server")
        until(lambda: "tick: the database" in said_by(running), "miss the server at a tick")
        missed = datetime.now(UTC).isoformat()
        until(lambda: service.heartbeat()["beat"] > missed, "go on without the server")
        server.start()
        runs = [ended(service, one) for one in (vm, other)]
        until(
            lambda: {service.schedule_named(name)["status"] for name in ("night", "day")} == {"scheduled"},
            "settle the schedules",
        )
        assert running.process.poll() is None
    assert [datetime.fromisoformat(run["due"]) for run in runs] == [due, due]
    assert [len(service.points(one)) for one in vms] == [1, 1]
