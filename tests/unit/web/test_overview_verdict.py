"""The first page says that VMs are protected only while that is known."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from starlette.testclient import TestClient

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.alert import Away, Situation, Subject, SubjectKind
from kvm_backup.domain.inventory import HostFacts, VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.vm import VmState
from kvm_backup.runtime.heartbeat import Heartbeat, only_service, write_heartbeat
from kvm_backup.services.facts import Facts, make_facts
from kvm_backup.services.schedules.file import ScheduleFile
from kvm_backup.web.app import make_app
from kvm_backup.web.pages.overview import is_stale, verdict_of
from tests.unit.web.dashboard import Dashboard

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
UUID = "1a2b3c4d-0000-4000-8000-000000000001"


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """Of a host with one VM, which is protected, and was looked at a minute ago."""
    database = Database.open(sqlite_url(tmp_path / "kvm-backup.db"))
    made = make_facts(
        database,
        History(database, lambda: NOW),
        ScheduleFile(tmp_path, ZoneInfo("UTC")),
        host="alpha",
        zone=ZoneInfo("UTC"),
        clock=lambda: NOW,
        daemon=lambda: None,
    )
    made.inventory.save([VmRecord(UUID, "web", VmState.RUNNING, protection=Protection.PROTECTED)], [])
    made.inventory.note_host(HostFacts(listed=NOW - MINUTE))
    return made


def tone(facts: Facts) -> str | None:
    verdict = verdict_of(facts.overview.read())
    return verdict.tone if verdict else None


def test_a_vm_that_was_looked_at_a_minute_ago_is_protected(facts: Facts) -> None:
    assert tone(facts) == "good"


def _observer_stands_still(facts: Facts) -> None:
    facts.inventory.note_host(HostFacts(listed=NOW - timedelta(hours=3)))


def _libvirt_is_away(facts: Facts) -> None:
    facts.inventory.note_host(HostFacts(listed=NOW - MINUTE, away_since=NOW, away_error="no socket"))


def _repository_is_away(facts: Facts) -> None:
    away = Away(Subject(SubjectKind.REPOSITORY, "nas"), "not mounted", "Mount it.")
    facts.alerts.evaluate(Situation(repositories_away=[away]))
    [alert] = facts.alerts.open()
    facts.alerts.acknowledge(alert.id, "zoé")


def _schedules_cannot_be_read(facts: Facts) -> None:
    facts.overview.schedule_file.path.write_text("[{")


@pytest.mark.parametrize(
    "happens", [_observer_stands_still, _libvirt_is_away, _repository_is_away, _schedules_cannot_be_read]
)
def test_what_cannot_be_told_now_is_told_as_of_before(facts: Facts, happens: Callable[[Facts], None]) -> None:
    happens(facts)
    verdict = verdict_of(facts.overview.read())
    assert verdict is not None
    assert (verdict.tone, "was protected when" in verdict.text) == ("warning", True)


def test_nothing_is_said_of_vms_before_libvirt_was_asked_once(facts: Facts) -> None:
    facts.inventory.note_host(HostFacts(away_since=NOW, away_error="no socket"))
    assert tone(facts) is None


def test_a_libvirt_that_is_away_explains_why_nothing_was_looked_at(facts: Facts) -> None:
    facts.inventory.note_host(HostFacts(listed=NOW - timedelta(days=1), away_since=NOW - timedelta(hours=23)))
    assert not is_stale(facts.overview.read())


def test_health_tells_of_a_service_that_ticks_and_does_not_look(tmp_path: Path) -> None:
    started, ticked = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC)
    application = Dashboard(tmp_path / "state").application
    client = TestClient(make_app(application), base_url="http://localhost")
    with only_service(application.settings.state_dir):
        write_heartbeat(
            application.settings.state_dir,
            Heartbeat(1, application.host, started.isoformat(), ticked.isoformat(), ticked.isoformat()),
        )
        application.inventory.note_host(HostFacts(listed=ticked))
        looking = client.get("/healthz")
        application.inventory.note_host(HostFacts(listed=ticked - timedelta(minutes=50)))
        hanging = client.get("/healthz")
        application.inventory.note_host(HostFacts(listed=ticked - timedelta(minutes=50), away_since=ticked))
        without_libvirt = client.get("/healthz")
    assert (looking.status_code, hanging.status_code, without_libvirt.status_code) == (200, 503, 200)
    assert hanging.json()["look"].startswith("the VMs were last looked at 30")


def test_without_libvirt_the_page_does_not_say_that_there_is_no_vm(administrator: httpx.Client) -> None:
    page = administrator.get("/")
    assert page.status_code == 200
    assert "libvirt has no virtual machine" not in page.text
