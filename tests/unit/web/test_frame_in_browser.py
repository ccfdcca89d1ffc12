"""The frame of the pages in a real browser: it stays live, tells times as its user does, breaks no rule of ours."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from kvm_backup.domain.account import Role
from kvm_backup.domain.run import RunResult, RunState
from tests.browser import PATIENCE, barriers, chromium, overflow, sign_in, window
from tests.unit.web.dashboard import PASSWORD, Dashboard, running
from tests.unit.web.test_live_events import begun

Open = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Open:
    """A page of somebody who is logged in, on which the browser has nothing to complain of."""

    @contextmanager
    def opened(dashboard: Dashboard, path: str, complaints: str = "", **context: Any) -> Iterator[Page]:
        accounts = dashboard.application.accounts
        if "anne" not in {account.name for account in accounts.all()}:
            accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
        with window(browser, dashboard.url, forgiven=complaints, **context) as page:
            sign_in(page, "anne", PASSWORD)
            page.goto(path)
            yield page

    return opened


def test_a_page_says_that_it_is_live(dashboard: Dashboard, open_page: Open) -> None:
    with open_page(dashboard, "/account", locale="en-GB") as page:
        expect(page.locator("#live-state")).to_have_text("live", timeout=PATIENCE)


def test_a_page_that_lost_its_server_finds_it_again_and_hears_what_it_missed(tmp_path: Path, open_page: Open) -> None:
    with running(Dashboard(tmp_path / "state")) as first:
        port = first.url.rsplit(":", 1)[1]
        run = begun(first.application)
        with open_page(first, f"/runs/{run.id}", "Failed to load|ERR_|^console: htmx:", locale="en-GB") as page:
            expect(page.locator("#live-state")).to_have_text("live", timeout=PATIENCE)
            expect(page.locator(".live-run")).to_contain_text("25%", timeout=PATIENCE)
            assert first.end() == 0
            expect(page.locator("#live-state")).to_contain_text("connection lost", timeout=PATIENCE)
            first.application.history.finish(run.id, RunState.FAILED, RunResult(error="the disk is gone"))
            with running(Dashboard(first.state, {"KVM_BACKUP_WEB__PORT": port})):
                expect(page.locator("#live-state")).to_have_text("live", timeout=2 * PATIENCE)
                expect(page.locator("main")).to_contain_text("The disk is gone", timeout=PATIENCE)


def test_what_was_told_of_a_run_goes_away_when_it_has_ended(dashboard: Dashboard, open_page: Open) -> None:
    run = begun(dashboard.application)
    with open_page(dashboard, f"/runs/{run.id}", locale="en-GB") as page:
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#messages")).to_contain_text("was asked to end")
        dashboard.application.history.finish(run.id, RunState.CANCELLED, RunResult())
        expect(page.locator("#run .badge").first).to_have_text("cancelled", timeout=PATIENCE)
        expect(page.locator("#messages")).to_be_empty()


def test_times_are_those_of_the_browser_and_the_zone_of_the_schedules_is_on_hover(
    dashboard: Dashboard, open_page: Open
) -> None:
    run = begun(dashboard.application)
    try:
        with open_page(
            dashboard, f"/runs/{run.id}", locale="fr-FR", timezone_id="America/New_York", color_scheme="dark"
        ) as page:
            shown = page.locator("main time[data-time=moment]").first
            expect(shown).to_have_text(re.compile(r"^\d\d/\d\d/\d{4} \d\d:\d\d$"))
            there = page.evaluate(
                "stamp => new Intl.DateTimeFormat('fr-FR', {dateStyle: 'short', timeStyle: 'short',"
                " timeZone: 'America/New_York'}).format(new Date(stamp))",
                shown.get_attribute("datetime"),
            )
            expect(shown).to_have_text(there)
            title = shown.get_attribute("title") or ""
            assert "UTC−5" in title or "UTC−4" in title
            assert "Europe/Paris" in title
            expect(page.locator("main time[data-time=ago]").first).to_have_text(re.compile("maintenant|il y a"))
    finally:
        dashboard.application.history.finish(run.id, RunState.CANCELLED, RunResult())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_frame_fits_its_window_and_everybody_can_use_it(
    dashboard: Dashboard, open_page: Open, width: int, theme: str
) -> None:
    look = {"viewport": {"width": width, "height": 800}, "color_scheme": theme, "locale": "fr-FR", "bypass_csp": True}
    with open_page(dashboard, "/no/such/page", "404", **look) as page:
        for path in ("/no/such/page", "/account"):
            page.goto(path)
            assert overflow(page) == 0
            page.locator(".tools summary").click()
            assert barriers(page) == []


def test_the_switches_work_and_lead_back(dashboard: Dashboard, open_page: Open) -> None:
    with open_page(dashboard, "/account", locale="en-GB", color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.locator(".switch").get_by_text("FR").click()
        page.wait_for_url("**/account")
        expect(page.locator("html")).to_have_attribute("lang", "fr")
        page.locator(".tools summary").click()
        page.get_by_text("Sombre").click()
        page.wait_for_url("**/account")
        assert page.evaluate(ground) != light


def test_without_javascript_the_menus_and_switches_work_too(dashboard: Dashboard, open_page: Open) -> None:
    with open_page(dashboard, "/account", java_script_enabled=False, locale="en-GB") as page:
        page.locator(".tools summary").click()
        page.get_by_text("Dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.locator(".tools summary").click()
        page.locator(".menu-items").get_by_role("button", name="Log out").click()
        expect(page.locator("[name=password]")).to_be_visible()
