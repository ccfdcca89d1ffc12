"""When an alert is raised, and when it is over."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kvm_backup.domain.alert import (
    Alert,
    AlertKind,
    Away,
    Condition,
    Damage,
    Place,
    Severity,
    Situation,
    Subject,
    SubjectKind,
    compare,
    conditions,
    damage_of,
    not_ticking,
)
from kvm_backup.domain.inventory import PointFacts, RunFacts, VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.vm import VmState

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
GIB = 1 << 30
REPOSITORY = Subject(SubjectKind.REPOSITORY, "default")


def a_vm(**changes: Any) -> VmRecord:
    record = VmRecord("1a2b3c4d-0000-4000-8000-000000000001", "web", VmState.RUNNING, protection=Protection.PROTECTED)
    return replace(record, **changes)


def kinds(**situation: Any) -> list[AlertKind]:
    return [condition.kind for condition in conditions(Situation(**situation))]


def an_alert(condition: Condition, **changes: Any) -> Alert:
    alert = Alert(
        "a1",
        condition.kind,
        condition.severity,
        condition.subject,
        "alpha",
        NOW,
        NOW,
        facts=condition.facts,
    )
    return replace(alert, **changes)


def test_a_protected_vm_and_an_unscheduled_one_alarm_nobody() -> None:
    assert kinds(vms=[a_vm(), a_vm(protection=Protection.UNSCHEDULED)]) == []


@pytest.mark.parametrize(
    ("protection", "overdue", "expected"),
    [
        (Protection.LATE, False, [AlertKind.RUN_LATE]),
        (Protection.OVERDUE, True, [AlertKind.OVERDUE]),
        (Protection.PENDING, False, []),
        (Protection.NEVER, True, [AlertKind.NEVER_BACKED_UP]),
    ],
)
def test_how_a_vm_stands_decides_its_alert(protection: Protection, overdue: bool, expected: list[AlertKind]) -> None:
    assert kinds(vms=[a_vm(protection=protection, overdue=overdue)]) == expected


def test_a_vm_that_is_gone_is_not_overdue() -> None:
    assert kinds(vms=[a_vm(gone_since=NOW, protection=Protection.OVERDUE, overdue=True)]) == []


def test_a_failed_run_is_told_with_its_error_until_one_succeeds() -> None:
    failed = RunFacts(
        failed_run="r1", failed_at=NOW, failed_runs=2, error="no space", error_code="no-space", hint="H."
    )
    [condition] = conditions(Situation(vms=[a_vm(runs=failed)]))
    assert condition.kind is AlertKind.RUN_FAILED
    assert condition.facts == {
        "run": "r1",
        "at": NOW.isoformat(),
        "times": 2,
        "error": "no space",
        "error_code": "no-space",
        "hint": "H.",
    }
    assert kinds(vms=[a_vm(runs=RunFacts(last_run="r2"))]) == []


def test_the_failed_run_of_a_vm_that_this_host_does_not_have_is_told_under_its_name() -> None:
    [condition] = conditions(Situation(strangers={"wbe": RunFacts(failed_run="r1")}))
    assert (condition.kind, condition.subject) == (AlertKind.RUN_FAILED, Subject(SubjectKind.VM, "wbe"))


@pytest.mark.parametrize(
    ("free", "total", "expected"),
    [
        (20 * GIB, 100 * GIB, None),
        (5 * GIB, 100 * GIB, None),
        (5 * GIB - 1, 100 * GIB, Severity.WARNING),
        (2 * GIB - 1, 10 * GIB, Severity.WARNING),
        (GIB, 10 * GIB, Severity.WARNING),
        (GIB - 1, 10 * GIB, Severity.CRITICAL),
    ],
)
def test_a_disk_is_low_below_a_twentieth_or_twice_the_reserve(
    free: int, total: int, expected: Severity | None
) -> None:
    found = list(conditions(Situation(places=[Place(REPOSITORY, "/backup", free, total, GIB)])))
    assert [condition.severity for condition in found] == ([expected] if expected else [])


def test_a_disk_that_was_low_stays_so_until_there_is_a_fifth_more() -> None:
    place = Place(REPOSITORY, "/backup", 4 * GIB, 100 * GIB, GIB)
    [low] = conditions(Situation(places=[place]))
    alert = an_alert(low)
    for free, stays in ((5 * GIB, True), (6 * GIB - 1, True), (6 * GIB, False)):
        again = list(conditions(Situation(places=[replace(place, free=free)]), [alert]))
        assert bool(again) is stays


def test_a_few_bytes_more_or_less_are_not_worth_writing() -> None:
    facts = [
        condition.facts
        for free in (4 * GIB, 4 * GIB + 4096)
        for condition in conditions(Situation(places=[Place(REPOSITORY, "/backup", free, 100 * GIB, GIB)]))
    ]
    assert facts[0] == facts[1]


def test_a_damaged_point_can_be_made_of_its_alert_again() -> None:
    damage = Damage("web--1a2b3c4d/20261122T020000Z", "default", "its digest does not match", "verify")
    [condition] = conditions(Situation(damages=[damage]))
    assert condition.kind is AlertKind.DAMAGED_POINT
    assert damage_of(an_alert(condition)) == damage


def test_the_same_point_damaged_in_two_repositories_is_two_alerts() -> None:
    damages = [Damage("web--1a2b3c4d/20261122T020000Z", name, "x", "verify") for name in ("near", "far")]
    found = {condition.identity for condition in conditions(Situation(damages=damages))}
    assert len(found) == 2


def test_everything_that_is_away_is_told() -> None:
    away = Away(Subject(SubjectKind.HOST, "alpha"), "does not answer", "Start it.")
    files = {"schedules_file": away, "settings_file": away}
    assert kinds(libvirt=away, **files, repositories_away=[away], unusable_schedules=[away]) == [
        AlertKind.LIBVIRT_AWAY,
        AlertKind.SCHEDULES_FILE_DAMAGED,
        AlertKind.SETTINGS_FILE_UNUSABLE,
        AlertKind.REPOSITORY_AWAY,
        AlertKind.SCHEDULE_UNUSABLE,
    ]


def test_what_is_new_is_raised_what_changed_refreshed_and_what_is_over_resolved() -> None:
    host = Subject(SubjectKind.HOST, "alpha")
    same, changed, over, new = (
        Condition(kind, host, facts={"n": 1})
        for kind in (AlertKind.LIBVIRT_AWAY, AlertKind.OVERDUE, AlertKind.RUN_LATE, AlertKind.LOW_SPACE)
    )
    alerts = [an_alert(condition) for condition in (same, changed, over)]
    otherwise = replace(changed, facts={"n": 2})
    changes = compare(alerts, [same, otherwise, new])
    assert (changes.new, changes.changed, changes.over) == ([new], [(alerts[1], otherwise)], [alerts[2]])


def test_a_vm_that_was_renamed_keeps_its_alert() -> None:
    [before] = conditions(Situation(vms=[a_vm(protection=Protection.OVERDUE)]))
    [after] = conditions(Situation(vms=[a_vm(name="www", protection=Protection.OVERDUE)]))
    changes = compare([an_alert(before)], [after])
    assert (changes.new, changes.over) == ([], [])
    [(_, condition)] = changes.changed
    assert condition.subject.name == "www"


def test_an_overdue_vm_tells_what_was_missed_and_its_newest_point() -> None:
    points = PointFacts(last_point="web--1a2b3c4d/20261120T020000Z", last_point_at=NOW - timedelta(days=2))
    [condition] = conditions(Situation(vms=[a_vm(protection=Protection.OVERDUE, missed=NOW, points=points)]))
    assert condition.facts == {
        "missed": NOW.isoformat(),
        "last_point": points.last_point,
        "made": (NOW - timedelta(days=2)).isoformat(),
    }


@pytest.mark.parametrize(
    ("running", "started", "ticked", "wrong"),
    [
        (True, 1, None, False),
        (True, 60, 1, False),
        (True, 60, 4, True),
        (True, 4, None, True),
        (False, 60, 1, True),
        (True, None, None, True),
    ],
)
def test_a_service_that_did_not_tick_for_three_minutes_or_does_not_run_is_told(
    running: bool, started: int | None, ticked: int | None, wrong: bool
) -> None:
    moments = (None if ago is None else NOW - timedelta(minutes=ago) for ago in (started, ticked))
    condition = not_ticking("alpha", running=running, started=next(moments), ticked=next(moments), now=NOW)
    assert (condition is not None) is wrong
