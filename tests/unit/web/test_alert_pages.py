"""Alerts: what is open and what was, acknowledging, and the badge."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from kvm_backup.database.alerts import Alerts
from kvm_backup.domain.account import Role
from kvm_backup.domain.alert import Alert, AlertKind, Changes, Condition, Severity, Subject, SubjectKind
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site
from tests.unit.web.schedules.markup import Element

UUID = "1a2b3c4d-0000-4000-8000-000000000001"


def failed(name: str = "web", **facts: Any) -> Condition:
    told = {"run": "run-1", "at": "2026-11-22T02:00:00+00:00", "times": 1, "error": "no space", "hint": "Make room."}
    return Condition(
        AlertKind.RUN_FAILED,
        Subject(SubjectKind.VM, name, None),
        Severity.CRITICAL,
        told | {"error_code": "x"} | facts,
    )


@pytest.fixture
def store(site: Site) -> Alerts:
    """Where alerts are kept; that nothing ticks here is one more that each page tells."""
    return site.application.alerts.store


def put(store: Alerts, *conditions: Condition) -> None:
    store.apply(Changes(list(conditions), [], []), datetime.now(UTC))


def names(page: Element) -> list[str]:
    return [one.one("p", class_="alert-title").text for one in page.all("li", class_="alert")]


def of(site: Site, name: str) -> Alert:
    return next(alert for alert in site.application.alerts.open() if alert.subject.name == name)


def test_an_open_alert_tells_cause_advice_and_leads_to_its_run(site: Site, store: Alerts) -> None:
    put(store, failed())
    page = site.user().get("/alerts")
    assert any("web" in name for name in names(page))
    assert "No space." in page.text
    assert "Make room." in page.text
    assert "/runs/run-1" in [link["href"] for link in page.all("a")]
    french = names(site.user(language="fr").get("/alerts"))
    assert any("La sauvegarde de web a échoué" in name for name in french)


def test_an_acknowledged_alert_stays_listed_with_who_and_leaves_the_badge(site: Site, store: Alerts) -> None:
    put(store, failed())
    user = site.user()
    before = user.get("/alerts").one(id="alert-count").text
    alert = of(site, "web")
    answer = user.post(f"/alerts/{alert.id}/acknowledge", {"back": "/alerts?past=true"})
    assert answer.headers["location"] == "/alerts?past=true"
    assert "acknowledged" in user.message(answer)
    page = user.get("/alerts")
    assert "acknowledged by operator" in page.text
    assert page.one(id="alert-count").text != before
    assert f"/alerts/{alert.id}/acknowledge" not in [form["action"] for form in page.all("form")]


@pytest.mark.parametrize(
    "back", ["https://example.org/", "//example.org", "/\\example.org", "javascript:alert(1)", ""]
)
def test_acknowledging_leads_to_no_other_server(site: Site, store: Alerts, back: str) -> None:
    put(store, failed())
    answer = site.user().post(f"/alerts/{of(site, 'web').id}/acknowledge", {"back": back})
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


def test_a_viewer_sees_alerts_and_acknowledges_none(site: Site, store: Alerts) -> None:
    put(store, failed())
    viewer = site.user(Role.VIEWER)
    assert viewer.get("/alerts").one("main").all("form") == []
    alert = of(site, "web")
    assert viewer.post(f"/alerts/{alert.id}/acknowledge").status_code == 403
    assert of(site, "web").acknowledged_at is None


def test_an_alert_that_is_not_there_is_not_found(site: Site) -> None:
    user = site.user()
    for alert_id in ("nothing", quote(EVIL, safe=""), "%00"):
        assert user.post(f"/alerts/{alert_id}/acknowledge").status_code == 404


def test_what_is_over_is_kept_under_all(site: Site, store: Alerts) -> None:
    put(store, failed("old"))
    store.apply(Changes([], [], [of(site, "old")]), datetime.now(UTC))
    user = site.user()
    assert not any("old" in name for name in names(user.get("/alerts")))
    assert any("old" in name for name in names(user.get("/alerts?past=true")))


def test_alerts_come_fifty_at_a_time(site: Site, store: Alerts) -> None:
    put(store, *(failed(f"vm-{number:04d}") for number in range(120)))
    user = site.user()
    seen = [name for number in (1, 2, 3) for name in names(user.get(f"/alerts?page={number}"))]
    assert len({name for name in seen if "vm-" in name}) == 120
    assert not any("vm-" in name for name in names(user.get("/alerts?page=9")))


@pytest.mark.parametrize("query", ["page=0", "page=x", "page=99999", "past=perhaps"])
def test_a_question_that_makes_no_sense_is_refused(site: Site, query: str) -> None:
    assert site.user().client.get(f"/alerts?{query}").status_code == 422


def test_what_an_alert_holds_is_text(site: Site, store: Alerts) -> None:
    put(
        store,
        failed(EVIL, run=EVIL, error=EVIL, hint=EVIL),
        Condition(
            AlertKind.DAMAGED_POINT,
            Subject(SubjectKind.POINT, f"{EVIL}/{EVIL}", None),
            Severity.CRITICAL,
            {"repository": EVIL, "message": EVIL, "found_by": "verify"},
        ),
        Condition(
            AlertKind.REPOSITORY_AWAY,
            Subject(SubjectKind.REPOSITORY, EVIL, None),
            Severity.CRITICAL,
            {"message": EVIL, "hint": EVIL},
        ),
    )
    for language in ("en", "fr"):
        user = site.user(language=language)
        for path in ("/alerts", "/alerts?past=true", "/"):
            is_text(user.get(path))


def test_every_page_tells_the_worst_alert_at_its_top_until_all_are_acknowledged(site: Site, store: Alerts) -> None:
    put(store, failed(EVIL))
    user = site.user()
    told = user.get("/runs").one("aside", id="alert-banner")
    assert "1 more" in told.text  # that the service does not run, and the backup
    for alert in site.application.alerts.open():
        user.post(f"/alerts/{quote(alert.id)}/acknowledge")
    assert user.get("/runs").one("aside", id="alert-banner").text.strip() == ""


def test_pages_that_list_alerts_have_no_banner(site: Site, store: Alerts) -> None:
    put(store, failed())
    user = site.user()
    assert not user.get("/").all("aside")
    assert not user.get("/alerts").all("aside")
