"""Names, errors, log lines and XML that would be programs, were they not shown as text."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from kvm_backup.domain.run import RunResult, RunState
from lab import Lab, LabVm
from tests.acceptance.dashboard_house import House, house, show, small_vm
from tests.browser import chromium, sign_in, window
from tests.unit.web.dashboard import PASSWORD
from tests.unit.web.test_live_events import begun

pytestmark = pytest.mark.vm

IMAGE = "<img src=x onerror=alert(1)>"
QUOTES = "\"'><svg onload=alert(2)>"
SCRIPT = "</script><script>alert(3)</script>{{ 7*7 }}${alert(4)}"
LINK = "javascript:alert(5)"
HTMX = '<b hx-get="/x" hx-trigger="load" hx-on:load="alert(6)">x</b>'
EVENT = "\n\nevent: badge\ndata: <img src=y onerror=alert(7)>\n\n"
ALL = " ".join((IMAGE, QUOTES, SCRIPT, LINK, HTMX))
# Nothing of this may stand in a page as an element.
ELEMENTS = "img, svg[onload], script:not([src]), b[hx-get], a[href^='javascript:'], [onerror], [onload]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def home(module_lab: Lab) -> Iterator[House]:
    with house(module_lab) as home:
        assert home.dashboard.url
        home.user("anne")
        yield home


@pytest.fixture(scope="module")
def hostile(module_lab: Lab) -> LabVm:
    """A VM that libvirt has under such a name, and whose XML holds more of it; made before the service looks."""
    made = small_vm(module_lab, "hostile")
    made.destroy()
    root = ET.fromstring(made.domain.XMLDesc())
    for tag, text in (("title", QUOTES), ("description", SCRIPT)):
        found = root.find(tag)
        element = ET.SubElement(root, tag) if found is None else found
        element.text = text
    module_lab.connection().defineXML(ET.tostring(root, encoding="unicode"))
    name = f"{IMAGE} {QUOTES.replace('/', '')} {module_lab.prefix}"
    made.domain.rename(name)
    renamed = module_lab.adopt(name)
    renamed.start()
    return renamed


def is_harmless(page: Page, text: str) -> None:
    """The page shows the text, and made nothing of it."""
    expect(page.locator("body")).to_contain_text(text)
    assert page.locator(ELEMENTS).count() == 0, page.locator(ELEMENTS).first.evaluate("it => it.outerHTML")


def test_a_vm_of_libvirt_with_such_a_name_is_backed_up_by_the_pages_which_show_its_name(
    hostile: LabVm, home: House, browser: Browser
) -> None:
    with window(browser, home.dashboard.url, locale="fr-FR") as page:
        sign_in(page, "anne", PASSWORD)
        show(page, "/vms?q=onerror")
        is_harmless(page, hostile.name)
        page.locator("tr", has_text=hostile.name).get_by_role("button", name="💾").click()
        page.wait_for_url("**/runs/*")
        expect(page.locator("#run .badge").first).to_have_text("réussie")
        is_harmless(page, hostile.name)
        page.locator("#run a[href^='/points/']").click()
        is_harmless(page, hostile.name)
        page.get_by_role("link", name="Restaurer").click()
        expect(page.get_by_role("dialog").locator("[name=name]")).to_have_value(f"{hostile.name}-restored")
        is_harmless(page, hostile.name)
        page.goto(f"/vms/{hostile.uuid}")
        is_harmless(page, hostile.name)
        page.goto(f"/vms/{hostile.uuid}/xml")
        # XML escapes for itself; its text is what is shown.
        expect(page.locator("pre")).to_contain_text("&lt;img src=x onerror=alert(1)&gt;")
        is_harmless(page, "alert(3)")
        page.goto(f"/runs?vm={hostile.uuid}")
        is_harmless(page, hostile.name)


def test_a_schedule_with_such_names_is_made_run_edited_and_deleted(home: House, browser: Browser) -> None:
    application = home.dashboard.application
    with window(browser, home.dashboard.url, locale="en-GB") as page:
        sign_in(page, "anne", PASSWORD)
        show(page, "/schedules")
        page.get_by_role("link", name="New schedule").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name", exact=True).fill(IMAGE + QUOTES)
        dialog.get_by_text("A VM that is not in the list").click()
        dialog.locator("[name=other_vms]").fill(f"{QUOTES}\n{IMAGE}")
        dialog.get_by_role("button", name="Create").click()
        row = page.locator("tbody tr", has_text=IMAGE)
        expect(row).to_contain_text(QUOTES)
        is_harmless(page, IMAGE)
        row.get_by_role("button", name="Run now").click()
        # Both names are unknown to libvirt: the runs fail, with the names in their errors.
        expect(row.locator(".results")).to_contain_text("failed")
        expect(page.locator("#alert-count .count")).to_be_visible()
        made = next(one for one in application.schedules.all() if one.name == IMAGE + QUOTES)
        for path in ("", "/edit", "/delete"):
            page.goto(f"/schedules/{made.id}{path}")
            is_harmless(page, IMAGE)
        for path in ("/", "/alerts", "/alerts?past=true", "/runs", "/administration/audit"):
            page.goto(path)
            is_harmless(page, IMAGE)
        for run in application.history.newest(limit=2):
            page.goto(f"/runs/{run.id}")
            is_harmless(page, run.vm_name)


def test_what_a_run_tells_on_an_open_page_is_text_in_events_too(home: House, browser: Browser) -> None:
    application = home.dashboard.application
    with window(browser, home.dashboard.url, locale="en-GB") as page:
        sign_in(page, "anne", PASSWORD)
        run = begun(application, f"{IMAGE}{EVENT}{QUOTES}")
        show(page, f"/runs/{run.id}")
        expect(page.locator(".live-run")).to_contain_text("25%")
        application.history.progress(run.id, 512 * 1024**2, 1024**3)
        expect(page.locator(".live-run")).to_contain_text("50%")
        line = {"time": "2026-11-22T10:00:00Z", "level": "error", "run": run.id, "event": ALL, ALL: ALL}
        with (home.dashboard.state / "logs" / "kvm-backup.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        problem = RunResult(error=ALL, error_code=QUOTES, hint=ALL, detail=ALL, reason=QUOTES)
        application.history.finish(run.id, RunState.FAILED, problem)
        expect(page.locator("#run .badge").first).to_have_text("failed")
        is_harmless(page, SCRIPT)
        for path in ("/", "/runs", "/alerts"):
            page.goto(path)
            is_harmless(page, IMAGE)


def test_what_is_asked_for_comes_back_as_text(home: House, browser: Browser) -> None:
    with window(
        browser, home.dashboard.url, forgiven="status of 4", locale="fr-FR", user_agent=IMAGE + QUOTES
    ) as page:
        sign_in(page, "anne", PASSWORD)
        page.goto("/account")
        is_harmless(page, IMAGE)
        page.locator("[name=name]").fill(SCRIPT[:60])
        page.locator("form[action='/account/tokens'] button").click()
        is_harmless(page, SCRIPT[:40])
        for path in ("/schedules", "/vms", "/runs", "/administration/audit"):
            page.goto(path)
            search = page.get_by_role("search").get_by_role("searchbox")
            search.fill(QUOTES)
            search.press("Enter")
            page.wait_for_url("**q=*")
            expect(search).to_have_value(QUOTES)
            assert page.locator(ELEMENTS).count() == 0
        for path in (f"/vms/{IMAGE}", f"/runs/{QUOTES}", f"/schedules/{IMAGE}", f"/points/{IMAGE}/a/b", f"/{SCRIPT}"):
            page.goto(path.replace("#", ""))
            assert page.locator(ELEMENTS).count() == 0
            assert page.locator("main h1, main .message").count() > 0
