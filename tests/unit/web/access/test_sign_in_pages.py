"""Signing in and out by a browser, and all that somebody may try there."""

from collections.abc import Callable

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Outcome, Role
from tests.unit.web.access.conftest import FORM, PASSWORD, SESSION, Browser, Clock, audit_of, page_text, signed_in

OpenBrowser = Callable[..., Browser]
AddUser = Callable[..., str]
WRONG = "The name or the password is not right"
HOSTILE = [
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example/",
    "/\t/evil.example",
    "/\n//evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/x\r\nSet-Cookie: a=b",
    " //evil.example",
    "",
]


def test_the_name_in_any_letters_and_the_password_sign_in(add_user: AddUser, open_browser: OpenBrowser) -> None:
    add_user("alice")
    browser = open_browser()
    answer = browser.sign_in(" Alice ")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "alice" in page_text(browser.get("/account"))


def test_the_cookies_of_a_session_are_for_this_server_and_no_script(
    add_user: AddUser, open_browser: OpenBrowser
) -> None:
    add_user("alice")
    answer = open_browser().sign_in("alice")
    [session] = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{SESSION}=")]
    assert {part.strip() for part in session.split(";")[1:]} == {
        "HttpOnly",
        "SameSite=lax",
        "Path=/",
        "Max-Age=604800",
    }
    assert answer.headers["cache-control"] == "no-store"


def test_behind_tls_the_cookies_are_bound_to_it(add_user: AddUser, open_browser: OpenBrowser) -> None:
    add_user("alice")
    browser = open_browser(base_url="https://localhost:8080")
    form = browser.get("/login").headers["set-cookie"]
    assert form.startswith(f"__Host-{FORM}=")
    answer = browser.post("/login", {"name": "alice", "password": PASSWORD})
    [session] = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"__Host-{SESSION}=")]
    assert {"Secure", "Path=/", "HttpOnly"} <= {part.strip() for part in session.split(";")}
    assert "Domain" not in session
    assert browser.is_in()
    secret = browser.cookie(f"__Host-{SESSION}")
    assert secret
    browser.present(secret, SESSION)
    assert not browser.is_in()


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong password!"),
        ("alice", ""),
        ("alice", PASSWORD + " "),
        ("alice", PASSWORD.upper()),
        ("nobody", PASSWORD),
        ("", ""),
        ("' OR 1=1 --", PASSWORD),
        ("<script>alert(1)</script>", "x"),
        ("a\x00b", "a\x00b"),
        ("x" * 10_000, "x" * 100_000),
        ("disabled", PASSWORD),
        ("invited", ""),
    ],
)
def test_whatever_is_wrong_the_answer_is_the_same(
    application: Application, add_user: AddUser, open_browser: OpenBrowser, name: str, password: str
) -> None:
    add_user("alice")
    add_user("disabled")
    application.accounts.disable("disabled")
    application.accounts.add("invited", Role.VIEWER)
    browser = open_browser()
    answer = browser.sign_in(name, password)
    assert answer.status_code == 401
    assert WRONG in page_text(answer)
    assert "<script>alert" not in answer.text
    assert not browser.is_in()
    assert SESSION not in answer.headers.get("set-cookie", "")


def test_a_session_that_was_there_before_the_sign_in_is_not_the_one_after_it(
    add_user: AddUser, open_browser: OpenBrowser
) -> None:
    add_user("mallory")
    add_user("alice")
    planted = signed_in(open_browser(), "mallory").cookie()
    assert planted
    victim = open_browser()
    victim.present(planted)
    victim.client.cookies.delete(SESSION)
    victim.get("/login")
    victim.client.cookies.set(SESSION, planted)
    answer = victim.post("/login", {"name": "alice", "password": PASSWORD})
    assert answer.status_code == 303
    [fresh] = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{SESSION}=")]
    assert planted not in fresh
    mallory = open_browser()
    mallory.present(planted)
    assert not mallory.is_in()


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "A" * 44, "../../etc/passwd", "' OR 1=1 --", "\xe9" * 43])
def test_a_cookie_that_we_did_not_give_signs_nobody_in(
    admin: Browser, open_browser: OpenBrowser, secret: str
) -> None:
    cookie = f"{SESSION}={secret}".encode("latin-1")
    assert open_browser().client.get("/account", headers={b"cookie": cookie}).status_code == 303


def test_what_the_database_holds_signs_nobody_in(
    admin: Browser, application: Application, open_browser: OpenBrowser
) -> None:
    root = application.accounts.find("root")
    [session] = application.sign_in.sessions_of(root)
    browser = open_browser()
    browser.present(session.id[:43])
    assert not browser.is_in()
    assert str(admin.cookie()) not in session.id


def test_logging_out_ends_the_session_not_only_the_cookie(admin: Browser, open_browser: OpenBrowser) -> None:
    secret = admin.cookie()
    assert secret
    answer = admin.post("/logout")
    assert answer.headers["location"] == "/login"
    assert not admin.is_in()
    thief = open_browser()
    thief.present(secret)
    assert not thief.is_in()


def test_a_session_ends_by_itself(admin: Browser, clock: Clock) -> None:
    for _half_day in range(13):
        clock.after(hours=11, minutes=59)
        assert admin.is_in()
    clock.after(hours=12)
    answer = admin.get("/account")
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]


@pytest.mark.parametrize("target", HOSTILE)
def test_the_way_back_leads_to_no_other_server(add_user: AddUser, open_browser: OpenBrowser, target: str) -> None:
    add_user("alice")
    browser = open_browser()
    answer = browser.sign_in("alice", next=target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "a=b" not in str(answer.headers)
    again = browser.client.get("/login", params={"next": target})
    assert (again.status_code, again.headers["location"]) == (303, "/")
    form = open_browser().client.get("/login", params={"next": target})
    assert 'name="next" value="/"' in form.text


def test_the_way_back_leads_to_the_page_that_was_asked_for(add_user: AddUser, open_browser: OpenBrowser) -> None:
    add_user("alice")
    browser = open_browser()
    asked = browser.get("/things?q=é&page=2")
    assert (asked.status_code, asked.headers["location"]) == (
        303,
        "/login?next=%2Fthings%3Fq%3D%25C3%25A9%26page%3D2",
    )
    browser.get(asked.headers["location"])
    answer = browser.post("/login", {"name": "alice", "password": PASSWORD, "next": "/things?q=%C3%A9&page=2"})
    assert answer.headers["location"] == "/things?q=%C3%A9&page=2"


def test_who_lost_the_session_is_led_to_the_form_whatever_they_used(open_browser: OpenBrowser) -> None:
    client = open_browser().client
    page = client.get("http://localhost:8080//evil.example/x")
    assert page.headers["location"] == "/login"
    fragment = client.get("/things", headers={"HX-Request": "true", "HX-Current-URL": "http://x.example/runs?page=2"})
    assert (fragment.status_code, fragment.headers["hx-redirect"]) == (401, "/login?next=%2Fruns%3Fpage%3D2")
    hostile = {"HX-Request": "true", "HX-Current-URL": "http://x.example//evil.example"}
    assert client.get("/things", headers=hostile).headers["hx-redirect"] == "/login"
    form = client.post("/things", headers={"Referer": "http://localhost:8080/schedules/new"})
    assert (form.status_code, form.headers["location"]) == (303, "/login?next=%2Fschedules%2Fnew")
    api = client.get("/api/v1/things")
    assert (api.status_code, api.headers["www-authenticate"]) == (401, "Bearer")
    assert api.json()["code"] == "not-signed-in"
    assert client.get("/events", headers={"accept": "text/event-stream"}).status_code == 401
    assert client.get("/nosuch").status_code == 303


def test_a_flood_of_wrong_passwords_is_stopped_and_tells_nobody_who_exists(
    add_user: AddUser, open_browser: OpenBrowser, clock: Clock
) -> None:
    add_user("alice")
    answers = {}
    for name in ("alice", "nobody"):
        browser = open_browser(address=f"192.0.2.{len(name)}")
        browser.get("/login")
        answers[name] = [browser.post("/login", {"name": name, "password": "wrong"}) for _attempt in range(8)]
    for tried in answers.values():
        assert [answer.status_code for answer in tried] == [401] * 5 + [429] * 3
        assert tried[-1].headers["retry-after"] == "15"
    shown = [page_text(tried[-1]).replace("nobody", "alice") for tried in answers.values()]
    assert shown[0] == shown[1]
    guess = open_browser(address="192.0.2.99")
    assert guess.sign_in("alice").status_code == 429
    clock.after(seconds=15)
    assert guess.sign_in("alice").status_code == 303


def test_one_address_tries_many_accounts_but_not_without_end(open_browser: OpenBrowser, clock: Clock) -> None:
    browser = open_browser(address="2001:db8::1")
    browser.get("/login")
    statuses = [browser.post("/login", {"name": f"user{n}", "password": "x"}).status_code for n in range(22)]
    assert statuses == [401] * 20 + [429] * 2
    neighbour = open_browser(address="2001:db8::ffff:2")
    assert neighbour.sign_in("user99", "x").status_code == 429
    assert open_browser(address="2001:db8:0:1::1").sign_in("user99", "x").status_code == 401


def test_the_only_administrator_gets_in_while_others_try(
    admin: Browser, open_browser: OpenBrowser, clock: Clock
) -> None:
    """From where they signed in before at once; from elsewhere after a quarter of an hour at most."""
    admin.post("/logout")
    attacker = open_browser(address="198.51.100.1")
    attacker.get("/login")
    for _hour in range(12):
        attacker.post("/login", {"name": "root", "password": "x"})
        clock.after(minutes=15)
    attacker.post("/login", {"name": "root", "password": "x"})
    elsewhere = open_browser(address="203.0.113.9")
    assert elsewhere.sign_in("root").status_code == 429
    assert admin.sign_in("root").status_code == 303
    clock.after(minutes=15)
    assert elsewhere.sign_in("root").status_code == 303


def test_sign_ins_and_failures_are_written_down_with_where_they_came_from(
    add_user: AddUser, open_browser: OpenBrowser, application: Application
) -> None:
    add_user("alice")
    hostile = "al\x1b[31mice\r\nroot session.sign-in done"
    open_browser(address="198.51.100.1").sign_in(hostile, "x")
    signed_in(open_browser(), "alice").post("/logout")
    told = [(line.who, line.address, line.action, line.subject, line.outcome) for line in audit_of(application)]
    assert told == [
        (
            "-",
            "198.51.100.1",
            "session.sign-in",
            "al\\x1b[31mice\\r\\nroot session.sign-in done",
            Outcome.REFUSED,
        ),
        ("alice", "192.0.2.7", "session.sign-in", "alice", Outcome.DONE),
        ("alice", "192.0.2.7", "session.sign-out", "alice", Outcome.DONE),
    ]


def test_attempts_that_are_not_even_looked_at_do_not_fill_the_audit_log(
    open_browser: OpenBrowser, application: Application
) -> None:
    browser = open_browser()
    browser.get("/login")
    for _attempt in range(30):
        browser.post("/login", {"name": "root", "password": "x"})
    assert len(audit_of(application)) == 5


def test_the_form_is_french_for_who_reads_french(open_browser: OpenBrowser) -> None:
    browser = open_browser()
    browser.client.headers["accept-language"] = "fr-FR,fr;q=0.9"
    browser.get("/login")
    shown = page_text(browser.post("/login", {"name": "x", "password": "y"}))
    assert "Le nom ou le mot de passe n'est pas le bon" in shown
    assert "Se connecter" in shown
