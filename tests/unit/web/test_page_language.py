"""In which language and theme a page is, and that the switches lead only to pages of ours."""

import httpx
import pytest

from kvm_backup.web.language import _, in_language, ngettext, preferred_language
from kvm_backup.web.preferences import local_path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        ("en-GB,en;q=0.9,fr;q=0.8", "en"),
        ("de-DE,fr;q=0.3,en;q=0.2", "fr"),
        ("de-DE,de", "en"),
        ("fr;q=0", "en"),
        ("fr;q=0,en;q=0.1", "en"),
        ("fr;q=much", "en"),
        ("FR-ca", "fr"),
        ("*", "en"),
        (",;;q,=,", "en"),
    ],
)
def test_the_language_that_the_browser_likes_best_is_taken(header: str, expected: str) -> None:
    assert preferred_language(header) == expected


def test_a_page_is_in_the_language_of_the_browser_until_another_is_chosen(visitor: httpx.Client) -> None:
    french = {"Accept-Language": "fr-FR,fr;q=0.9"}
    page = visitor.get("/login", headers=french).text
    assert '<html lang="fr"' in page
    assert "Aller au contenu" in page
    changed = visitor.get("/preferences?lang=en&back=/login", headers=french)
    assert (changed.status_code, changed.headers["location"]) == (303, "/login")
    page = visitor.get("/login", headers=french).text
    assert '<html lang="en"' in page
    assert "Skip to the content" in page


def test_a_theme_is_kept_and_an_unknown_one_is_not(visitor: httpx.Client) -> None:
    assert 'data-theme="auto"' in visitor.get("/login").text
    visitor.get("/preferences?theme=dark")
    assert 'data-theme="dark"' in visitor.get("/login").text
    assert "set-cookie" not in visitor.get("/preferences?theme=%22%3E&lang=xx").headers
    visitor.get("/preferences?theme=light")
    assert "dark.css" not in visitor.get("/login").text


@pytest.mark.parametrize("header", ['theme="><script>', "lang=<b>", "theme=dark\u00e9"])
def test_a_cookie_of_somebody_else_changes_no_markup(visitor: httpx.Client, header: str) -> None:
    page = visitor.get("/login", headers=[(b"Cookie", header.encode())]).text
    assert 'data-theme="auto"' in page or 'data-theme="dark"' in page
    assert "<script>" not in page


@pytest.mark.parametrize("path", ["/", "/runs", "/runs?state=failed&page=2", "/points/a%2Fb"])
def test_a_switch_leads_back_to_the_page(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "runs",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\n/evil.example",
        "/runs\r\nSet-Cookie: a=b",
    ],
)
def test_a_switch_never_leads_to_another_server(visitor: httpx.Client, path: str) -> None:
    assert local_path(path) == "/"
    assert visitor.get("/preferences", params={"back": path}).headers["location"] == "/"


def test_texts_follow_the_language_of_the_moment() -> None:
    with in_language("fr"):
        assert _("in {amount}", amount="3 h") == "dans 3 h"
        assert ngettext("{count} day", "{count} days", 12345) == "12\u202f345 jours"
        with in_language("en"):
            assert _("in {amount}", amount="3 h") == "in 3 h"
        assert _("now") == "maintenant"
