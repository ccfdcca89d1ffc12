"""Over the network a repository is one of the settings: no user makes root read or write in another folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import HostFacts, VmRecord
from kvm_backup.domain.vm import VmState
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.schedules.commands import NewSchedule
from tests.unit.web.dashboard import Dashboard, csrf_of

UUID = "5b0c9a52-6f0e-4b5e-9a43-2f6d3e1c7a10"
SCHEDULE = {"schedule_type": "daily", "schedule_time": "02:00", "vm_names": ["web"]}


@pytest.fixture
def elsewhere(tmp_path: Path) -> LocalRepository:
    """A repository that the settings do not name."""
    return LocalRepository.create("elsewhere", tmp_path / "elsewhere")


@pytest.fixture
def administrator(dashboard: Dashboard) -> Iterator[httpx.Client]:
    inventory = dashboard.application.inventory
    inventory.save([VmRecord(UUID, "web", VmState.RUNNING)], [])
    inventory.note_host(HostFacts())
    with dashboard.logged_in(Role.ADMINISTRATOR) as client:
        client.headers["X-CSRF-Token"] = csrf_of(client.get("/account").text)
        yield client


def _api_backup(client: httpx.Client, repository: str) -> httpx.Response:
    return client.post(f"/api/v1/vms/{UUID}/backup", json={"mode": "full", "repository": repository})


def _page_backup(client: httpx.Client, repository: str) -> httpx.Response:
    return client.post(f"/vms/{UUID}/backup", data={"mode": "full", "repository": repository})


def _api_prune(client: httpx.Client, repository: str) -> httpx.Response:
    return client.post(f"/api/v1/repositories/{quote(repository, safe='')}/prune")


def _api_verify(client: httpx.Client, repository: str) -> httpx.Response:
    return client.post(f"/api/v1/repositories/{quote(repository, safe='')}/verify", json={})


def _point(client: httpx.Client, repository: str) -> httpx.Response:
    return client.get(f"/points/{quote(repository, safe='')}/web--5b0c9a52/20261122T020000Z")


@pytest.mark.parametrize("ask", [_api_backup, _page_backup, _api_prune, _api_verify, _point])
def test_a_folder_in_place_of_a_repositorys_name_is_not_found(
    ask: Callable[[httpx.Client, str], httpx.Response],
    administrator: httpx.Client,
    elsewhere: LocalRepository,
    dashboard: Dashboard,
) -> None:
    before = dashboard.application.history.newest(limit=1)
    answer = ask(administrator, str(elsewhere.root))
    assert answer.status_code == 404, answer.text
    assert dashboard.application.history.newest(limit=1) == before


def test_a_new_schedule_cannot_write_to_a_folder(administrator: httpx.Client, elsewhere: LocalRepository) -> None:
    wanted = SCHEDULE | {"name": "to a folder", "repository": str(elsewhere.root)}
    answer = administrator.post("/api/v1/schedules", json=wanted)
    assert answer.status_code == 422, answer.text
    assert "default" in answer.json()["hint"]
    assert administrator.get("/api/v1/schedules", params={"search": "to a folder"}).json()["total"] == 0


def test_a_schedule_cannot_be_turned_to_a_folder_but_keeps_the_one_that_root_chose(
    administrator: httpx.Client, elsewhere: LocalRepository, tmp_path: Path, dashboard: Dashboard
) -> None:
    chosen = dashboard.application.schedules.add(
        NewSchedule("by root", ["web"], "daily", "02:00", "full", repository=str(elsewhere.root))
    )
    address = f"/api/v1/schedules/{chosen.id}"
    refused = administrator.patch(address, json={"repository": str(tmp_path / "third")})
    kept = administrator.patch(address, json={"schedule_time": "03:00", "repository": str(elsewhere.root)})
    assert (refused.status_code, kept.status_code) == (422, 200), (refused.text, kept.text)
    assert kept.json()["repository"] == str(elsewhere.root)
