"""Accounts in the API: to read, for administrators, and never to change."""

from collections.abc import Callable

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from tests.unit.web.access.conftest import Browser

ROUTES = ("/api/v1/users", "/api/v1/tokens", "/api/v1/audit")


@pytest.fixture
def token_of(application: Application, add_user: Callable[..., str]) -> Callable[[Role], str]:
    """The text of a token of an administrator, with a role of its own."""
    root = application.accounts.find(add_user("root", Role.ADMINISTRATOR))
    return lambda role: application.api_tokens.add(root, "script", role, 1)[1]


@pytest.mark.parametrize("role", Role)
def test_accounts_are_for_the_tokens_of_administrators_to_read(
    open_browser: Callable[..., Browser], token_of: Callable[[Role], str], role: Role
) -> None:
    headers = {"authorization": f"Bearer {token_of(role)}"}
    client = open_browser().client
    assert client.get("/api/v1/me", headers=headers).json() == {"name": "root", "role": role.value}
    for route in ROUTES:
        answer = client.get(route, headers=headers)
        assert answer.status_code == (200 if role is Role.ADMINISTRATOR else 403), route
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, route, headers=headers, json={}).status_code in (403, 405), (method, route)


def test_what_they_tell_holds_no_secret(
    open_browser: Callable[..., Browser], token_of: Callable[[Role], str], application: Application
) -> None:
    text = token_of(Role.ADMINISTRATOR)
    client = open_browser().client
    client.headers["authorization"] = f"Bearer {text}"
    client.post("/api/v1/things")
    users, tokens, lines = (client.get(route) for route in ROUTES)
    [user] = users.json()
    assert (user["name"], user["role"], user["enabled"]) == ("root", "administrator", True)
    [token] = tokens.json()
    assert (token["name"], token["user_name"], token["last_used"] is not None) == ("script", "root", True)
    [line] = lines.json()
    assert (line["who"], line["via"], line["action"]) == ("root (script)", "token", "thing.create")
    for answer in (users, tokens, lines):
        assert text not in answer.text
        assert "argon2" not in answer.text
        assert "digest" not in answer.text
