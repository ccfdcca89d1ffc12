"""The page of repositories: what is known of each, what waits, the buttons, and who may press them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.database.unshippable_points import UnshippablePoints
from kvm_backup.database.waiting_points import WaitingPoints
from kvm_backup.domain.account import Role
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import ShipTask
from kvm_backup.domain.waiting import RemoteFacts, Unshippable, Waiting
from tests.acceptance.service import until
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.dashboard import Dashboard, csrf_of, running

NOW = datetime.now(UTC)
HOSTILE = "<script>alert(1)</script>"


class Port:
    """A dashboard with a repository and two remotes, one only to read from; rows are as the service writes them."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder / "local")
        self.settings = folder / "kvm-backup.toml"
        self.settings.write_text(
            f"""default_repository = "shelf"
[[repository]]
name = "shelf"
path = "{self.shelf.root}"
[[repository]]
name = "nas"
url = "ssh://backup@127.0.0.1:1/srv"
of = "shelf"
bandwidth = "2MiB"
keep_local = "newest-chain"
[[repository]]
name = "old"
url = "ssh://backup@127.0.0.1:1/old"
"""
        )
        self.dashboard = Dashboard(folder / "state", {"KVM_BACKUP_HOST": "alpha"})
        self.application = Application(
            check({"state_dir": str(folder / "state"), "timezone": "Europe/Paris", "host": "alpha"}, None)
        )
        self.store = WaitingPoints(self.application.database, "alpha")

    def waits(self, name: str = "web", remote: str = "nas", *, hours: float = 2.0) -> Waiting:
        """A line of the queue."""
        folder = f"{name}--1a2b3c4d"
        line = Waiting(
            remote, folder, name, VM_UUID, 5 << 20, {f"{folder}/20261122T020000Z": NOW - timedelta(hours=hours)}
        )
        self.store.save([line])
        return line

    def run(self, line: Waiting, state: RunState, result: RunResult = RunResult()) -> Run:  # noqa: B008
        """A run that ships it."""
        history = self.application.history
        run = history.create(
            Run(
                id=f"{line.vm_name:0>32}",
                vm_name=line.vm_name,
                vm_uuid=line.vm_uuid,
                kind=RunKind.SHIP,
                trigger=Trigger.SERVICE,
                host="alpha",
                repository=line.remote,
                requested_mode=None,
                state=RunState.QUEUED,
                created=NOW,
                task=ShipTask(line.folder),
            )
        )
        history.start(run.id)
        if state is RunState.WAITING:
            history.wait(run.id, NOW + timedelta(minutes=30), result)
        return history.get(run.id)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    made = Port(tmp_path_factory.mktemp("port"))
    with running(made.dashboard):
        assert made.dashboard.url
        # From then on the service does not look at what waits by itself: for an hour, nothing but tests writes rows.
        until(lambda: "nas" in made.store.remotes(), "look at what waits", pause=0.1)
        yield made


@pytest.fixture
def client(port: Port) -> Iterator[httpx.Client]:
    with port.dashboard.logged_in() as client:
        yield client


def test_each_repository_is_told_with_what_is_known_of_it(port: Port, client: httpx.Client) -> None:
    port.store.note_remote(RemoteFacts("nas", 12, 7 << 20, 3, NOW - timedelta(hours=3)))
    page = client.get("/repositories").text
    for text in (str(port.shelf.root), "ssh://backup@127.0.0.1:1/srv", "12 points", "7 MiB", "3 h ago", "2 MiB/s"):
        assert text in page.replace("\N{NO-BREAK SPACE}", " "), text
    assert "the newest chain" in page
    assert "Only to restore from: nothing is shipped there." in page
    # Without an account that removes, the rule is only for who prunes by hand.
    assert "everything: nothing is removed there by itself" in page


def test_a_failure_is_told_once_with_what_to_do_and_its_text_is_no_markup(port: Port, client: httpx.Client) -> None:
    line = port.waits("failing")
    told = RunResult(error=f"the key {HOSTILE} was refused", error_code="remote-access", hint="Put it back.")
    run = port.run(line, RunState.WAITING, told)
    # What is wrong is looked up once a second.
    until(lambda: "Put it back." in client.get("/repositories").text, "tell what to do")
    page = client.get("/repositories").text
    assert HOSTILE not in page
    assert page.count("was refused") == 1
    assert f"/runs/{run.id}" in page
    assert "needs you" in page
    port.application.history.request_cancel(run.id)
    port.store.save([], [line.place])


def test_ten_thousand_lines_are_shown_a_page_at_a_time_and_found_by_name(port: Port, client: httpx.Client) -> None:
    lines = [
        Waiting("nas", f"vm{n}--1a2b3c4d", f"vm{n}", VM_UUID, n, {f"p{n}": NOW - timedelta(hours=n)})
        for n in range(10_000)
    ]
    port.store.save(lines)
    try:
        first = client.get("/repositories").text
        assert first.count("/ship/vm") == 50
        assert "vm9999" in first
        assert "10,000 entries" in first
        found = client.get("/repositories", params={"q": "vm4321"}).text
        assert "/ship/vm4321--1a2b3c4d" in found
        assert found.count("/ship/vm") == 1
        assert "Nothing like that waits" in client.get("/repositories", params={"q": "no-such"}).text
    finally:
        port.store.save([], [line.place for line in lines])


def test_what_cannot_be_shipped_is_told_with_what_comes_of_it(port: Port, client: httpx.Client) -> None:
    store = UnshippablePoints(port.application.database, "alpha")
    lines = [
        Unshippable("nas", "a--1a2b3c4d", HOSTILE, VM_UUID, ("p1", "p2"), next_full=True),
        Unshippable("nas", "b--1a2b3c4d", "older", VM_UUID, ("p1",)),
        Unshippable("nas", "c--1a2b3c4d", "unseen", VM_UUID, ("p1",), unsure=True),
    ]
    assert "cannot be shipped" not in client.get("/repositories").text
    store.save(lines)
    try:
        page = client.get("/repositories").text
        assert HOSTILE not in page
        assert "lacks points" in page
        assert "of 3 virtual machines" in page
        assert "every point is where it should be" not in page
        for text in ("next backup will be a full one", "Newer points do not need them", "next shipment looks"):
            assert page.count(text) == 1, text
        found = client.get("/repositories", params={"q": "olde"}).text
        assert ("Newer points do not need them" in found, "a full one" in found) == (True, False)
        french = client.get("/repositories", headers={"Accept-Language": "fr"}).text
        assert "Ce qui ne peut pas être envoyé" in french
        assert "La prochaine sauvegarde sera complète" in french
        told = client.get("/api/v1/repositories").json()["repositories"]
        assert [one["unshippable_points"] for one in told if one["name"] == "nas"] == [4]
    finally:
        store.save([], [line.place for line in lines])


def test_a_viewer_sees_no_buttons_and_none_works(port: Port, client: httpx.Client) -> None:
    line = port.waits("seen")
    with port.dashboard.logged_in(Role.VIEWER) as viewer:
        page = viewer.get("/repositories").text
        assert "seen" in page
        assert "Ship now" not in page
        assert "/repositories/new" not in page
        csrf = csrf_of(page)
        answers = [
            viewer.post(url, data={"csrf": csrf}).status_code
            for url in (f"/repositories/nas/ship/{line.folder}", "/repositories/nas/ship", "/repositories/new")
        ]
    with port.dashboard.logged_in(Role.OPERATOR) as operator:
        page = operator.get("/repositories").text
        assert "Ship now" in page
        answers += [
            operator.get("/repositories/new").status_code,
            operator.post("/repositories/new", data={"csrf": csrf_of(page), "name": "x"}).status_code,
        ]
    assert answers == [403] * 5
    port.store.save([], [line.place])


def test_a_press_on_ship_now_queues_the_run_and_cancel_ends_it(port: Port, client: httpx.Client) -> None:
    point = port.shelf.add()
    folder = point.id.partition("/")[0]
    port.store.save([Waiting("nas", folder, "web", VM_UUID, 5, {point.id: NOW})])
    csrf = csrf_of(client.get("/repositories").text)
    asked = client.post(f"/repositories/nas/ship/{folder}", data={"csrf": csrf})
    assert (asked.status_code, asked.headers["location"]) == (303, "/repositories")
    [run] = [one for one in port.application.history.unfinished_of("alpha") if one.task == ShipTask(folder)]
    assert (run.kind, run.repository) == (RunKind.SHIP, "nas")
    ended = client.post(f"/repositories/nas/cancel/{folder}", data={"csrf": csrf}, follow_redirects=True)
    assert "What waits stays" in ended.text
    nothing = client.post("/repositories/nas/ship/no--1a2b3c4d", data={"csrf": csrf})
    assert nothing.status_code == 404
    assert "nothing waits to be shipped to nas" in nothing.text.lower()


def test_what_cannot_be_used_is_told_at_its_field_and_nothing_typed_is_lost(port: Port, client: httpx.Client) -> None:
    typed = {
        "name": "nas",
        "url": "http://nas",
        "of": "shelf",
        "keep_local": "nothing",
        "bandwidth": "quick",
        "hours": "at night",
        "recipients": "ssh-ed25519 AAAA",
        "prune_url": "",
    }
    before = port.settings.read_text()
    form = client.get("/repositories/new").text
    answer = client.post("/repositories/new", data={"csrf": csrf_of(form)} | typed)
    assert answer.status_code == 422
    for name in ("name", "url", "bandwidth", "hours", "recipients"):
        assert f'id="{name}-error"' in answer.text, name
    for value in ("http://nas", "quick", "at night", "ssh-ed25519 AAAA"):
        assert value in answer.text
    assert '<option value="nothing" selected>' in answer.text
    assert port.settings.read_text() == before


def test_a_secret_is_refused_and_neither_handed_back_nor_kept_anywhere(port: Port, client: httpx.Client) -> None:
    secret = "AGE-SECRET-KEY-1QQQQQQQQQQQ"
    form = client.get("/repositories/new").text
    typed = {"name": "vault", "of": "shelf", "url": "ssh://me:hunter2@host/x", "recipients": f"age1x\n{secret}"}
    answer = client.post("/repositories/new", data={"csrf": csrf_of(form)} | typed)
    assert answer.status_code == 422
    assert "private key" in answer.text
    assert 'value="ssh://me@host/x"' in answer.text
    [line] = [line for line in port.application.audit.newest(limit=20) if line.subject == "vault"]
    kept = answer.text + str(line) + port.dashboard.said + port.application.log_file.path.read_text()
    assert secret not in kept
    assert "hunter2" not in kept


def test_a_server_that_does_not_answer_is_told_at_the_address(port: Port, client: httpx.Client) -> None:
    form = client.get("/repositories/new").text
    typed = {"name": "far", "of": "shelf", "url": "ssh://me@127.0.0.1:1/x", "keep_local": "all"}
    answer = client.post("/repositories/new", data={"csrf": csrf_of(form)} | typed)
    assert answer.status_code == 503
    assert 'id="url-error"' in answer.text
    assert "cannot be reached" in answer.text
    assert 'value="far"' in answer.text
