"""The time line of a VM on the screen of a phone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.vm import VmState
from tests.browser import chromium, overflow, sign_in, window
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.dashboard import PASSWORD, Dashboard, running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_the_newest_points_are_seen_without_scrolling(tmp_path: Path, browser: Browser) -> None:
    shelf = Shelf(tmp_path / "shelf", "web")
    for hours in (5, 3, 1):
        shelf.add(created=datetime.now(UTC) - timedelta(hours=hours))
    settings = {"KVM_BACKUP_REPOSITORY": f'[{{"name": "default", "path": "{shelf.root}"}}]'}
    with running(Dashboard(tmp_path / "state", settings)) as dashboard:
        dashboard.application.accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
        dashboard.application.inventory.save([VmRecord(VM_UUID, "web", VmState.RUNNING)])
        with window(browser, dashboard.url, viewport={"width": 390, "height": 800}) as page:
            sign_in(page, "anne", PASSWORD)
            page.goto(f"/vms/{VM_UUID}")
            marks = page.locator(".timeline circle")
            assert marks.count() == 3
            for mark in marks.all():
                box = mark.bounding_box()
                assert box is not None
                assert 0 <= box["x"] <= 390 - box["width"]
            assert overflow(page) == 0
