"""The thread that looks and alarms."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from kvm_backup.database.alerts import Alerts
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.alert import AlertKind, Damage, Situation
from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.runtime.observer import Observer
from kvm_backup.services.alerts import AlertService
from kvm_backup.services.survey.survey import Survey

OVERDUE = VmRecord("1a2b3c4d-0000-4000-8000-000000000001", "web", protection=Protection.OVERDUE)


@dataclass
class Looks:
    """In the place of a survey: counts how often it is asked, and tells what it is set to."""

    changed: bool = False
    failure: Exception | None = None
    vms: list[VmRecord] = field(default_factory=list)
    begun: list[list[Damage]] = field(default_factory=list)
    looks: int = 0
    examined: datetime | None = None
    on_look: Callable[[], None] = lambda: None

    def begin(self, _now: datetime, damages: list[Damage]) -> None:
        self.begun.append(damages)

    def look(self, _now: datetime) -> bool:
        self.looks += 1
        self.on_look()
        if self.failure is not None:
            raise self.failure
        return self.changed

    def situation(self) -> Situation:
        return Situation(vms=self.vms)


@dataclass
class Bench:
    """An observer with a clock and real alerts."""

    folder: Path
    now: datetime = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    looks: Looks = field(default_factory=Looks)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = Alerts(Database.open(sqlite_url(self.folder / "kvm-backup.db")), "alpha")
        self.alerts = AlertService(store, lambda: None, "alpha", lambda: self.now)
        self.observer = Observer(cast(Survey, self.looks), self.alerts, self.said.append, lambda: self.now)

    def step(self, **later: float) -> list[AlertKind]:
        self.now += timedelta(**later)
        self.observer.step()
        return [alert.kind for alert in self.alerts.open()]


def test_alerts_follow_the_first_look_then_each_change_and_each_minute(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.looks.vms = [OVERDUE]
    assert bench.step() == [AlertKind.OVERDUE]
    bench.looks.vms = []
    assert bench.step(seconds=59) == [AlertKind.OVERDUE]
    assert bench.step(seconds=1) == []
    bench.looks.vms, bench.looks.changed = [OVERDUE], True
    assert bench.step(seconds=1) == [AlertKind.OVERDUE]


def test_a_clock_that_was_set_back_keeps_nobody_waiting(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.step()
    bench.looks.vms = [OVERDUE]
    assert bench.step(hours=-5) == [AlertKind.OVERDUE]


def test_it_begins_once_with_the_damage_that_was_known(tmp_path: Path) -> None:
    damage = Damage("web--1a2b3c4d/20261122T020000Z", "default", "digest", "verify")
    Bench(tmp_path).alerts.evaluate(Situation(damages=[damage]))
    bench = Bench(tmp_path)
    bench.step()
    bench.step(seconds=2)
    assert bench.looks.begun == [[damage]]


def test_no_alert_is_resolved_by_a_look_that_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.alerts.evaluate(Situation(vms=[OVERDUE]))
    bench.looks.failure = DatabaseError("away", hint="x")
    with pytest.raises(DatabaseError):
        bench.step(minutes=2)
    assert [alert.kind for alert in bench.alerts.open()] == [AlertKind.OVERDUE]


def test_a_failure_is_said_once_and_the_thread_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("kvm_backup.runtime.observer._LOOK_SECONDS", 0.001)
    bench = Bench(tmp_path)
    enough = threading.Event()

    def count() -> None:
        if bench.looks.looks >= 5:
            enough.set()

    bench.looks.on_look = count
    bench.looks.failure = DatabaseError("the database is away", hint="Start it.")
    with bench.observer.watching():
        assert enough.wait(30)
        bench.looks.failure = ValueError("odd")
        enough.clear()
        assert enough.wait(30)
        while len(bench.said) < 2:
            assert enough.wait(30)
            enough.clear()
    assert bench.said == [
        "observer: the database is away. Start it.",
        "observer: unexpected ValueError: odd",
    ]
