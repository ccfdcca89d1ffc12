"""A repository on a real server is added on a page and by a program: its host key is compared first."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kvm_backup.domain.account import Role
from tests.acceptance.service import until
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf
from tests.unit.web.dashboard import Dashboard, csrf_of, running


class Site:
    """A dashboard, a shelf of points, and a server that known_hosts does not hold."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.server.known_hosts.write_text("")
        self.shelf = Shelf(folder / "local")
        self.settings = folder / "kvm-backup.toml"
        self.settings.write_text(
            f'default_repository = "shelf"\n[[repository]]\nname = "shelf"\npath = "{self.shelf.root}"\n'
        )
        variables = {"KVM_BACKUP_SSH_CONFIG": str(self.server.config), "KVM_BACKUP_HOST": "alpha"}
        self.dashboard = Dashboard(folder / "state", variables)

    @property
    def fields(self) -> dict[str, str]:
        """What somebody types."""
        url = str(self.server.address())
        return {"name": "nas", "url": url, "of": "shelf", "keep_local": "all", "bandwidth": "20MiB", "hours": ""}

    def points_there(self) -> list[str]:
        return sorted(f"{path.parent.name}/{path.name}" for path in self.server.store.glob("*--*/2*"))


@pytest.fixture
def site(tmp_path: Path, server: Server) -> Iterator[Site]:
    made = Site(tmp_path, server)
    with running(made.dashboard):
        assert made.dashboard.url
        yield made


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with site.dashboard.logged_in() as client:
        yield client


def send(client: httpx.Client, fields: dict[str, str], *accepted: str) -> httpx.Response:
    csrf = csrf_of(client.get("/repositories/new").text)
    return client.post("/repositories/new", data={"csrf": csrf, **fields, "accepted": list(accepted)})


def mark_in(page: str) -> str:
    """What the page that shows a key sends back."""
    return page.split('name="accepted" value="')[-1].split('"')[0]


def test_a_server_is_added_once_its_key_was_shown_and_what_is_here_is_shipped_without_a_restart(
    site: Site, client: httpx.Client
) -> None:
    point = site.shelf.add()
    shown = send(client, site.fields)
    assert "Is it this server?" in shown.text
    assert "SHA256:" in shown.text
    assert site.server.known_hosts.read_text() == ""
    assert '[[repository]]\nname = "nas"' not in site.settings.read_text()
    added = send(client, site.fields, mark_in(shown.text))
    assert (added.status_code, added.headers.get("location")) == (303, "/repositories"), added.text
    assert site.server.known_hosts.read_text().startswith("server ")
    assert 'bandwidth = "20MiB"' in site.settings.read_text()
    until(lambda: site.points_there() == [point.id], "ship what is here")
    until(lambda: "1 point" in client.get("/repositories").text, "tell what is there")
    [line, *_] = [one for one in site.dashboard.application.audit.newest(limit=50) if one.subject == "nas"]
    assert (line.who, line.action) == ("administrator", "repository.add")


def test_a_key_that_changed_since_it_was_shown_is_told_and_not_trusted(site: Site, client: httpx.Client) -> None:
    first = mark_in(send(client, site.fields).text)
    site.server.stop()
    site.server.new_host_key()
    site.server.start()
    again = send(client, site.fields, first)
    assert "shows another key now than a moment ago" in again.text
    assert first not in again.text
    assert site.server.known_hosts.read_text() == ""
    assert "nas" not in site.settings.read_text()
    assert send(client, site.fields, mark_in(again.text)).status_code == 303


def test_a_program_compares_the_key_too_and_only_an_administrator_adds(site: Site, client: httpx.Client) -> None:
    application = site.dashboard.application
    owner = application.accounts.find("administrator")
    secrets = {role: application.api_tokens.add(owner, role.value, role, 1)[1] for role in Role}
    wanted = {"name": "nas", "url": str(site.server.address()), "copy_of": "shelf"}

    def post(role: Role, **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secrets[role]}"}
        return httpx.post(
            f"{site.dashboard.url}/api/v1/repositories", json=wanted | more, headers=headers, timeout=60
        )

    assert post(Role.OPERATOR).status_code == 403
    asked = post(Role.ADMINISTRATOR)
    assert asked.status_code == 200
    assert asked.json()["fingerprint"].startswith("256 SHA256:")
    assert "nas" not in site.settings.read_text()
    added = post(Role.ADMINISTRATOR, accepted=[asked.json()["mark"]])
    assert added.status_code == 201, added.text
    assert (added.json()["url"], added.json()["copy_of"]) == (wanted["url"], "shelf")
    again = post(Role.ADMINISTRATOR)
    assert (again.status_code, again.json()["code"]) == (422, "bad-argument")


def test_an_account_that_is_refused_is_told_at_the_address_and_nothing_is_added(
    site: Site, client: httpx.Client
) -> None:
    site.server.know_host()
    site.server.authorized.write_text("")
    refused = send(client, site.fields)
    assert refused.status_code == 409
    assert 'id="url-error"' in refused.text
    assert 'value="20MiB"' in refused.text
    assert "nas" not in site.settings.read_text()
