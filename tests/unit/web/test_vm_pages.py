"""Virtual machines: the list with its filters and pages, one of them, and what is asked of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.alert import Damage, Situation
from kvm_backup.domain.inventory import HostFacts, PointFacts, VmDisk, VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Newest, Promise, Protection
from kvm_backup.domain.vm import VmState
from tests.unit.builders import Shelf
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site, rows
from tests.unit.web.schedules.markup import Element

UUID = "1a2b3c4d-0000-4000-8000-000000000001"
GIB = 1 << 30


def a_vm(number: int = 1, **changes: Any) -> VmRecord:
    made = VmRecord(f"1a2b3c4d-0000-4000-8000-{number:012d}", f"vm-{number:04d}", VmState.RUNNING)
    return replace(made, **changes)


def know(site: Site, *vms: VmRecord) -> None:
    site.application.inventory.save(vms)
    site.application.inventory.note_host(HostFacts(listed=datetime.now(UTC)))


def shown(page: Element) -> list[str]:
    return rows(page) if page.all("tbody") else []


def test_before_the_first_look_and_on_a_host_without_vms_the_list_says_so(site: Site) -> None:
    user = site.user()
    assert "Not looked yet" in user.get("/vms").text
    know(site)
    assert "No virtual machine" in user.get("/vms").text
    assert "Aucune machine virtuelle" in site.user(language="fr").get("/vms").text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["db", "web", "old"]),
        ("?q=w", ["web"]),
        ("?q=W%20", ["web"]),
        ("?q=%25", []),
        ("?protection=overdue", ["db"]),
        ("?protection=gone", ["old"]),
        ("?state=stopped", ["web"]),
        ("?sort=name", ["db", "old", "web"]),
        ("?sort=size", ["web", "db", "old"]),
        ("?protection=nonsense&state=nonsense&sort=nonsense", ["db", "web", "old"]),
    ],
)
def test_the_list_is_searched_filtered_and_sorted(site: Site, query: str, expected: list[str]) -> None:
    know(
        site,
        a_vm(1, name="web", state=VmState.STOPPED, protection=Protection.PROTECTED, virtual_size=9 * GIB),
        a_vm(2, name="db", protection=Protection.OVERDUE, overdue=True, virtual_size=5 * GIB),
        a_vm(3, name="old", gone_since=datetime.now(UTC), points=PointFacts(points=1)),
    )
    assert shown(site.user().get(f"/vms{query}")) == expected


def test_the_list_names_the_schedules_that_protect_a_vm(site: Site) -> None:
    nightly, weekly = site.add(EVIL, "web"), site.add("Weekly", "web")
    now = datetime.now(UTC)
    promises = [
        Promise(id_, nightly.timing, "nas", snapshot=False, since=now) for id_ in ("removed", nightly.id, weekly.id)
    ]
    know(site, a_vm(1, promises=tuple(promises)), a_vm(2, promises=tuple(promises[:1])))
    page = site.user().get("/vms")
    one, other = (row.one("td", data_label="Next backup") for row in page.one("tbody").all("tr"))
    assert [(link["href"], link.text) for link in one.all("a")] == [
        (f"/schedules/{nightly.id}", " ".join(EVIL.split()))
    ]
    assert one.text.endswith("+ 1")
    assert other.all("a") == []
    is_text(page)


def test_a_thousand_vms_come_fifty_at_a_time_each_once(site: Site) -> None:
    know(site, *(a_vm(number) for number in range(120)))
    user = site.user()
    page, seen = user.get("/vms?sort=name"), []
    while True:
        seen.append(shown(page))
        following = page.all("a", rel="next")
        if not following:
            break
        page = user.get(following[0]["href"])
    assert [len(names) for names in seen] == [50, 50, 20]
    assert len({name for names in seen for name in names}) == 120
    assert shown(user.get("/vms?page=99")) == []


@pytest.mark.parametrize("page", ["0", "-1", "x", "100001", "99999999999999999999"])
def test_a_page_that_cannot_be_is_refused(site: Site, page: str) -> None:
    assert site.user().client.get(f"/vms?page={page}").status_code == 422


def test_the_page_of_a_vm_tells_its_points_schedules_and_disks(site: Site) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"], "web", UUID)
    full = shelf.add()
    shelf.add(full)
    # As the service does.
    site.application.catalogue.refresh(site.application.repository("nas"))
    schedule = site.add("Nightly", "web")
    disks = (VmDisk("vda", "qcow2", 3 * GIB),)
    know(site, a_vm(name="web", disks=disks))
    page = site.user().get(f"/vms/{UUID}")
    points = page.one("section", aria_labelledby="points-title")
    assert len(points.one("tbody").all("tr")) == 2
    assert f"/points/nas/{full.id}" in [link["href"] for link in points.all("a")]
    assert len(points.all("circle")) == 2
    assert "vda" in page.one("section", aria_labelledby="disks-title").text
    assert schedule.name not in page.one("section", aria_labelledby="schedules-title").text
    assert "complète" in site.user(language="fr").get(f"/vms/{UUID}").text


def test_a_vm_that_is_gone_is_not_offered_a_backup(site: Site) -> None:
    know(site, a_vm(gone_since=datetime.now(UTC) - timedelta(days=3), points=PointFacts(points=1)))
    page = site.user().get(f"/vms/{UUID}")
    assert "libvirt no longer has it" in page.text
    assert [link for link in page.all("a") if "/backup" in link["href"]] == []


def test_figures_of_a_vm_tell_times_that_the_browser_shows_in_its_own_zone(site: Site) -> None:
    made = Shelf(site.application.settings.repositories()["nas"]).add().created
    site.application.catalogue.refresh(site.application.repository("nas"))
    know(site, a_vm(next_due=datetime(2026, 11, 23, 2, 0, tzinfo=UTC)))
    told = [time["datetime"] for time in site.user().get(f"/vms/{UUID}").one("div", class_="figures").all("time")]
    assert told == [f"{made:%Y-%m-%dT%H:%M:%SZ}"] * 2 + ["2026-11-23T02:00:00Z"] * 2


def figures(page: Element) -> list[str]:
    """What the cards of a VM's page tell of its points: last good one, how many, links."""
    found = page.one("div", class_="figures").all("p", class_="figure-value")
    last, _next, points, chain = ((one.all("time") or [one])[0] for one in found)
    return [last["datetime"] if last.tag == "time" else last.text.strip(), points.text.strip(), chain.text.strip()]


def test_cards_and_table_of_a_vm_tell_the_same_before_the_service_has_counted(site: Site) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"])
    full = shelf.add()
    later = full.created + timedelta(hours=1)
    newest = shelf.add(full, created=later, finished=later)
    site.application.catalogue.refresh(site.application.repository("nas"))
    stale = PointFacts(points=1, last_point=full.id, last_point_at=full.created, chain_length=1)
    know(site, a_vm(points=stale, protection=Protection.OVERDUE))
    page = site.user().get(f"/vms/{UUID}")
    assert figures(page) == [f"{newest.created:%Y-%m-%dT%H:%M:%SZ}", "2", "2"]
    assert page.all("div", class_="figure problem") == []
    section = page.one("section", aria_labelledby="points-title")
    assert len(section.one("tbody").all("tr")) == 2


def test_a_point_that_was_found_damaged_is_not_told_to_be_the_last_good_one(site: Site) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"])
    good, damaged = shelf.add(), shelf.add()
    site.application.catalogue.refresh(site.application.repository("nas"))
    site.application.alerts.evaluate(Situation(damages=[Damage(damaged.id, "nas", "a digest differs", "verify")]))
    know(site, a_vm())
    assert figures(site.user().get(f"/vms/{UUID}")) == [f"{good.created:%Y-%m-%dT%H:%M:%SZ}", "2", "1"]


def test_points_in_a_repository_that_only_a_schedule_names_are_counted_and_told(site: Site, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "usb")
    made = shelf.add()
    site.application.catalogue.refresh(shelf.repository)
    site.add("To the stick", "web", repository=str(shelf.root))
    know(site, a_vm())
    page = site.user().get(f"/vms/{UUID}")
    assert figures(page) == [f"{made.created:%Y-%m-%dT%H:%M:%SZ}", "1", "1"]
    section = page.one("section", aria_labelledby="points-title")
    assert f"1 point is in {shelf.root}" in section.text
    assert section.all("tbody") == []


def test_while_a_repository_is_away_the_cards_tell_what_was_last_known(site: Site) -> None:
    root = site.application.settings.repositories()["nas"]
    last = Shelf(root).add()
    site.application.catalogue.refresh(site.application.repository("nas"))
    root.rename(root.with_name("unmounted"))
    known = PointFacts(
        points=7,
        last_point=last.id,
        last_point_at=last.created,
        chain_length=3,
        newest={"nas": Newest(last.created, last.created)},
    )
    know(site, a_vm(points=known))
    page = site.user().get(f"/vms/{UUID}")
    assert figures(page) == [f"{last.created:%Y-%m-%dT%H:%M:%SZ}", "7", "3"]
    assert "there is none in" in page.one("section", aria_labelledby="points-title").text


def test_a_vm_that_is_gone_is_not_told_to_be_protected_by_what_names_it(site: Site) -> None:
    schedule = site.add("Nightly", "web")
    promises = (Promise(schedule.id, schedule.timing, "nas", snapshot=False, since=datetime.now(UTC)),)
    gone = a_vm(name="web", gone_since=datetime.now(UTC), points=PointFacts(points=1), promises=promises)
    know(site, gone)
    page = site.user().get(f"/vms/{UUID}")
    assert "no schedule names it" not in page.text
    card = page.one("section", aria_labelledby="schedules-title")
    assert "Schedules that name it" in card.text
    assert "Nightly" in card.text
    assert card.all("time") == []


def test_names_disks_and_errors_are_text(site: Site) -> None:
    know(site, a_vm(name=EVIL, disks=(VmDisk(EVIL, EVIL, 1),)))
    for language in ("en", "fr"):
        user = site.user(language=language)
        for path in ("/vms", f"/vms?q={quote('<img')}", f"/vms/{UUID}", f"/vms/{UUID}/backup", f"/vms/{UUID}/xml"):
            is_text(user.get(path))


def test_a_vm_that_is_not_there_is_not_found(site: Site) -> None:
    know(site)
    for uuid in (UUID, quote(EVIL, safe=""), "%00", "..%2f.."):
        for rest in ("", "/xml", "/backup"):
            assert site.user().client.get(f"/vms/{uuid}{rest}").status_code == 404


@pytest.mark.parametrize(("mode", "expected"), [("full", Mode.FULL), ("nonsense", Mode.INCREMENTAL)])
def test_the_form_begins_with_the_mode_that_was_asked_for(site: Site, mode: str, expected: Mode) -> None:
    know(site, a_vm())
    fields = site.user().get(f"/vms/{UUID}/backup?mode={mode}").one("main").one("form").fields()
    assert fields["mode"] == [expected.value]
    assert fields["repository"] == ["default"]


def test_a_backup_into_a_repository_that_is_not_there_is_refused_and_told(site: Site) -> None:
    know(site, a_vm(name="web"))
    answer = site.user().post(f"/vms/{UUID}/backup", {"mode": "full", "repository": EVIL})
    assert answer.status_code in (303, 400, 404, 409, 422), answer.text
    assert "<img src=x" not in answer.text
    assert site.application.history.newest() == []


def test_a_viewer_sees_vms_and_may_ask_nothing_of_them(site: Site) -> None:
    know(site, a_vm())
    viewer = site.user(Role.VIEWER)
    assert viewer.get("/vms").one("main").all("form", method="post") == []
    assert viewer.get(f"/vms/{UUID}").one("main").all("form", method="post") == []
    assert viewer.client.get(f"/vms/{UUID}/backup").status_code == 403
    assert viewer.post(f"/vms/{UUID}/backup").status_code == 403
    assert site.application.history.newest() == []
