"""What users do with their own accounts, and administrators with all."""

import re
from collections.abc import Callable

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from tests.unit.web.access.conftest import PASSWORD, Browser, Clock, audit_of, page_text, signed_in

OpenBrowser = Callable[..., Browser]
AddUser = Callable[..., str]
OTHER = "quarante-deux zèbres"


@pytest.fixture
def alice(add_user: AddUser, open_browser: OpenBrowser) -> Browser:
    return signed_in(open_browser(), add_user("alice", Role.OPERATOR))


# One's own account


def test_a_new_password_needs_the_old_one_and_ends_the_other_browsers(
    alice: Browser, open_browser: OpenBrowser
) -> None:
    elsewhere = signed_in(open_browser(), "alice")
    wrong = alice.post("/account/password", {"old": OTHER, "new": OTHER, "repeated": OTHER})
    assert (wrong.status_code, "The old password is not right." in page_text(wrong)) == (401, True)
    weak = alice.post("/account/password", {"old": PASSWORD, "new": "alicealice12", "repeated": "alicealice12"})
    assert weak.status_code == 422
    different = alice.post("/account/password", {"old": PASSWORD, "new": OTHER, "repeated": PASSWORD})
    assert different.status_code == 422
    assert elsewhere.is_in()
    good = alice.post("/account/password", {"old": PASSWORD, "new": OTHER, "repeated": OTHER})
    assert good.status_code == 303
    assert alice.is_in()
    assert not elsewhere.is_in()
    assert elsewhere.sign_in("alice", PASSWORD).status_code == 401
    assert elsewhere.sign_in("alice", OTHER).status_code == 303


def test_a_stolen_session_cannot_try_old_passwords_without_end(alice: Browser) -> None:
    tries = [{"old": f"guess {number}", "new": OTHER, "repeated": OTHER} for number in range(7)]
    assert [alice.post("/account/password", fields).status_code for fields in tries] == [401] * 5 + [429] * 2


def test_the_browsers_that_are_signed_in_are_listed_and_signed_out(alice: Browser, open_browser: OpenBrowser) -> None:
    second, third = (open_browser(address=f"198.51.100.{number}") for number in (1, 2))
    second.client.headers["user-agent"] = "<script>alert(1)</script>\x7f"
    third.client.headers["user-agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    for browser in (second, third):
        signed_in(browser, "alice")
    page = alice.get("/account")
    assert "198.51.100.1" in page.text
    assert "Firefox, Linux" in page_text(page)
    assert "<script>alert" not in page.text
    [ending, _other] = re.findall(r'action="(/account/sessions/[0-9a-f]{64}/end)"', page.text)
    assert alice.post(ending).status_code == 303
    assert sorted([second.is_in(), third.is_in()]) == [False, True]
    assert alice.post("/account/sessions/end-others").status_code == 303
    assert [browser.is_in() for browser in (alice, second, third)] == [True, False, False]


def test_nobody_signs_a_browser_of_another_out(alice: Browser, admin: Browser, application: Application) -> None:
    [session] = application.sign_in.sessions_of(application.accounts.find("alice"))
    admin.post(f"/account/sessions/{session.id}/end")
    assert alice.is_in()


def test_a_token_is_shown_once_and_then_only_its_name(
    alice: Browser, open_browser: OpenBrowser, application: Application
) -> None:
    made = alice.post("/account/tokens", {"name": "<b>prometheus</b>", "role": "viewer", "lifetime": "90"})
    assert made.status_code == 201
    [text] = re.findall(r"kvmb_[A-Za-z0-9_-]{43}", made.text)
    page = alice.get("/account")
    assert text not in page.text
    assert "<b>prometheus" not in page.text
    assert "&lt;b&gt;prometheus" in page.text
    answer = open_browser().client.get("/api/v1/things", headers={"authorization": f"Bearer {text}"})
    assert answer.status_code == 200
    [token] = application.api_tokens.all()
    assert token.expires is not None
    assert (token.expires - token.created).days == 90
    assert alice.post(f"/account/tokens/{token.id}/revoke").status_code == 303
    answer = open_browser().client.get("/api/v1/things", headers={"authorization": f"Bearer {text}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"role": "administrator"}, 403),
        ({"role": "root"}, 422),
        ({"role": ""}, 422),
        ({"lifetime": "0"}, 422),
        ({"lifetime": "-1"}, 422),
        ({"lifetime": "99999"}, 422),
        ({"lifetime": "٣"}, 422),
        ({"name": ""}, 422),
        ({"name": "x" * 101}, 422),
        ({"name": "a\r\nb"}, 422),
        ({"name": "a\x00b"}, 422),
    ],
)
def test_a_token_that_cannot_be_is_not_made_and_nothing_typed_is_lost(
    alice: Browser, application: Application, fields: dict[str, str], status: int
) -> None:
    answer = alice.post("/account/tokens", {"name": "my script", "role": "viewer", "lifetime": "90"} | fields)
    assert answer.status_code == status
    assert "kvmb_" not in answer.text
    assert application.api_tokens.all() == []
    if "name" not in fields:
        assert 'value="my script"' in answer.text


def test_only_never_lives_for_ever(alice: Browser, application: Application) -> None:
    alice.post("/account/tokens", {"name": "x", "role": "viewer", "lifetime": "never"})
    alice.post("/account/tokens", {"name": "y", "role": "viewer"})
    expiries = {token.name: token.expires is None for token in application.api_tokens.all()}
    assert expiries == {"x": True, "y": False}


def test_the_token_of_another_cannot_be_revoked(alice: Browser, admin: Browser, application: Application) -> None:
    admin.post("/account/tokens", {"name": "x", "role": "administrator"})
    [token] = application.api_tokens.all()
    assert alice.post(f"/account/tokens/{token.id}/revoke").status_code == 404
    assert len(application.api_tokens.all()) == 1


@pytest.mark.parametrize(
    "path",
    ["/account/password", "/account/tokens", "/account", "/account/sessions/end-others", "/logout"],
)
def test_no_field_of_a_form_raises_a_role(alice: Browser, application: Application, path: str) -> None:
    forged = {"role": "viewer", "is_admin": "1", "user": "root", "user_role": "administrator", "name": "x"}
    alice.post(path, forged | {"role": "administrator"})
    assert application.accounts.find("alice").role is Role.OPERATOR
    assert all(token.role is Role.VIEWER for token in application.api_tokens.all())


# Administration


def test_an_administrator_invites_a_user_by_a_link(
    admin: Browser, open_browser: OpenBrowser, application: Application
) -> None:
    made = admin.post("/administration/users", {"name": "Bob", "role": "operator"})
    assert made.status_code == 201
    [link] = re.findall(r"http://localhost:8080(/setup/[A-Za-z0-9_-]{43})", made.text)
    bob = open_browser()
    bob.get(link)
    assert bob.post(link, {"password": PASSWORD, "repeated": PASSWORD}).status_code == 303
    found = application.accounts.find("bob")
    assert (found.role, found.can_sign_in) == (Role.OPERATOR, True)
    assert link not in admin.get("/administration/users").text


@pytest.mark.parametrize(
    ("name", "role", "status"),
    [
        ("root", "viewer", 409),
        ("<b>", "viewer", 422),
        ("a'--", "viewer", 422),
        ("bob", "emperor", 422),
        ("", "", 422),
    ],
)
def test_a_user_who_cannot_be_is_not_added(
    admin: Browser, application: Application, name: str, role: str, status: int
) -> None:
    answer = admin.post("/administration/users", {"name": name, "role": role})
    assert answer.status_code == status
    assert "<b>" not in answer.text
    assert [user.name for user in application.accounts.all()] == ["root"]


def test_roles_are_changed_users_kept_out_let_in_and_removed(
    admin: Browser, alice: Browser, application: Application
) -> None:
    assert admin.post("/administration/users/alice/role", {"role": "administrator"}).status_code == 303
    assert alice.get("/administration/users").status_code == 200
    assert admin.post("/administration/users/alice/disable").status_code == 303
    assert not alice.is_in()
    assert alice.sign_in("alice").status_code == 401
    assert admin.post("/administration/users/alice/enable").status_code == 303
    assert alice.sign_in("alice").status_code == 303
    asked = admin.get("/administration/users/alice/remove")
    assert "Remove alice?" in page_text(asked)
    assert alice.is_in()
    assert admin.post("/administration/users/alice/remove").status_code == 303
    assert not alice.is_in()
    assert [user.name for user in application.accounts.all()] == ["root"]


@pytest.mark.parametrize(
    ("action", "fields"),
    [("disable", {}), ("remove", {}), ("role", {"role": "viewer"}), ("role", {"role": "operator"})],
)
def test_the_last_administrator_stays(
    admin: Browser, alice: Browser, application: Application, action: str, fields: dict[str, str]
) -> None:
    answer = admin.post(f"/administration/users/root/{action}", fields)
    assert answer.status_code == 409
    assert "only administrator" in page_text(answer)
    root = application.accounts.find("root")
    assert (root.role, root.enabled) == (Role.ADMINISTRATOR, True)
    assert admin.is_in()


def test_who_is_no_administrator_sees_and_changes_nothing_of_others(alice: Browser, application: Application) -> None:
    application.accounts.add("bob", Role.VIEWER, PASSWORD)
    for path in ("", "/users", "/tokens", "/audit", "/users/bob/remove"):
        answer = alice.get(f"/administration{path}")
        assert answer.status_code == 403
        assert "bob" not in page_text(answer)
    for path in ("/users", "/users/alice/role", "/users/bob/remove", "/users/bob/link", "/tokens/x/revoke"):
        assert alice.post(f"/administration{path}", {"role": "administrator", "name": "eve"}).status_code == 403
    assert [(user.name, user.role) for user in application.accounts.all()] == [
        ("alice", Role.OPERATOR),
        ("bob", Role.VIEWER),
    ]


@pytest.mark.parametrize("name", ["nobody", "%2e%2e%2falice", "'%20OR%201=1--", "%00", "<script>alert(1)</script>"])
def test_a_user_who_is_not_there_is_not_found(admin: Browser, name: str) -> None:
    for action in ("remove", "disable", "enable", "link", "role"):
        answer = admin.post(f"/administration/users/{name}/{action}", {"role": "viewer"})
        assert answer.status_code == 404
        assert "<script>alert" not in answer.text


def test_an_administrator_sees_and_revokes_the_tokens_of_all(
    admin: Browser, alice: Browser, application: Application
) -> None:
    alice.post("/account/tokens", {"name": "hers", "role": "viewer"})
    [token] = application.api_tokens.all()
    shown = page_text(admin.get("/administration/tokens"))
    assert "hers" in shown
    assert "alice" in shown
    assert admin.post(f"/administration/tokens/{token.id}/revoke").status_code == 303
    assert application.api_tokens.all() == []


def test_the_audit_log_is_searched_and_turned_page_by_page(admin: Browser, application: Application) -> None:
    for number in range(120):
        admin.post("/administration/users", {"name": f"user{number:03}", "role": "viewer"})
    first = admin.get("/administration/audit")
    assert page_text(first).count("user.add") == 50
    assert "user119" in first.text
    older = re.search(r'href="(/administration/audit\?q=&amp;before=\d+)"', first.text)
    assert older
    second = admin.get(older[1].replace("&amp;", "&"))
    assert "user069" in second.text
    assert "user070" not in second.text
    found = page_text(admin.get("/administration/audit?q=user042"))
    assert found.count("user.add") == 1
    nothing = admin.get("/administration/audit?q=%3Cscript%3Ealert(1)%3C/script%3E")
    assert nothing.status_code == 200
    assert "<script>alert" not in nothing.text
    for hostile in ("before=x", "before=-1", f"before={10**30}", f"q={'x' * 201}"):
        assert admin.get(f"/administration/audit?{hostile}").status_code == 422


@pytest.mark.parametrize("language", ["fr", "en"])
def test_the_pages_are_in_the_language_of_the_browser(admin: Browser, alice: Browser, language: str) -> None:
    admin.client.headers["accept-language"] = language
    for path, french, english in (
        ("/account", "Jetons d'API", "API tokens"),
        ("/administration/users", "Ajouter un utilisateur", "Add a user"),
        ("/administration/tokens", "Aucun jeton d'API", "No API token"),
        ("/administration/audit", "Journal d'audit", "Audit log"),
        ("/administration/users/alice/remove", "Supprimer alice\u202f?", "Remove alice?"),
    ):
        shown = page_text(admin.get(path))
        assert (french in shown, english in shown) == (language == "fr", language == "en"), path


# What is written down


def test_every_change_is_written_down_with_who_from_where_and_what_became_of_it(
    admin: Browser, alice: Browser, application: Application, clock: Clock
) -> None:
    seen = len(audit_of(application))
    alice.post("/things")
    alice.post("/api/v1/things")
    alice.post("/things/a%1b%0ab/rename")
    alice.post("/administration/users", {"name": "eve"})
    alice.post("/things", {"csrf": "wrong"})
    alice.post("/nosuch/path")
    alice.get("/things")
    admin.post("/administration/users/alice/role", {"role": "viewer"})
    admin.post("/administration/users/root/disable")
    admin.post("/administration/users", {"name": "<b>", "role": "viewer"})
    Browser(alice.app, "198.51.100.9").client.post("/things")
    told = [
        (line.who, line.action, line.subject, line.outcome.value, line.detail)
        for line in audit_of(application)[seen:]
    ]
    assert told == [
        ("alice", "thing.create", "", "done", ""),
        ("alice", "thing.create", "", "done", ""),
        ("alice", "thing.rename", "a\\x1b\\nb", "done", ""),
        ("alice", "post /administration/users", "/administration/users", "refused", "forbidden"),
        ("alice", "post /things", "/things", "refused", "forged-request"),
        ("alice", "post /nosuch/path", "/nosuch/path", "failed", "404"),
        ("root", "user.role", "alice", "done", "viewer"),
        ("root", "user.disable", "root", "failed", "409"),
        ("root", "user.add", "<b>", "failed", "422"),
        ("-", "post /things", "/things", "refused", "not-signed-in"),
    ]
    assert audit_of(application)[-1].address == "198.51.100.9"


def test_a_change_by_a_token_names_its_user_and_that_it_was_a_token(
    alice: Browser, application: Application, open_browser: OpenBrowser
) -> None:
    _token, text = application.api_tokens.add(application.accounts.find("alice"), "cron", Role.OPERATOR, 1)
    open_browser().client.post("/api/v1/things", headers={"authorization": f"Bearer {text}"})
    line = audit_of(application)[-1]
    assert (line.who, line.via.value, line.action) == ("alice (cron)", "token", "thing.create")


def test_strangers_cannot_fill_the_audit_log(open_browser: OpenBrowser, application: Application) -> None:
    stranger = open_browser()
    for _number in range(200):
        stranger.client.post("/things")
    assert 0 < len(audit_of(application)) <= 120
