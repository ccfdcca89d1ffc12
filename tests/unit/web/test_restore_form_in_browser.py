"""The form to restore a point in a real browser: another way to restore loses nothing that was typed."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from kvm_backup.domain.account import Role
from tests.browser import chromium, sign_in, window
from tests.unit.builders import Shelf
from tests.unit.web.dashboard import PASSWORD, Dashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_what_was_typed_is_there_again_after_a_look_at_another_way(
    own_dashboard: Dashboard, browser: Browser
) -> None:
    application = own_dashboard.application
    application.accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
    point = Shelf(application.settings.repositories()["default"]).add()
    with window(browser, own_dashboard.url, locale="en-GB") as page:
        sign_in(page, "anne", PASSWORD)
        page.goto(f"/points/default/{point.id}")
        page.get_by_role("link", name="Restore").click()
        dialog = page.locator("dialog")
        dialog.get_by_label("Name of the new virtual machine").fill("a & b")
        dialog.get_by_label("Start it when it is restored").check()
        dialog.get_by_role("link", name="In place").click()
        dialog.get_by_label("Type the name").fill("web")
        dialog.get_by_label("Stop it when it runs").check()
        dialog.get_by_role("link", name="As a new VM").click()
        expect(dialog.get_by_label("Name of the new virtual machine")).to_have_value("a & b")
        expect(dialog.get_by_label("Start it when it is restored")).to_be_checked()
        dialog.get_by_label("Start it when it is restored").uncheck()
        dialog.get_by_role("link", name="In place").click()
        expect(dialog.get_by_label("Stop it when it runs")).to_be_checked()
        expect(dialog.get_by_label("Type the name")).to_have_value("")
        dialog.get_by_role("link", name="As a new VM").click()
        expect(dialog.get_by_label("Start it when it is restored")).not_to_be_checked()
