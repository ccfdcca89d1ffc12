"""A dialog whose form was refused: it says why beside each field, and the browser has nothing to complain of."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from kvm_backup.domain.account import Role
from tests.browser import chromium, sign_in, window
from tests.unit.web.dashboard import PASSWORD, Dashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_a_server_that_was_typed_wrongly_breaks_no_rule_for_styles(dashboard: Dashboard, browser: Browser) -> None:
    dashboard.application.accounts.add("bruno", Role.ADMINISTRATOR, PASSWORD)
    # The answer has the status 422, which the browser tells, too.
    with window(browser, dashboard.url, forgiven="status of 422|Response Status Error") as page:
        sign_in(page, "bruno", PASSWORD)
        page.goto("/repositories")
        page.click("a[href='/repositories/new']")
        dialog = page.locator("dialog")
        dialog.locator("[name=url]").fill("nothing")
        # A field that was made larger by hand has a style of its own, which the answer must not take over.
        dialog.locator("summary").click()
        dialog.locator("[name=hours]").evaluate("field => { field.style.height = '9em' }")
        dialog.locator("button.primary").click()
        expect(dialog.locator("#url-error")).to_be_visible()
        dialog.locator("button.primary").click()
        expect(dialog.locator("[name=name]")).to_have_value("")
