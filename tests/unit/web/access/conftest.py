"""The real application with its own database, and browsers that talk to it without a network."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.account import AuditEntry, Role
from kvm_backup.services.access import make_access
from kvm_backup.services.passwords import Passwords
from kvm_backup.web.app import make_app

PASSWORD = "trente-deux chevaux"
ADDRESS = "192.0.2.7"
SESSION, FORM = "kvm_backup_session", "kvm_backup_form"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def after(self, **step: float) -> None:
        self.now += timedelta(**step)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes longer than a test."""
    path = tmp_path_factory.mktemp("database") / "kvm-backup.db"
    Database.open(sqlite_url(path)).close()
    return path


@pytest.fixture
def application(tmp_path: Path, empty_database: Path, clock: Clock) -> Application:
    """With a clock of the test's own, and hashes that cost less."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(empty_database, state / "kvm-backup.db")
    made = Application(check({"state_dir": str(state)}, None))
    cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    made.__dict__["access"] = make_access(made.database, clock, cheap)
    return made


@pytest.fixture
def changes() -> list[str]:
    """Who changed something by a route that asks for nothing by itself."""
    return []


@pytest.fixture
def app(application: Application, changes: list[str]) -> FastAPI:
    """The dashboard, and routes whose author forgot to ask who may use them."""
    made = make_app(application)

    def change(request: Request) -> Response:
        changes.append(request.state.user.name)
        return PlainTextResponse("changed")

    for path in ("/things", "/api/v1/things", "/things/{thing}/rename", "/administration/things"):
        made.add_api_route(path, change, methods=["POST", "PUT", "PATCH", "DELETE"])
        made.add_api_route(path, lambda: PlainTextResponse("seen"), methods=["GET"])
    return made


@dataclass
class Browser:
    """Keeps cookies and follows nothing. What is posted has the token of the page that was last looked at."""

    app: FastAPI
    address: str = ADDRESS
    base_url: str = "http://localhost:8080"
    csrf: str = ""
    client: TestClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = TestClient(
            self.app, base_url=self.base_url, client=(self.address, 40000), follow_redirects=False
        )
        self.client.headers["accept"] = "text/html,*/*"

    def get(self, path: str, **headers: str) -> Any:
        answer = self.client.get(path, headers=_as_headers(headers))
        found = re.search(r'name="csrf" value="([^"]+)"', answer.text)
        self.csrf = found[1] if found else self.csrf
        return answer

    def post(self, path: str, fields: dict[str, str] | None = None, /, **headers: str) -> Any:
        """With the token, unless the fields have one."""
        return self.client.post(path, data={"csrf": self.csrf} | (fields or {}), headers=_as_headers(headers))

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> Any:
        """By the form, as a person does."""
        self.get("/login")
        answer = self.post("/login", {"name": name, "password": password} | fields)
        if answer.status_code == 303:
            self.get("/account")
        return answer

    def is_in(self) -> bool:
        """Whether somebody is signed in there."""
        return bool(self.client.get("/account").status_code == 200)

    def cookie(self, name: str = SESSION) -> str | None:
        value: str | None = self.client.cookies.get(name)
        return value

    def present(self, secret: str, name: str = SESSION) -> None:
        """Show a cookie that was not given to this browser."""
        self.client.cookies.clear()
        self.client.cookies.set(name, secret)


def _as_headers(words: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in words.items()}


@pytest.fixture
def open_browser(app: FastAPI) -> Callable[..., Browser]:
    """Another browser, or another address."""

    def browser(**settings: str) -> Browser:
        return Browser(app, **settings)

    return browser


@pytest.fixture
def add_user(application: Application) -> Callable[..., str]:
    """A user with the password PASSWORD; returns the name."""

    def add(name: str, role: Role = Role.VIEWER) -> str:
        return application.accounts.add(name, role, PASSWORD).name

    return add


@pytest.fixture
def admin(add_user: Callable[..., str], open_browser: Callable[..., Browser]) -> Browser:
    """The browser of root, an administrator."""
    return signed_in(open_browser(), add_user("root", Role.ADMINISTRATOR))


def signed_in(browser: Browser, name: str) -> Browser:
    """The browser, once its user is signed in."""
    assert browser.sign_in(name).status_code == 303
    return browser


def page_text(answer: Any) -> str:
    """What a page says, without its tags."""
    return unescape(re.sub(r"<[^>]+>", " ", answer.text))


def audit_of(application: Application) -> list[AuditEntry]:
    """The lines, oldest first."""
    return application.audit.newest(limit=1000)[::-1]
