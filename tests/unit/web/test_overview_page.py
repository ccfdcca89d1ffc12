"""The first page: what it says of a host that is new, well, or in trouble."""

from datetime import UTC, datetime, timedelta

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.inventory import HostFacts, VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import RunState
from kvm_backup.domain.vm import VmState
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site
from tests.unit.web.schedules.markup import Element

GIB = 1 << 30


def host(site: Site, *protections: Protection, **facts: object) -> None:
    """Let the host have VMs that are protected like this."""
    now = datetime.now(UTC)
    site.application.inventory.save(
        [
            VmRecord(
                uuid=f"1a2b3c4d-0000-4000-8000-{number:012d}",
                name=f"vm-{number}",
                state=VmState.RUNNING,
                protection=protection,
                overdue=protection is Protection.OVERDUE,
            )
            for number, protection in enumerate(protections)
        ]
    )
    site.application.inventory.note_host(HostFacts(**({"listed": now, "examined": now} | facts)))  # type: ignore[arg-type]


def figure(page: Element, label: str) -> str:
    found = [one for one in page.all("div", class_="figure") if one.one("p", class_="figure-label").text == label]
    assert len(found) == 1, page.text
    return found[0].one("p", class_="figure-value").text


def test_a_new_host_is_told_the_first_step(site: Site) -> None:
    page = site.user().get("/")
    assert "Begin with a schedule" in page.text
    assert "/schedules/new" in [link["href"] for link in page.one("main").all("a")]
    assert "Nothing runs" in page.text


def test_a_viewer_is_offered_nothing_that_changes_something(site: Site) -> None:
    host(site, Protection.OVERDUE)
    page = site.user(Role.VIEWER).get("/")
    assert "/schedules/new" not in [link["href"] for link in page.all("a")]
    assert page.one("main").all("form") == []


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "What this page says of virtual machines was read 4 min ago ."),
        ("fr", "Ce que cette page dit des machines virtuelles a été lu il y a 4 min ."),
    ],
)
def test_with_libvirt_away_one_sentence_tells_how_old_the_page_is(site: Site, language: str, told: str) -> None:
    now = datetime.now(UTC)
    host(site, Protection.PROTECTED, listed=now - timedelta(minutes=4), away_since=now, away_error="no socket")
    for path in ("/", "/vms"):
        assert told in site.user(language=language).get(path).one("main").text


def test_with_libvirt_away_from_the_first_no_age_is_told(site: Site) -> None:
    host(site, listed=None, away_since=datetime.now(UTC), away_error="no socket")
    for path in ("/", "/vms"):
        text = site.user().get(path).one("main").text
        assert "libvirt does not answer." in text
        assert "was read" not in text


@pytest.mark.parametrize(
    ("protections", "tone"),
    [
        ((Protection.PROTECTED,), "good"),
        ((Protection.PROTECTED, Protection.UNSCHEDULED), "warning"),
        ((Protection.PROTECTED, Protection.LATE), "warning"),
        ((Protection.PROTECTED, Protection.OVERDUE), "problem"),
        ((Protection.NEVER, Protection.PROTECTED), "problem"),
        ((Protection.PENDING, Protection.PROTECTED), "info"),
        ((Protection.PENDING, Protection.LATE), "warning"),
    ],
)
def test_the_verdict_has_the_tone_of_the_worst_protected_vm(
    site: Site, protections: tuple[Protection, ...], tone: str
) -> None:
    host(site, *protections)
    site.add("Nightly", "vm-0")
    verdict = site.user().get("/").one("p", class_="verdict")
    assert tone in verdict["class"].split()


def test_a_vm_whose_first_time_is_to_come_is_told_with_that_time(site: Site) -> None:
    first = datetime(2031, 5, 6, 2, 0, tzinfo=UTC)
    uuid = "1a2b3c4d-0000-4000-8000-000000000001"
    site.application.inventory.save([VmRecord(uuid, "web", protection=Protection.PENDING, next_due=first)])
    site.application.inventory.note_host(HostFacts(listed=datetime.now(UTC)))
    page = site.user().get("/")
    verdict = page.one("p", class_="verdict")
    assert "1 of 1 virtual machines is not yet backed up; first at" in verdict.text
    assert verdict.one("time")["datetime"].startswith("2031-05-06T02:00")
    assert figure(page, "Overdue") == "0"


def test_protection_is_told_in_french_words(site: Site) -> None:
    host(site, *Protection)
    page = site.user(language="fr").get("/")
    shown = {cell.text for cell in page.all("td", data_label="Protection")}
    assert shown == {
        "protégée",
        "en retard",
        "hors délai",
        "jamais sauvegardée",
        "aucune planification",
        "pas encore sauvegardée",
    }
    assert figure(page, "Protégées").replace(" ", "") == "1/6"
    assert figure(page, "Hors délai") == "2"


def test_what_runs_what_comes_and_space_are_shown(site: Site) -> None:
    host(site, Protection.PROTECTED)
    schedule = site.add("Nightly", "vm-0")
    run = site.ran(schedule, "vm-0", RunState.RUNNING)
    now = datetime.now(UTC)
    for day in range(4):
        sample = SpaceSample(now - timedelta(days=3 - day), used=day * GIB, free=100 * GIB, total=200 * GIB)
        site.application.statistics.sample_space({"default": sample})
    page = site.user().get("/")
    assert f"/runs/{run.id}" in [link["href"] for link in page.all("a")]
    assert f"/schedules/{schedule.id}" in [link["href"] for link in page.all("a")]
    assert figure(page, "Now running") == "1"
    assert "100 GiB free of 200 GiB" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.one("section", aria_labelledby="space-title").all("path") != []


def test_libvirt_that_is_away_is_told_with_its_words_as_text(site: Site) -> None:
    host(site, Protection.PROTECTED, away_since=datetime.now(UTC), away_error=EVIL)
    page = site.user().get("/")
    assert "libvirt does not answer" in page.text
    is_text(page)


def test_names_of_vms_schedules_and_runs_are_text(site: Site) -> None:
    site.know(EVIL)
    schedule = site.add(EVIL, EVIL)
    site.ran(schedule, EVIL, RunState.RUNNING)
    for language in ("en", "fr"):
        page = site.user(language=language).get("/")
        is_text(page)
        assert page.text.count(EVIL) >= 4


def test_htmx_gets_the_part_that_changes_and_no_frame(site: Site) -> None:
    fragment = site.user().get("/", {"hx-request": "true"})
    assert fragment.all("html") == []
    assert len(fragment.all("h1")) == 1
