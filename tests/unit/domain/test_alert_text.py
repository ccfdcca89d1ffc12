"""What alerts tell people, in both languages."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kvm_backup.domain import alert_text
from kvm_backup.domain.alert import Alert, AlertKind, Severity, Subject, SubjectKind
from kvm_backup.domain.phrase import Phrase
from kvm_backup.language import told

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
SPACE = {"path": "/backup", "free": 3 << 30, "total": 100 << 30, "reserve": 1 << 30}
AWAY = {"message": "no answer", "hint": "Start it."}
FACTS: dict[AlertKind, dict[str, Any]] = {
    AlertKind.RUN_FAILED: {"times": 1, "error": "no space left", "hint": "Free some."},
    AlertKind.RUN_LATE: {},
    AlertKind.OVERDUE: {},
    AlertKind.NEVER_BACKED_UP: {},
    AlertKind.DAMAGED_POINT: {"message": "digest"},
    AlertKind.LOW_SPACE: SPACE,
    AlertKind.REPOSITORY_AWAY: AWAY,
    AlertKind.LIBVIRT_AWAY: AWAY,
    AlertKind.SCHEDULES_FILE_DAMAGED: AWAY,
    AlertKind.SETTINGS_FILE_UNUSABLE: AWAY,
    AlertKind.SCHEDULE_UNUSABLE: AWAY,
    AlertKind.SHIPPING_LATE: {"points": 3, "late": False, "error": "no route", "hint": None},
    AlertKind.SHIPPING_REFUSED: {"points": 3, "error": "the key was refused", "hint": "Put it back."},
    AlertKind.POINTS_UNSHIPPABLE: {"vms": 7, "points": 9, "names": ["a", "b"]},
    AlertKind.DAEMON_NOT_TICKING: {"running": True},
}


def an_alert(kind: AlertKind, facts: dict[str, Any], subject: SubjectKind = SubjectKind.VM) -> Alert:
    return Alert("a", kind, Severity.CRITICAL, Subject(subject, "{web}"), "alpha", NOW, NOW, facts=facts)


@pytest.mark.parametrize("kind", AlertKind)
def test_every_kind_has_a_title_advice_and_name_in_french(kind: AlertKind) -> None:
    alert = an_alert(kind, FACTS[kind])
    for text in (alert_text.title(alert), alert_text.kind_name(kind)):
        assert isinstance(text, Phrase)
        assert told(text, "fr") != text
    advice = alert_text.advice(alert)
    assert advice == FACTS[kind].get("hint") or told(advice, "fr") != advice


def test_a_name_that_looks_like_a_template_is_shown_as_it_is() -> None:
    assert "la VM {web} est hors délai" in told(alert_text.title(an_alert(AlertKind.OVERDUE, {})), "fr")


def test_a_second_failure_in_a_row_is_counted() -> None:
    again = an_alert(AlertKind.RUN_FAILED, {"times": 3})
    assert alert_text.title(again) == "3 backups of {web} failed in a row"


def test_the_cause_of_a_failed_run_is_its_error_and_the_advice_its_hint() -> None:
    alert = an_alert(AlertKind.RUN_FAILED, FACTS[AlertKind.RUN_FAILED])
    assert (alert_text.cause(alert), alert_text.advice(alert)) == ("no space left", "Free some.")


def test_sizes_are_told_as_the_reader_writes_them() -> None:
    alert = an_alert(AlertKind.LOW_SPACE, SPACE, SubjectKind.REPOSITORY)
    title = alert_text.title(alert, lambda size: f"{size >> 30} Gio")
    assert told(title, "fr") == "il ne reste que 3 Gio dans le dépôt {web}"
    assert "1.0 GiB free" in alert_text.cause(alert)


def test_a_service_that_is_dead_and_one_that_hangs_are_told_apart() -> None:
    dead, hanging = (an_alert(AlertKind.DAEMON_NOT_TICKING, {"running": running}) for running in (False, True))
    assert alert_text.title(dead) == "the service on {web} does not run"
    assert "systemctl start" in alert_text.advice(dead)
    assert "journalctl" in alert_text.advice(hanging)


def test_shipping_that_waits_is_calm_for_a_day_and_then_tells_what_to_do() -> None:
    facts = {"points": 3, "late": False, "error": "no route", "hint": "Check the link."}
    calm = an_alert(AlertKind.SHIPPING_LATE, facts)
    late = an_alert(AlertKind.SHIPPING_LATE, facts | {"late": True})
    assert "nothing needs to be done" in alert_text.advice(calm)
    assert alert_text.advice(late) == "Check the link."
    assert "more than a day" in alert_text.title(late)
    behind = an_alert(AlertKind.SHIPPING_LATE, {"points": 3, "late": True, "error": None, "hint": None})
    assert "bandwidth" in alert_text.advice(behind)
    assert "catching up" in alert_text.cause(behind)
