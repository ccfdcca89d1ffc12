"""What each role may do, with a session and with a token; and that it ends at once when it is taken away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import ForbiddenError
from kvm_backup.web.security import access
from kvm_backup.web.security.access import Administrator, Operator, Viewer
from tests.unit.web.access.conftest import SESSION, Browser, Clock, signed_in

OpenBrowser = Callable[..., Browser]
AddUser = Callable[..., str]
OPEN_TO_ALL = ("/login", "/healthz", "/favicon.ico", "/static/x/app.css", "/preferences")


@pytest.fixture
def browser_of(add_user: AddUser, open_browser: OpenBrowser) -> Callable[[Role], Browser]:
    return lambda role: signed_in(open_browser(), add_user(role.value, role))


@pytest.fixture
def asking(app: FastAPI) -> None:
    """Routes that ask for a role as page authors do."""

    def for_viewers(user: Viewer) -> str:
        return user.name

    def for_operators(user: Operator) -> str:
        return user.name

    def for_administrators(user: Administrator) -> str:
        return user.name

    for path, route in (
        ("/see/viewer", for_viewers),
        ("/see/operator", for_operators),
        ("/see/administrator", for_administrators),
    ):
        app.add_api_route(path, route)


@pytest.mark.usefixtures("asking")
@pytest.mark.parametrize("role", Role)
def test_a_route_lets_through_the_role_that_it_asks_for_and_those_above(
    browser_of: Callable[[Role], Browser], role: Role
) -> None:
    browser = browser_of(role)
    for asked in Role:
        expected = 200 if list(Role).index(role) >= list(Role).index(asked) else 403
        assert browser.get(f"/see/{asked.value}").status_code == expected


@pytest.mark.parametrize(
    ("role", "changed", "administered"),
    [(Role.VIEWER, 403, 403), (Role.OPERATOR, 200, 403), (Role.ADMINISTRATOR, 200, 200)],
)
def test_a_route_whose_author_forgot_to_ask_is_for_operators_to_change_with_and_administration_for_administrators(
    browser_of: Callable[[Role], Browser], role: Role, changed: int, administered: int
) -> None:
    browser = browser_of(role)
    assert browser.get("/things").status_code == 200
    assert browser.post("/things").status_code == changed
    assert browser.post("/api/v1/things").status_code == changed
    assert browser.get("/administration/things").status_code == administered
    assert browser.post("/administration/things").status_code == administered


def test_without_a_session_only_what_a_sign_in_needs_is_shown(app: FastAPI, open_browser: OpenBrowser) -> None:
    browser = open_browser()
    for path in OPEN_TO_ALL:
        assert browser.get(path).status_code in (200, 303, 404, 503), path
        assert "/login" not in browser.get(path).headers.get("location", ""), path
    for path in _paths(app):
        if path in OPEN_TO_ALL or path.startswith(("/static/", "/setup/")):
            continue
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            answer = browser.client.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code in (303, 401), (method, path)
    for path in ("/openapi.json", "/api/docs", "/metrics", "/nosuch", "/static", "/LOGIN", "/login/", "/healthz/x"):
        assert browser.get(path).status_code == 303, path


def _paths(app: Any) -> list[str]:
    found = [route.path for route in app.routes if hasattr(route, "path")]
    for route in app.routes:
        if hasattr(route, "original_router"):
            found += [inner.path for inner in route.original_router.routes]
    assert "/things" in found
    return sorted(set(found))


def test_what_everybody_may_see_asks_nobody_who_they_are(
    admin: Browser, application: Application, clock: Clock
) -> None:
    root = application.accounts.find("root")
    clock.after(minutes=5)
    before = application.sign_in.sessions_of(root)
    for path in ("/healthz", "/favicon.ico", "/static/x/app.css", "/preferences"):
        admin.client.get(path)
    assert application.sign_in.sessions_of(root) == before
    assert admin.is_in()
    assert application.sign_in.sessions_of(root) != before


def test_a_preflight_of_another_site_learns_nothing(open_browser: OpenBrowser) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = open_browser().client.options("/api/v1/things", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_role_that_is_taken_away_is_gone_with_the_next_request(
    browser_of: Callable[[Role], Browser], application: Application, changes: list[str]
) -> None:
    browser = browser_of(Role.OPERATOR)
    assert browser.post("/things").status_code == 200
    application.accounts.change_role("operator", Role.VIEWER)
    assert browser.post("/things").status_code == 403
    assert changes == ["operator"]


@pytest.mark.parametrize("lose", ["remove", "disable"])
def test_the_cookie_and_the_token_of_a_removed_or_disabled_user_are_worth_nothing_at_once(
    browser_of: Callable[[Role], Browser], application: Application, open_browser: OpenBrowser, lose: str
) -> None:
    browser = browser_of(Role.OPERATOR)
    _token, text = application.api_tokens.add(application.accounts.find("operator"), "x", Role.VIEWER, 1)
    secret = browser.cookie()
    assert secret
    getattr(application.accounts, lose)("operator")
    assert browser.get("/things").headers["location"] == "/login?next=%2Fthings"
    assert browser.post("/things").status_code == 303
    assert _with_token(open_browser(), text).status_code == 401
    application.accounts.enable("operator") if lose == "disable" else application.accounts.add(
        "operator", Role.VIEWER
    )
    browser.present(secret)
    assert not browser.is_in()
    assert _with_token(open_browser(), text).status_code == 401


# Tokens


def _with_token(browser: Browser, text: str, path: str = "/api/v1/things", method: str = "GET") -> Any:
    return browser.client.request(method, path, headers={"authorization": f"Bearer {text}"})


@pytest.mark.parametrize(("role", "expected"), [(Role.VIEWER, 403), (Role.OPERATOR, 200)])
def test_a_token_may_what_its_role_may(
    add_user: AddUser, application: Application, open_browser: OpenBrowser, role: Role, expected: int
) -> None:
    root = application.accounts.find(add_user("root", Role.ADMINISTRATOR))
    _token, text = application.api_tokens.add(root, "x", role, 1)
    assert _with_token(open_browser(), text).status_code == 200
    assert _with_token(open_browser(), text, method="POST").status_code == expected


def test_a_token_above_its_owner_cannot_be_made_not_even_by_a_forged_owner(
    add_user: AddUser, application: Application
) -> None:
    alice = application.accounts.find(add_user("alice", Role.OPERATOR))
    with pytest.raises(ForbiddenError):
        application.api_tokens.add(alice, "x", Role.ADMINISTRATOR, 1)
    pretended = Account(**{name: getattr(alice, name) for name in Account.__slots__} | {"role": Role.ADMINISTRATOR})
    with pytest.raises(ForbiddenError):
        application.api_tokens.add(pretended, "x", Role.ADMINISTRATOR, 1)
    assert application.api_tokens.all() == []


def test_a_token_that_expired_or_was_revoked_is_refused(
    add_user: AddUser, application: Application, open_browser: OpenBrowser, clock: Clock
) -> None:
    alice = application.accounts.find(add_user("alice"))
    _short, short = application.api_tokens.add(alice, "short", Role.VIEWER, 1)
    long, text = application.api_tokens.add(alice, "long", Role.VIEWER, None)
    assert _with_token(open_browser(), short).status_code == 200
    clock.after(days=1)
    refused = _with_token(open_browser(), short)
    assert (refused.status_code, refused.json()["code"]) == (401, "not-signed-in")
    assert _with_token(open_browser(), text).status_code == 200
    application.api_tokens.revoke(long.id)
    assert _with_token(open_browser(), text).status_code == 401


def test_what_a_token_was_made_for_it_may_not_widen(
    add_user: AddUser, application: Application, open_browser: OpenBrowser
) -> None:
    root = application.accounts.find(add_user("root", Role.ADMINISTRATOR))
    _token, text = application.api_tokens.add(root, "x", Role.ADMINISTRATOR, 1)
    for path in ("/account", "/account/tokens", "/account/password", "/administration/users", "/logout"):
        for method in ("GET", "POST"):
            assert _with_token(open_browser(), text, path, method).status_code == 403, path
    assert len(application.api_tokens.all()) == 1


def test_a_token_in_an_address_or_a_cookie_is_none(
    add_user: AddUser, application: Application, open_browser: OpenBrowser
) -> None:
    _token, text = application.api_tokens.add(application.accounts.find(add_user("alice")), "x", Role.VIEWER, 1)
    browser = open_browser()
    assert browser.get(f"/api/v1/things?token={text}&access_token={text}").status_code == 401
    browser.present(text, SESSION)
    assert browser.get("/api/v1/things").status_code == 401


# Answers that go on


@pytest.mark.parametrize("kind", ["text/event-stream", "application/octet-stream"])
def test_an_answer_that_goes_on_ends_when_its_session_does(
    app: FastAPI, admin: Browser, application: Application, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(access, "_RECHECK_SECONDS", 0.0)
    sent: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        for number in range(1000):
            if number == 3:
                await asyncio.to_thread(application.sign_in.end_others, application.accounts.find("root"), None)
            sent.append(number)
            yield b"x"

    def stream(_request: Request) -> StreamingResponse:
        return StreamingResponse(parts(), media_type=kind)

    app.add_route("/stream", stream)
    messages = asyncio.run(_raw(app, "/stream", f"{SESSION}={admin.cookie()}"))
    bodies = [message for message in messages if message["type"] == "http.response.body"]
    assert [message["body"] for message in bodies if message["body"]] == [b"x"] * 3
    assert sent == [0, 1, 2, 3]
    ended = not bodies[-1].get("more_body", False)
    assert ended is (kind == "text/event-stream")


async def _raw(app: FastAPI, path: str, cookie: str) -> list[dict[str, Any]]:
    """What the application sends, as a server would see it."""
    messages: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:8080"), (b"cookie", cookie.encode())],
        "client": ("192.0.2.7", 40000),
        "server": ("localhost", 8080),
    }

    received: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not received:
            await asyncio.Event().wait()
        return received.pop()

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages
