"""Failures as pages, as fragments and as problem documents; a fault of ours tells a number and no more."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from kvm_backup.domain import errors
from kvm_backup.domain.account import Role
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.web.app import make_app
from kvm_backup.web.errors import status_of
from tests.unit.web.dashboard import PASSWORD, Dashboard, csrf_of

SECRET = "<b>secret of the traceback</b>"
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The dashboard with pages that fail, and a user."""
    app = make_app(Dashboard(tmp_path_factory.mktemp("broken") / "state").application)

    def fault() -> None:
        raise KeyError(SECRET)

    def ours() -> None:
        raise errors.VmBusyError("another run holds <web>", hint="Wait for it.")

    def number(count: int) -> dict[str, int]:
        return {"count": count}

    handlers: dict[str, Callable[..., Any]] = {"/fault": fault, "/ours": ours, "/number": number}
    for path, handler in handlers.items():
        app.add_api_route(path, handler)
        app.add_api_route(f"/api/v1{path}", handler)
    app.state.application.accounts.add("anne", Role.VIEWER, PASSWORD)
    return app


@pytest.fixture(scope="module")
def cookies(broken: FastAPI) -> httpx.Cookies:
    """Of the user's browser."""

    async def log_in() -> httpx.Cookies:
        async with browser(broken) as client:
            form = await client.get("/login")
            fields = {"csrf": csrf_of(form.text), "name": "anne", "password": PASSWORD}
            assert (await client.post("/login", data=fields)).status_code == 303
            return client.cookies

    return asyncio.run(log_in())


@pytest.fixture
def ask(broken: FastAPI, cookies: httpx.Cookies) -> Ask:
    """Get a page as the user."""

    async def talk(path: str, headers: dict[str, str]) -> httpx.Response:
        async with browser(broken, cookies) as client:
            return await client.get(path, headers=headers)

    return lambda path, **headers: asyncio.run(talk(path, headers))


def browser(app: FastAPI, cookies: httpx.Cookies | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", cookies=cookies)


def log_of(app: FastAPI) -> list[dict[str, Any]]:
    return [json.loads(line) for line in app.state.application.log_file.path.read_text().splitlines()]


@pytest.mark.parametrize("path", ["/fault", "/api/v1/fault"])
@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}], ids=["page", "fragment"])
def test_a_fault_of_ours_shows_a_number_whose_details_are_in_the_log(
    broken: FastAPI, ask: Ask, path: str, headers: dict[str, str]
) -> None:
    answer = ask(path, **headers)
    assert answer.status_code == 500
    assert "KeyError" not in answer.text
    assert "secret" not in answer.text
    assert "content-security-policy" in answer.headers
    incident = re.search(r"incident ([0-9a-f]{12})", answer.text)
    assert incident
    [line] = [line for line in log_of(broken) if line.get("incident") == incident[1]]
    assert (line["event"], line["path"], line["method"]) == ("web-incident", path, "GET")
    assert SECRET in line["error"]
    assert "Traceback" in line["traceback"]


def test_when_even_the_frame_of_the_pages_fails_a_plain_text_tells_the_number(
    broken: FastAPI, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        raise RuntimeError(SECRET)

    monkeypatch.setitem(broken.state._state, "count_alerts", fails)
    answer = ask("/fault")
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/plain")
    assert re.search(r"incident [0-9a-f]{12}", answer.text)
    assert "secret" not in answer.text


def test_an_error_of_a_service_is_told_with_its_hint_and_escaped(ask: Ask) -> None:
    page = ask("/ours")
    assert page.status_code == 409
    assert page.text.startswith("<!doctype html>")
    assert "Another run holds &lt;web&gt;" in page.text
    assert "Wait for it." in page.text


def test_for_htmx_it_is_a_message_above_the_page(ask: Ask) -> None:
    fragment = ask("/ours", **{"HX-Request": "true"})
    assert fragment.status_code == 409
    assert fragment.headers["hx-retarget"] == "#messages"
    assert "<html" not in fragment.text
    assert 'role="alert"' in fragment.text


def test_for_the_api_it_is_a_problem_document(ask: Ask) -> None:
    problem = ask("/api/v1/ours")
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json() == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "code": "vm-busy",
        "detail": "another run holds <web>",
        "hint": "Wait for it.",
    }


def test_a_parameter_that_cannot_be_used_is_named(ask: Ask) -> None:
    page = ask("/number?count=<script>")
    assert page.status_code == 422, page.text
    assert "Count cannot be used" in page.text
    assert "<script>" not in page.text


def test_a_page_that_is_not_there_has_the_look_of_the_others(ask: Ask) -> None:
    page = ask("/no/such/page", **{"Accept-Language": "fr"})
    assert page.status_code == 404
    assert "Introuvable" in page.text
    assert 'href="/schedules"' in page.text


def test_while_the_database_is_away_pages_say_so_and_health_too(tmp_path: Path) -> None:
    app = make_app(Dashboard(tmp_path / "state").application)
    file = tmp_path / "state" / "kvm-backup.db"
    for part in file.parent.glob("kvm-backup.db*"):
        part.unlink()
    file.mkdir()
    app.state.application.history._database.close()

    async def talk() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            cookie = {"Cookie": f"kvm_backup_session={'a' * 43}"}
            return await client.get("/healthz"), await client.get("/", headers={"Accept": "text/html", **cookie})

    health, page = asyncio.run(talk())
    assert health.status_code == 503
    assert health.json()["database"] == "does not answer (database)"
    assert str(tmp_path) not in health.text
    assert page.status_code == 503
    assert "Not available right now" in page.text


def all_errors() -> list[type[KvmBackupError]]:
    found = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, KvmBackupError)
    ]
    return sorted(found, key=lambda error: error.__name__)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.code)
def test_what_is_not_found_is_404_and_every_other_error_has_a_status_too(kind: type[KvmBackupError]) -> None:
    status = status_of(kind.__new__(kind))
    assert status in range(400, 600)
    assert (status == 404) == (kind.exit_code == errors.EXIT_NOT_FOUND)
