"""The link of the first start, and those by which users choose a password."""

from collections.abc import Callable

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from tests.unit.web.access.conftest import PASSWORD, Browser, Clock, audit_of, page_text, signed_in

OpenBrowser = Callable[..., Browser]
BASE = "http://localhost:8080"
GOOD = {"name": "Root", "password": PASSWORD, "repeated": PASSWORD}


def first_link(application: Application) -> str:
    link = application.accounts.first_start_link(BASE)
    assert link is not None
    assert link.startswith(f"{BASE}/setup/")
    return link.removeprefix(BASE)


def test_the_first_administrator_is_made_by_the_link_and_is_signed_in(
    application: Application, open_browser: OpenBrowser
) -> None:
    browser, path = open_browser(), first_link(application)
    assert "first administrator" in page_text(browser.get(path))
    answer = browser.post(path, GOOD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert browser.is_in()
    [root] = application.accounts.all()
    assert (root.name, root.role) == ("root", Role.ADMINISTRATOR)
    assert application.accounts.first_start_link(BASE) is None
    assert signed_in(open_browser(), "root").is_in()


def test_the_link_works_once_and_not_beside_its_successor_nor_after_a_day(
    application: Application, open_browser: OpenBrowser, clock: Clock
) -> None:
    old, new = first_link(application), first_link(application)
    browser = open_browser()
    assert browser.get(old).status_code == 410
    clock.after(hours=24)
    assert browser.get(new).status_code == 410
    path = first_link(application)
    browser.get(path)
    token = browser.csrf
    assert browser.post(path, GOOD).status_code == 303
    stranger = open_browser()
    for secret in (path, old, "/setup/x", "/setup/" + "A" * 43, "/setup/%00", "/setup/'; DROP TABLE users; --"):
        assert stranger.get(secret).status_code == 410
        stranger.get("/login")
        assert stranger.post(secret, GOOD | {"name": "mallory"}).status_code == 410
        assert stranger.post(secret, GOOD | {"csrf": token}).status_code == 403
    assert [user.name for user in application.accounts.all()] == ["root"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"repeated": PASSWORD + "x"}, "not the same"),
        ({"password": "brief", "repeated": "brief"}, "too short"),
        ({"password": "x" * 1001, "repeated": "x" * 1001}, "too long"),
        ({"password": "password1234", "repeated": "password1234"}, "first that anybody tries"),
        ({"name": "averylongname", "password": "averylongname1", "repeated": "averylongname1"}, "user's name"),
        ({"name": ""}, "cannot be a user's name"),
        ({"name": "a b"}, "cannot be a user's name"),
        ({"name": "é"}, "cannot be a user's name"),
        ({"name": "../x"}, "cannot be a user's name"),
        ({"name": "x" * 65}, "cannot be a user's name"),
        ({"name": "<img src=x>"}, "cannot be a user's name"),
        ({"name": "root\r\nSet-Cookie: a=b"}, "cannot be a user's name"),
    ],
)
def test_what_cannot_be_taken_is_told_at_its_field_and_the_link_stays_good(
    application: Application, open_browser: OpenBrowser, fields: dict[str, str], told: str
) -> None:
    browser, path = open_browser(), first_link(application)
    browser.get(path)
    answer = browser.post(path, GOOD | fields)
    assert answer.status_code == 422
    assert told in page_text(answer)
    assert "<img" not in answer.text
    assert fields.get("password", "no password") not in answer.text
    assert application.accounts.all() == []
    assert browser.post(path, GOOD).status_code == 303


def test_an_invited_user_chooses_a_password_and_keeps_name_and_role(
    application: Application, open_browser: OpenBrowser
) -> None:
    application.accounts.add("alice", Role.VIEWER)
    path = application.accounts.link("alice", BASE).removeprefix(BASE)
    browser = open_browser()
    assert "alice" in page_text(browser.get(path))
    answer = browser.post(path, GOOD | {"name": "root", "role": "administrator", "user_id": "1", "enabled": "1"})
    assert answer.status_code == 303
    [alice] = application.accounts.all()
    assert (alice.name, alice.role) == ("alice", Role.VIEWER)
    assert browser.get("/administration/users").status_code == 403


def test_a_link_signs_its_user_in_and_the_one_who_was_signed_in_out(application: Application, admin: Browser) -> None:
    before = admin.cookie()
    assert before
    application.accounts.add("alice", Role.VIEWER)
    path = application.accounts.link("alice", BASE).removeprefix(BASE)
    admin.get(path)
    assert admin.post(path, GOOD).status_code == 303
    assert application.sign_in.who(before) is None


def test_a_link_of_a_disabled_or_removed_user_is_void(application: Application, open_browser: OpenBrowser) -> None:
    for name, lose in (("alice", application.accounts.disable), ("bob", application.accounts.remove)):
        application.accounts.add(name, Role.VIEWER)
        path = application.accounts.link(name, BASE).removeprefix(BASE)
        lose(name)
        assert open_browser().get(path).status_code == 410


def test_no_log_holds_a_link(application: Application, open_browser: OpenBrowser) -> None:
    browser, path = open_browser(), first_link(application)
    secret = path.rsplit("/", 1)[-1]
    browser.get(path)
    browser.post(path, {"csrf": "wrong"})
    browser.post(path, GOOD | {"password": "short", "repeated": "short"})
    browser.post(path, GOOD)
    lines = audit_of(application)
    assert [(line.action, line.outcome.value) for line in lines] == [
        ("post /setup/…", "refused"),
        ("user.choose-password", "failed"),
        ("user.choose-password", "done"),
    ]
    assert lines[-1].who == "root"
    assert secret not in str(lines)


def test_who_opens_the_sign_in_before_there_is_a_user_is_told_what_to_do(
    application: Application, open_browser: OpenBrowser
) -> None:
    assert "There is no user yet." in page_text(open_browser().get("/login"))
    application.accounts.add("alice", Role.VIEWER)
    assert "There is no user yet." not in page_text(open_browser().get("/login"))
