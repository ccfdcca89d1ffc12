"""Alerts in the database keep their word on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL

from kvm_backup.database.alerts import Alerts
from kvm_backup.database.engine import Database
from kvm_backup.domain.alert import AlertKind, Changes, Condition, Severity, Subject, SubjectKind
from kvm_backup.domain.errors import AlertNotFoundError

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def alerts(database: Database) -> Alerts:
    return Alerts(database, "alpha")


def a_condition(name: str = "web", kind: AlertKind = AlertKind.OVERDUE, **changes: Any) -> Condition:
    fields: dict[str, Any] = {"severity": Severity.CRITICAL, "facts": {"missed": "x"}}
    return Condition(kind, Subject(SubjectKind.VM, name, f"uuid-of-{name}"), **fields | changes)


def raised(alerts: Alerts, *conditions: Condition, at: datetime = NOW) -> None:
    alerts.apply(Changes(conditions, [], []), at)


def test_a_condition_becomes_an_alert_with_all_its_facts(alerts: Alerts) -> None:
    condition = a_condition("é \U0001f600\0", facts={"n": 1, "text": "'; --", "nothing": None})
    raised(alerts, condition)
    [alert] = alerts.open()
    assert (alert.kind, alert.severity, alert.facts) == (condition.kind, condition.severity, condition.facts)
    assert alert.subject == Subject(SubjectKind.VM, "é \U0001f600\\x00", "uuid-of-é \U0001f600\\x00")
    assert (alert.host, alert.raised, alert.last_seen, alert.open) == ("alpha", NOW, NOW, True)
    assert alerts.get(alert.id) == alert


def test_of_a_kind_and_subject_only_one_alert_is_open(alerts: Alerts) -> None:
    raised(alerts, a_condition(), a_condition("db"), a_condition(kind=AlertKind.RUN_LATE))
    raised(alerts, a_condition(), at=NOW + MINUTE)
    assert len(alerts.open()) == 3
    assert alerts.count_open() == 3


def test_eight_that_raise_the_same_at_once_raise_it_once(alerts: Alerts) -> None:
    conditions = [a_condition(f"vm-{number}") for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: raised(alerts, *conditions), range(8)))
    assert alerts.count_open() == 20


def test_an_alert_that_is_over_can_come_back_as_a_new_one(alerts: Alerts) -> None:
    raised(alerts, a_condition())
    [first] = alerts.open()
    alerts.acknowledge(first.id, "anna", NOW)
    alerts.apply(Changes([], [], [first]), NOW + MINUTE)
    assert alerts.open() == []
    raised(alerts, a_condition(), at=NOW + 2 * MINUTE)
    [again] = alerts.open()
    assert (again.id != first.id, again.acknowledged_at) == (True, None)
    assert [alert.resolved for alert in alerts.history()] == [None, NOW + MINUTE]


def test_who_acknowledged_first_stays(alerts: Alerts) -> None:
    raised(alerts, a_condition())
    [alert] = alerts.open()
    alerts.acknowledge(alert.id, "anna", NOW)
    again = alerts.acknowledge(alert.id, "bob", NOW + MINUTE)
    assert (again.acknowledged_by, again.acknowledged_at) == ("anna", NOW)
    with pytest.raises(AlertNotFoundError):
        alerts.acknowledge("nothing", "anna", NOW)


def test_what_changed_is_refreshed_and_stays_acknowledged(alerts: Alerts) -> None:
    raised(alerts, a_condition(severity=Severity.WARNING))
    [alert] = alerts.open()
    alerts.acknowledge(alert.id, "anna", NOW)
    alerts.apply(Changes([], [(alert, a_condition(facts={"missed": "y"}))], []), NOW + MINUTE)
    [now] = alerts.open()
    assert (now.severity, now.facts, now.last_seen) == (Severity.CRITICAL, {"missed": "y"}, NOW + MINUTE)
    assert (now.raised, now.acknowledged_by) == (NOW, "anna")


def test_unacknowledged_severe_and_new_ones_come_first(alerts: Alerts) -> None:
    raised(alerts, a_condition("seen"), a_condition("old"))
    raised(alerts, a_condition("new"), a_condition("mild", severity=Severity.WARNING), at=NOW + MINUTE)
    seen = next(alert for alert in alerts.open() if alert.subject.name == "seen")
    alerts.acknowledge(seen.id, "anna", NOW)
    assert [alert.subject.name for alert in alerts.open()] == ["new", "old", "mild", "seen"]
    assert [alert.subject.name for alert in alerts.open(acknowledged=False, offset=1, limit=1)] == ["old"]
    assert [alert.subject.name for alert in alerts.open(acknowledged=True)] == ["seen"]
    assert (alerts.count_open(acknowledged=False), alerts.count_open(acknowledged=True)) == (3, 1)
    assert alerts.counts() == {
        (AlertKind.OVERDUE, Severity.CRITICAL): 3,
        (AlertKind.OVERDUE, Severity.WARNING): 1,
    }


def test_when_it_was_last_seen_is_written_every_ten_minutes(alerts: Alerts) -> None:
    raised(alerts, a_condition())
    seen = []
    for minutes in (9, 11, 12, 22):
        alerts.apply(Changes([], [], []), NOW + minutes * MINUTE)
        seen.append((alerts.open()[0].last_seen - NOW) // MINUTE)
    assert seen == [0, 11, 11, 22]


def test_another_hosts_alerts_are_left_alone(database: Database, alerts: Alerts) -> None:
    beta = Alerts(database, "beta")
    raised(beta, a_condition())
    [of_beta] = beta.open()
    raised(alerts, a_condition())
    assert len(alerts.open()) == 1
    alerts.apply(Changes([], [], []), NOW + 60 * MINUTE)
    assert beta.open() == [of_beta]
    with pytest.raises(AlertNotFoundError):
        alerts.get(of_beta.id)
    with pytest.raises(AlertNotFoundError):
        alerts.acknowledge(of_beta.id, "anna", NOW)
    assert beta.open() == [of_beta]


def test_only_what_was_over_before_is_forgotten(alerts: Alerts) -> None:
    raised(alerts, a_condition("over"), a_condition("open"))
    over = next(alert for alert in alerts.open() if alert.subject.name == "over")
    alerts.apply(Changes([], [], [over]), NOW)
    alerts.forget(NOW)
    assert len(alerts.history()) == 2
    alerts.forget(NOW + MINUTE)
    assert [alert.subject.name for alert in alerts.history()] == ["open"]
