"""Alerts as front ends see them, also when the service that should write them is dead."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kvm_backup.database.alerts import Alerts
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.alert import AlertKind, Condition, Damage, Severity, Situation, Subject, SubjectKind
from kvm_backup.domain.errors import AlertNotFoundError
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.services.alerts import NOT_TICKING, AlertService

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
SILENT = Condition(
    AlertKind.DAEMON_NOT_TICKING, Subject(SubjectKind.HOST, "alpha"), Severity.CRITICAL, {"running": False}
)
OVERDUE = VmRecord("1a2b3c4d-0000-4000-8000-000000000001", "web", protection=Protection.OVERDUE)


@dataclass
class Desk:
    """The service of alerts, and whether the daemon is silent."""

    folder: Path
    now: datetime = NOW
    silent: bool = False
    service: AlertService = field(init=False)

    def __post_init__(self) -> None:
        store = Alerts(Database.open(sqlite_url(self.folder / "kvm-backup.db")), "alpha")
        self.service = AlertService(store, lambda: SILENT if self.silent else None, "alpha", lambda: self.now)

    def evaluate(self, *vms: VmRecord, minutes: float = 1) -> bool:
        self.now += timedelta(minutes=minutes)
        return self.service.evaluate(Situation(vms=vms))

    def kinds(self, acknowledged: bool | None = None) -> list[AlertKind]:
        listed = [alert.kind for alert in self.service.open(acknowledged=acknowledged)]
        assert self.service.count_open(acknowledged=acknowledged) == len(listed)
        return listed


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_alert_is_raised_stays_and_goes_with_its_condition(desk: Desk) -> None:
    assert desk.evaluate(OVERDUE)
    assert not desk.evaluate(OVERDUE)
    assert desk.kinds() == [AlertKind.OVERDUE]
    assert desk.evaluate()
    assert desk.kinds() == []
    [over] = desk.service.history()
    assert (over.raised, over.resolved) == (NOW + timedelta(minutes=1), desk.now)


def test_an_acknowledged_alert_stays_so_until_its_condition_comes_back(desk: Desk) -> None:
    desk.evaluate(OVERDUE)
    [alert] = desk.service.open()
    desk.service.acknowledge(alert.id, "anna")
    desk.evaluate(OVERDUE)
    assert desk.service.count_open_unacknowledged() == 0
    assert desk.kinds(acknowledged=True) == [AlertKind.OVERDUE]
    desk.evaluate()
    desk.evaluate(OVERDUE)
    assert desk.kinds(acknowledged=False) == [AlertKind.OVERDUE]


def test_every_change_of_an_alert_makes_another_revision(desk: Desk) -> None:
    seen = [desk.service.revision]
    desk.evaluate(OVERDUE)
    seen.append(desk.service.revision)
    desk.service.acknowledge(desk.service.open()[0].id, "anna")
    seen.append(desk.service.revision)
    assert len(set(seen)) == 3
    desk.evaluate(OVERDUE)
    assert desk.service.revision == seen[-1]


def test_that_nobody_ticks_is_found_by_who_asks_though_nobody_wrote_it(desk: Desk) -> None:
    desk.silent = True
    [alert] = desk.service.open()
    assert (alert.id, alert.kind, alert.facts) == (NOT_TICKING, AlertKind.DAEMON_NOT_TICKING, {"running": False})
    assert desk.service.count_open_unacknowledged() == 1
    assert desk.service.get(NOT_TICKING).kind is AlertKind.DAEMON_NOT_TICKING
    desk.silent = False
    assert desk.kinds() == []
    with pytest.raises(AlertNotFoundError):
        desk.service.get(NOT_TICKING)


def test_the_silence_of_the_service_is_on_the_first_page_only(desk: Desk) -> None:
    desk.evaluate(OVERDUE)
    desk.silent = True
    assert len(desk.service.open(limit=50)) == 2
    assert desk.service.open(offset=50) == []


def test_the_silence_of_the_service_can_be_acknowledged_before_anybody_wrote_it(desk: Desk) -> None:
    desk.silent = True
    acknowledged = desk.service.acknowledge(NOT_TICKING, "anna")
    assert (acknowledged.acknowledged_by, acknowledged.acknowledged_at) == ("anna", desk.now)
    assert desk.service.acknowledge(NOT_TICKING, "bob").acknowledged_by == "anna"
    assert desk.kinds() == [AlertKind.DAEMON_NOT_TICKING]
    assert desk.service.count_open_unacknowledged() == 0


def test_an_alert_that_the_service_was_silent_is_over_as_soon_as_it_ticks(desk: Desk) -> None:
    desk.silent = True
    desk.evaluate(OVERDUE)
    assert set(desk.kinds()) == {AlertKind.DAEMON_NOT_TICKING, AlertKind.OVERDUE}
    desk.silent = False
    assert desk.kinds() == desk.kinds(acknowledged=False) == [AlertKind.OVERDUE]
    desk.evaluate(OVERDUE)
    assert [alert.kind for alert in desk.service.history() if alert.resolved] == [AlertKind.DAEMON_NOT_TICKING]


def test_what_is_damaged_can_be_asked_for_after_a_restart(desk: Desk) -> None:
    damage = Damage("web--1a2b3c4d/20261122T020000Z", "default", "digest", "verify")
    desk.service.evaluate(Situation(damages=[damage]))
    assert desk.service.known_damages() == [damage]
