"""What changes something must come from a page of ours: all that can be forged is refused, for every route."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from starlette.requests import ClientDisconnect

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from tests.unit.web.access.conftest import FORM, PASSWORD, SESSION, Browser, signed_in

OpenBrowser = Callable[..., Browser]


@pytest.fixture
def operator(add_user: Callable[..., str], open_browser: OpenBrowser) -> Browser:
    return signed_in(open_browser(), add_user("olga", Role.OPERATOR))


def test_the_token_of_the_page_lets_a_form_and_a_script_through(operator: Browser, changes: list[str]) -> None:
    assert operator.post("/things").status_code == 200
    assert operator.client.post("/things", headers={"X-CSRF-Token": operator.csrf}).status_code == 200
    json = operator.client.put("/api/v1/things", json={"a": 1}, headers={"X-CSRF-Token": operator.csrf})
    assert json.status_code == 200
    assert changes == ["olga"] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/things", "/api/v1/things", "/things/1/rename"])
def test_without_a_token_no_route_changes_anything_whether_its_author_thought_of_that_or_not(
    operator: Browser, changes: list[str], method: str, path: str
) -> None:
    answer = operator.client.request(method, path)
    assert answer.status_code == 403
    assert changes == []


@pytest.mark.parametrize("token", ["", "x", "0" * 64, "é", "\x00", "None"])
def test_a_wrong_token_is_refused(operator: Browser, changes: list[str], token: str) -> None:
    assert operator.post("/things", {"csrf": token}).status_code == 403
    encoded = {b"X-CSRF-Token": token.encode("latin-1", "replace")}
    assert operator.client.post("/things", headers=encoded).status_code == 403
    assert changes == []


def test_the_token_of_another_session_is_refused_though_it_is_of_the_same_user(
    operator: Browser, open_browser: OpenBrowser, changes: list[str]
) -> None:
    elsewhere = signed_in(open_browser(), "olga")
    assert elsewhere.csrf != operator.csrf
    assert operator.post("/things", {"csrf": elsewhere.csrf}).status_code == 403
    assert changes == []


def test_the_token_of_before_the_sign_in_is_refused_after_it(operator: Browser, changes: list[str]) -> None:
    browser = Browser(operator.app)
    browser.get("/login")
    before = browser.csrf
    browser.post("/login", {"name": "olga", "password": PASSWORD})
    assert browser.post("/things", {"csrf": before}).status_code == 403
    assert changes == []


def test_a_cookie_for_forms_that_somebody_planted_forges_no_token_of_a_session(
    operator: Browser, open_browser: OpenBrowser, changes: list[str]
) -> None:
    stranger = open_browser()
    stranger.get("/login")
    planted = stranger.cookie(FORM)
    assert planted
    operator.client.cookies.set(FORM, planted)
    assert operator.post("/things", {"csrf": stranger.csrf}).status_code == 403
    assert changes == []


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "application/json", ""])
def test_a_token_in_a_body_that_is_no_ordinary_form_does_not_count(
    operator: Browser, changes: list[str], kind: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = operator.client.post("/things", content=f"csrf={operator.csrf}", headers=headers)
    assert answer.status_code == 403
    assert changes == []


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "garbage"},
        {"sec_fetch_site": "same-site", "origin": "http://localhost:8080"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9090"},
        {"origin": "http://localhost:8080.evil.example"},
        {"origin": "http://evil@localhost:8080"},
        {"origin": "null"},
        {"origin": "http://[::1"},
    ],
)
def test_a_request_from_elsewhere_is_refused_although_it_has_the_token(
    operator: Browser, changes: list[str], headers: dict[str, str]
) -> None:
    assert operator.post("/things", {}, **headers).status_code == 403
    assert changes == []


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "same-origin", "origin": "null"},
        {"origin": "http://localhost:8080"},
        {"origin": "https://LOCALHOST:8080"},
    ],
)
def test_a_request_from_a_page_of_ours_passes(operator: Browser, changes: list[str], headers: dict[str, str]) -> None:
    assert operator.post("/things", {}, **headers).status_code == 200
    assert changes == ["olga"]


def test_signing_in_needs_the_token_of_the_form_too(add_user: Callable[..., str], open_browser: OpenBrowser) -> None:
    add_user("alice")
    browser, another = open_browser(), open_browser()
    fields = {"name": "alice", "password": PASSWORD}
    assert browser.post("/login", fields).status_code == 403
    browser.get("/login")
    another.get("/login")
    assert browser.post("/login", fields | {"csrf": another.csrf}).status_code == 403
    assert browser.post("/login", fields, sec_fetch_site="cross-site").status_code == 403
    assert not browser.is_in()
    assert browser.post("/login", fields).status_code == 303


def test_logging_out_needs_the_token(operator: Browser) -> None:
    assert operator.client.post("/logout").status_code == 403
    assert operator.client.get("/logout").status_code == 405
    assert operator.is_in()


def test_a_body_that_is_too_long_is_refused_before_it_is_read(operator: Browser, changes: list[str]) -> None:
    long = operator.client.post("/things", content=b"x" * (1024 * 1024 + 1), headers={"X-CSRF-Token": operator.csrf})
    assert long.status_code == 413

    def chunks() -> object:
        for _chunk in range(40):
            yield b"x" * 32768

    streamed = operator.client.post("/things", content=chunks(), headers={"X-CSRF-Token": operator.csrf})
    assert streamed.status_code == 413
    form = {"content-type": "application/x-www-form-urlencoded"}
    many = operator.client.post("/things", content=f"csrf={operator.csrf}" + "&a=1" * 30_000, headers=form)
    assert many.status_code == 403
    assert changes == []


def test_a_valid_token_of_a_program_needs_no_token_of_a_page_and_hides_behind_no_cookie(
    operator: Browser, application: Application, changes: list[str]
) -> None:
    olga = application.accounts.find("olga")
    _token, text = application.api_tokens.add(olga, "script", Role.OPERATOR, 1)
    bearer = {"authorization": f"Bearer {text}", "sec-fetch-site": "cross-site"}
    assert Browser(operator.app).client.post("/api/v1/things", headers=bearer).status_code == 200
    assert changes == ["olga"]
    for wrong in ("Bearer x", "Bearer ", f"bearer {text}x"):
        answer = operator.client.post("/api/v1/things", headers={"authorization": wrong})
        assert answer.status_code == 401
        assert operator.client.get("/account", headers={"authorization": wrong}).status_code in (303, 401)
    basic = {"authorization": "Basic b2xnYTp4"}
    assert operator.client.post("/things", headers=basic).status_code == 403
    assert operator.client.get("/things", headers=basic).status_code == 200
    assert changes == ["olga"]


def test_a_body_that_did_not_come_whole_changes_nothing(operator: Browser, changes: list[str]) -> None:
    coming = [
        {"type": "http.request", "body": b"vms=web", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[object] = []

    async def receive() -> object:
        return coming.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    headers = [
        (b"host", b"localhost:8080"),
        (b"cookie", f"{SESSION}={operator.cookie()}".encode()),
        (b"x-csrf-token", operator.csrf.encode()),
        (b"content-type", b"application/x-www-form-urlencoded"),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "scheme": "http",
        "path": "/things",
        "raw_path": b"/things",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.7", 40000),
        "server": ("localhost", 8080),
    }
    with suppress(ClientDisconnect):
        asyncio.run(operator.app(scope, receive, send))  # type: ignore[arg-type]
    assert changes == []
