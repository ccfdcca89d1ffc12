"""The real application on a state folder of its own, and users of each role who look at it."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import HostFacts, VmRecord
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.vm import VmState
from kvm_backup.services.access import make_access
from kvm_backup.services.passwords import Passwords
from kvm_backup.services.schedules.commands import NewSchedule
from kvm_backup.web.app import make_app
from kvm_backup.web.security import csrf
from tests.unit.web.schedules.markup import Element, parse

PASSWORD = "trente-deux chevaux"
FORM = {
    "name": "Nightly",
    "vms": ["web"],
    "type": "daily",
    "clock": "02:00",
    "mode": "incremental",
}


@dataclass
class User:
    """A browser of somebody who is signed in."""

    client: TestClient
    token: str

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Element:
        """A page that is there."""
        answer = self.client.get(url, headers=dict(headers or {}))
        assert answer.status_code == 200, answer.text
        return parse(answer.text)

    def post(
        self, url: str, fields: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a form as a browser does."""
        sent = {"csrf": self.token, **(fields or {})}
        answer: httpx.Response = self.client.post(url, data=sent, headers=dict(headers or {}))
        return answer

    def message(self, answer: httpx.Response) -> str:
        """Where a form that was sent leads to, and what is told there."""
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"]).one(id="messages").text


@dataclass
class Site:
    """The pages, and what they stand on."""

    application: Application
    open_client: Callable[[], TestClient]

    @property
    def file(self) -> Path:
        return self.application.schedule_file.path

    def user(self, role: Role = Role.OPERATOR, language: str = "en") -> User:
        """Somebody with this role."""
        accounts = self.application.accounts
        known = {account.name: account for account in accounts.all()}
        account = known.get(role.value) or accounts.add(role.value, role, PASSWORD)
        secret = self.application.sign_in.begin_for(account, address="192.0.2.7", agent="test").secret
        client = self.open_client()
        client.cookies.set("kvm_backup_session", secret)
        client.headers["accept-language"] = language
        return User(client, csrf.token_for(secret))

    def add(self, name: str = "Nightly", *vms: str, **options: Any) -> Schedule:
        """A schedule, made as the command line makes it."""
        kind, time = options.pop("at", ("daily", "02:00"))
        mode = options.pop("mode", "incremental")
        return self.application.schedules.add(NewSchedule(name, vms or ("web",), kind, time, mode, **options))

    def know(self, *names: str, **facts: Any) -> None:
        """Let the host have VMs of these names."""
        now = datetime.now(UTC)
        records = [
            VmRecord(uuid=f"00000000-0000-4000-8000-{number:012}", name=name, state=VmState.RUNNING, **facts)
            for number, name in enumerate(names)
        ]
        self.application.inventory.save(records)
        self.application.inventory.note_host(HostFacts(listed=now))

    def ran(self, schedule: Schedule, vm: str, state: RunState, created: datetime | None = None) -> Run:
        """A run of a schedule in the history."""
        history = self.application.history
        moment = created or datetime.now(UTC)
        run = history.create(
            Run(
                id=f"{schedule.id[:6]}-{vm}-{moment.timestamp():.0f}",
                vm_name=vm,
                kind=RunKind.BACKUP,
                trigger=Trigger.SCHEDULE,
                host=self.application.host,
                repository="default",
                requested_mode=schedule.backup_mode,
                state=RunState.QUEUED,
                created=moment,
                schedule_id=schedule.id,
                schedule_name=schedule.name,
            )
        )
        if state is not RunState.QUEUED:
            history.start(run.id)
        if state.final:
            history.finish(run.id, state, RunResult())
        return run

    def stored(self) -> list[dict[str, Any]]:
        """What the schedules' file holds."""
        held: list[dict[str, Any]] = json.loads(self.file.read_text()) if self.file.exists() else []
        return held


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes longer than a test."""
    path = tmp_path_factory.mktemp("database") / "kvm-backup.db"
    Database.open(sqlite_url(path)).close()
    return path


@pytest.fixture
def site(tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    (tmp_path / "state").mkdir()
    shutil.copy(empty_database, tmp_path / "state" / "kvm-backup.db")
    settings = {
        "state_dir": str(tmp_path / "state"),
        "timezone": "Europe/Paris",
        "host": "here",
        "repository": [{"name": "nas", "path": str(tmp_path / "nas"), "retention": {"daily": 30}}],
    }
    application = Application(check(settings, None))
    cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    application.__dict__["access"] = make_access(application.database, lambda: datetime.now(UTC), cheap)
    app = make_app(application)
    with ExitStack() as open_clients:

        def open_client() -> TestClient:
            client = TestClient(app, base_url="http://localhost", follow_redirects=False)
            open_clients.callback(client.close)
            return client

        yield Site(application, open_client)


def rows(page: Element) -> list[str]:
    """The names in the list, in its order."""
    return [row.one("th").one("a").text for row in page.one("table").one("tbody").all("tr")]


def path_of(url: str) -> str:
    """An address without its query."""
    return urlsplit(url).path
