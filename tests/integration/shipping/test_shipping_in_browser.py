"""In a browser: a server is added, and points are seen to leave, to wait while it is away, and to follow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from kvm_backup.domain.account import Role
from tests.acceptance.dashboard_house import show
from tests.browser import barriers, chromium, keep, overflow, sign_in, window
from tests.integration.ship.servers import Server
from tests.integration.shipping.test_adding_by_page import Site
from tests.unit.web.dashboard import PASSWORD, running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: Server) -> Iterator[Site]:
    made = Site(tmp_path, server)
    with running(made.dashboard):
        assert made.dashboard.url
        made.dashboard.application.accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
        yield made


def prune(site: Site) -> None:
    """A run that ends: after it, as after a backup, the service looks what is to be shipped."""
    owner = site.dashboard.application.accounts.find("anne")
    secret = site.dashboard.application.api_tokens.add(owner, "prune", Role.OPERATOR, 1)[1]
    headers = {"Authorization": f"Bearer {secret}"}
    asked = httpx.post(f"{site.dashboard.url}/api/v1/repositories/shelf/prune", headers=headers, timeout=60)
    assert asked.status_code == 202, asked.text


def add_server(page: Page, site: Site) -> None:
    """As a person does it, in the dialog."""
    page.get_by_role("link", name="Add a server").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("nas")
    dialog.get_by_label("Address", exact=True).fill(str(site.server.address()))
    dialog.get_by_role("button", name="Go on").click()
    expect(dialog.locator(".fingerprint")).to_contain_text("SHA256:")
    keep(page, "repositories-host-key")
    dialog.get_by_role("button", name="It is the same").click()
    expect(dialog).to_be_hidden()


def test_a_server_is_added_and_points_leave_wait_and_follow_before_the_users_eyes(
    site: Site, browser: Browser
) -> None:
    first = site.shelf.add()
    with window(browser, site.dashboard.url, locale="en-GB") as page:
        sign_in(page, "anne", PASSWORD)
        show(page, "/repositories")
        expect(page.locator("#repositories")).to_contain_text("Nothing leaves this host yet")
        page.evaluate("window.stayed = true")
        add_server(page, site)
        card = page.locator(".remote")
        expect(card).to_contain_text("1 point")
        expect(card.locator(".badge")).to_contain_text("up to date")
        expect(page.locator("#queue")).to_contain_text("Nothing waits")
        assert site.points_there() == [first.id]
        keep(page, "repositories-up-to-date")

        site.server.stop()
        second = site.shelf.add(first)
        prune(site)
        expect(card).to_contain_text("cannot be reached")
        expect(card.locator(".badge")).to_contain_text("waits for the server")
        expect(page.locator("#queue tbody tr")).to_contain_text("next try")
        keep(page, "repositories-waits")
        # All that was seen so far appeared by itself.
        assert page.evaluate("window.stayed") is True

        site.server.start()
        page.get_by_role("button", name="Ship now web nas").click()
        expect(page.locator("#messages")).to_contain_text("web is shipped to nas now")
        expect(page.locator("#queue")).to_contain_text("Nothing waits")
        expect(card).to_contain_text("2 points")
        assert site.points_there() == [first.id, second.id]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_and_dialogs_keep_nobody_out_and_fit_a_phone(site: Site, browser: Browser, theme: str) -> None:
    site.shelf.add()
    found: dict[str, list[tuple[str, str]]] = {}
    phone = {"width": 390, "height": 844}
    look_like: dict[str, Any] = {"locale": "fr-FR", "color_scheme": theme, "viewport": phone, "bypass_csp": True}
    with window(browser, site.dashboard.url, forgiven="409", **look_like) as page:
        sign_in(page, "anne", PASSWORD)

        def look(name: str) -> None:
            keep(page, f"phone-{theme}-{name}")
            wide = overflow(page)
            found[name] = barriers(page) + ([("wider than its window", str(wide))] if wide else [])

        show(page, "/repositories")
        look("repositories-none")
        page.get_by_role("link", name="Ajouter un serveur").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Nom", exact=True).wait_for()
        look("repositories-form")
        dialog.get_by_label("Nom", exact=True).fill("nas")
        dialog.get_by_label("Adresse", exact=True).fill(str(site.server.address()))
        dialog.get_by_role("button", name="Continuer").click()
        dialog.locator(".fingerprint").wait_for()
        look("repositories-key")
        site.server.authorized.write_text("")
        site.server.know_host()
        dialog.get_by_role("button", name="C'est la même").click()
        expect(dialog.locator(".field-error")).to_be_visible()
        look("repositories-refused")
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_without_javascript_a_server_is_added_all_the_same(site: Site, browser: Browser) -> None:
    with window(browser, site.dashboard.url, locale="en-GB", java_script_enabled=False) as page:
        sign_in(page, "anne", PASSWORD)
        page.goto("/repositories/new")
        page.get_by_label("Name", exact=True).fill("nas")
        page.get_by_label("Address", exact=True).fill(str(site.server.address()))
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("button", name="Back").click()
        expect(page.get_by_label("Name", exact=True)).to_have_value("nas")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("button", name="It is the same").click()
        expect(page.locator("#messages")).to_contain_text("nas is added")
        expect(page.locator(".remote")).to_contain_text("nas")
