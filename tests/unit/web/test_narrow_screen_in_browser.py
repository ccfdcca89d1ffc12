"""Pages on the screen of a phone: no word is cut, and what matters is seen without scrolling sideways."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import FloatRect, Locator, Page

from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import PointFacts, VmDisk, VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.vm import VmState
from tests.acceptance.service import until
from tests.browser import chromium, overflow, sign_in, window
from tests.unit.builders import VM_UUID
from tests.unit.web.dashboard import PASSWORD, Dashboard, running
from tests.unit.web.test_live_events import begun

WIDTH = 390
NAME = "srv-production-base-01"
VM = VmRecord(
    VM_UUID,
    NAME,
    VmState.RUNNING,
    disks=(VmDisk("vda", "qcow2", 3 << 30),),
    virtual_size=3 << 30,
    points=PointFacts(last_point="x", last_point_mode=Mode.INCREMENTAL, chain_length=17, points=20),
)
_IS_ON_TOP = """cell => {
  const { right, top, height } = cell.getBoundingClientRect();
  return document.elementFromPoint(right - 4, top + height / 2).closest("th") === cell;
}"""


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with running(Dashboard(tmp_path_factory.mktemp("narrow") / "state")) as started:
        started.application.accounts.add("anne", Role.ADMINISTRATOR, PASSWORD)
        inventory = started.application.inventory
        until(lambda: inventory.host_facts().examined is not None, "look at everything once", pause=0.1)
        inventory.save([VM])
        begun(started.application, NAME)
        yield started


@pytest.fixture(scope="module")
def phone(dashboard: Dashboard) -> Iterator[Page]:
    """In French, whose words are the longest."""
    viewport = {"width": WIDTH, "height": 844}
    with chromium() as browser, window(browser, dashboard.url, viewport=viewport, locale="fr-FR") as page:
        sign_in(page, "anne", PASSWORD)
        yield page


def box_of(part: Locator) -> FloatRect:
    box = part.bounding_box()
    assert box is not None
    return box


@pytest.mark.parametrize("path", ["/", "/schedules", "/vms", "/repositories", "/runs", "/alerts", "/account"])
def test_the_whole_menu_is_seen_on_each_page(phone: Page, path: str) -> None:
    phone.goto(path)
    entries = phone.locator("nav.main a")
    assert entries.all_inner_texts()[1] == "Sauvegardes Programmées"
    assert entries.count() == 6
    for entry in entries.all():
        box = box_of(entry)
        assert 0 <= box["x"] <= WIDTH - box["width"]
        assert entry.evaluate("one => one.scrollWidth <= one.clientWidth")
    assert overflow(phone) == 0


def test_a_vm_that_is_backed_up_has_its_name_on_one_line(phone: Page) -> None:
    phone.goto("/runs")
    name = phone.locator(".going a", has_text=NAME)
    assert name.evaluate("one => one.offsetHeight < 2 * parseFloat(getComputedStyle(one).fontSize)")
    assert box_of(phone.locator(".going form"))["x"] > box_of(name)["x"]


def test_the_calendar_shows_today_beside_whole_names(phone: Page) -> None:
    phone.goto("/")
    today = box_of(phone.locator(".calendar tbody tr:first-child td:last-child"))
    assert 0 <= today["x"] <= WIDTH - today["width"]
    # The days that are scrolled out of view lie below the name.
    name = phone.locator(".calendar tbody th")
    name.scroll_into_view_if_needed()
    assert name.evaluate(_IS_ON_TOP)


@pytest.mark.parametrize("width", [WIDTH, 1280, 1600])
def test_the_list_tells_chain_and_disks_once_at_each_width(phone: Page, width: int) -> None:
    phone.set_viewport_size({"width": width, "height": 844})
    try:
        phone.goto("/vms")
        shown = phone.locator(".fleet tbody tr").inner_text()
        assert [len(re.findall(text, shown)) for text in (r"\b17\b", r"\b3\sGio")] == [1, 1], shown
    finally:
        phone.set_viewport_size({"width": WIDTH, "height": 844})
