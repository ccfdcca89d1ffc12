"""A walk through every page in English on a phone: it keeps nobody out, whatever they see, type with or have."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunResult, RunState
from kvm_backup.services.schedules.commands import NewSchedule
from lab import Lab
from tests.acceptance.dashboard_house import House, house, show
from tests.acceptance.service import until
from tests.browser import barriers, chromium, keep, overflow, sign_in, window
from tests.unit.web.dashboard import PASSWORD
from tests.unit.web.test_live_events import begun

pytestmark = pytest.mark.vm

PHONE: dict[str, Any] = {"locale": "en-GB", "timezone_id": "Europe/London", "viewport": {"width": 390, "height": 844}}
NARROWEST: Any = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def home(module_lab: Lab) -> Iterator[House]:
    """With a point, a run that failed and its alert, a run that goes on, a schedule and two users."""
    with house(module_lab) as home:
        application = home.dashboard.application
        assert home.dashboard.url
        home.user("anne")
        home.user("a-rather-long-name-of-an-administrator-who-never-signs-in")
        application.schedules.add(
            NewSchedule("Nightly", [home.small.name, home.large.name, "unknown"], "daily", "02:00", "full")
        )
        made = application.queue.backup(home.small.uuid, Mode.FULL)
        until(lambda: application.history.get(made.id).state is RunState.SUCCEEDED, "back it up")
        failed = begun(application, home.large.name)
        problem = RunResult(
            error="no space left on " + "/a/very/long/path" * 8, error_code="no-space", hint="Free some."
        )
        application.history.finish(failed.id, RunState.FAILED, problem)
        begun(application, "going-on")
        until(lambda: application.alerts.count_open_unacknowledged() > 0, "raise an alert")
        yield home


def visit(home: House, browser: Browser, **options: Any) -> AbstractContextManager[Page]:
    return window(browser, home.dashboard.url, **PHONE | options)


def pages(home: House) -> dict[str, str]:
    """Every page that somebody can open, by a name for its picture."""
    runs = {run.vm_name: run.id for run in home.dashboard.application.history.newest(limit=20)}
    [point] = home.points(home.small)
    at = f"/points/default/{point.parent.name}/{point.name}"
    return {
        "overview": "/",
        "schedules": "/schedules",
        "new-schedule": "/schedules/new",
        "vms": "/vms",
        "vms-none": "/vms?q=no-such-name",
        "vm": f"/vms/{home.small.uuid}",
        "vm-never-backed-up": f"/vms/{home.large.uuid}",
        "vm-backup": f"/vms/{home.small.uuid}/backup",
        "vm-xml": f"/vms/{home.small.uuid}/xml",
        "repositories": "/repositories",
        "repositories-new": "/repositories/new",
        "runs": "/runs",
        "runs-none": "/runs?q=no-such-name",
        "run-succeeded": f"/runs/{runs[home.small.name]}",
        "run-failed": f"/runs/{runs[home.large.name]}",
        "run-going-on": f"/runs/{runs['going-on']}",
        "point": at,
        "restore-new": f"{at}/restore",
        "restore-in-place": f"{at}/restore?way=in-place",
        "restore-folder": f"{at}/restore?way=folder",
        "alerts": "/alerts",
        "alerts-past": "/alerts?past=true",
        "account": "/account",
        "users": "/administration/users",
        "tokens": "/administration/tokens",
        "audit": "/administration/audit",
        "api-docs": "/api/docs",
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_can_be_used_by_everybody_and_fits_a_phone(home: House, browser: Browser, theme: str) -> None:
    found = {}
    with visit(home, browser, color_scheme=theme, bypass_csp=True) as page:
        sign_in(page, "anne", PASSWORD)
        for name, path in pages(home).items():
            page.goto(path)
            keep(page, f"phone-{theme}-{name}")
            found[name] = barriers(page)
            page.set_viewport_size(NARROWEST)
            found[name] += [("wider than its window", str(overflow(page)))] if overflow(page) else []
            page.set_viewport_size(PHONE["viewport"])
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_dialog_can_be_used_by_everybody(home: House, browser: Browser, theme: str) -> None:
    found = {}
    with visit(home, browser, color_scheme=theme, bypass_csp=True) as page:
        sign_in(page, "anne", PASSWORD)
        for name, path, link in (
            ("new", "/schedules", "New schedule"),
            ("backup", f"/vms/{home.small.uuid}", "Back up"),
            ("restore", f"/vms/{home.small.uuid}", "Restore"),
        ):
            page.goto(path)
            page.get_by_role("link", name=link).first.click()
            page.get_by_role("dialog").get_by_role("heading").first.wait_for()
            keep(page, f"phone-{theme}-dialog-{name}")
            found[name] = barriers(page)
            page.set_viewport_size(NARROWEST)
            found[name] += [("wider than its window", str(overflow(page)))] if overflow(page) else []
            page.set_viewport_size(PHONE["viewport"])
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def press_until(page: Page, what: str, key: str = "Tab") -> None:
    """Press a key until the focus is on an element of this name, as somebody without a mouse does."""
    said = []
    for _ in range(80):
        page.keyboard.press(key)
        said.append(page.evaluate("document.activeElement.innerText || document.activeElement.value || ''").strip())
        if re.search(what, said[-1]):
            return
    raise AssertionError(f"the focus never came to {what}: {said}")


def test_by_keyboard_alone_a_vm_is_backed_up_and_its_point_restored(home: House, browser: Browser) -> None:
    with visit(home, browser) as page:
        sign_in(page, "anne", PASSWORD)
        show(page, f"/vms?q={home.small.name}")
        press_until(page, "Skip to the content")
        page.keyboard.press("Enter")
        press_until(page, "^📷")
        press_until(page, "^💾", "Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/*")
        expect(page.locator("#run .badge").first).to_have_text("succeeded")
        [_first, *_others] = home.points(home.small)

        show(page, f"/vms/{home.small.uuid}")
        press_until(page, "^Restore")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        name = dialog.get_by_label("Name of the new virtual machine")
        name.wait_for()
        press_until(page, "-restored$")
        expect(name).to_be_focused()
        # The focus does not leave the dialog for the page below.
        for _ in range(15):
            page.keyboard.press("Tab")
            assert page.evaluate(
                "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
            )
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.locator("a:focus", has_text="Restore")).to_be_visible()


def test_without_javascript_a_schedule_is_made_and_a_vm_backed_up(home: House, browser: Browser) -> None:
    application = home.dashboard.application
    with visit(home, browser, java_script_enabled=False) as page:
        sign_in(page, "anne", PASSWORD)
        page.get_by_role("link", name="New schedule").click()
        page.get_by_label("Name", exact=True).fill("By hand")
        page.get_by_label("Search a VM").fill(home.small.name)
        page.get_by_role("button", name="Search").click()
        page.locator(".picker label", has_text=home.small.name).get_by_role("checkbox").check()
        page.get_by_role("radio", name="Every hour").check()
        page.get_by_role("button", name="Create").click()
        expect(page.locator("main")).to_contain_text("By hand")
        made = next(one for one in application.schedules.all() if one.name == "By hand")
        assert (made.schedule_type, made.vm_names) == ("hourly", (home.small.name,))

        before = len(home.points(home.small))
        page.goto(f"/vms?q={home.small.name}")
        page.get_by_role("button", name="Back up").click()
        expect(page.locator("#messages")).to_contain_text("The backup is queued")
        run = page.url.rsplit("/", 1)[1]
        until(lambda: application.history.get(run).state.final, "end the run")
        page.reload()
        expect(page.locator("#run .badge").first).to_have_text("succeeded")
        assert len(home.points(home.small)) == before + 1
