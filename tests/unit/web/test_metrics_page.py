"""What Prometheus is told, by the product's own server."""

import re
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.account import Role
from kvm_backup.domain.alert import AlertKind, Severity
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.inventory import PointFacts, RunFacts, VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.task import ShipTask
from kvm_backup.domain.waiting import RemoteFacts, Waiting
from kvm_backup.web.metrics import Facts
from tests.unit.web.dashboard import Dashboard

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def samples(application: Application) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every value by the metric's name and its labels' values, collected from the tables."""
    collected = Facts(application, application.overview.clock()).collect()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in collected
        for sample in family.samples
    }


REMOTE = {"name": "nas", "url": "ssh://backup@nas.example/srv", "of": "default"}


@pytest.fixture
def application(tmp_path: Path) -> Application:
    settings = {"state_dir": str(tmp_path), "timezone": "UTC", "host": "alpha", "repository": [REMOTE]}
    return Application(check(settings, None))


def shipping(application: Application, now: datetime) -> None:
    """Something waits for the remote, a run failed to ship it, and something arrived there before."""
    store = application.shipping.facts.store
    waiting = Waiting(
        "nas", "web--1a2b3c4d", "web", "1a2b3c4d-0000-4000-8000-000000000001", 700, {"a": now, "b": now}
    )
    store.save([waiting])
    store.note_remote(RemoteFacts("nas", 5, 6, 1, now))
    run = Run(
        id="ship",
        vm_name="web",
        kind=RunKind.SHIP,
        trigger=Trigger.SERVICE,
        host="alpha",
        repository="nas",
        requested_mode=None,
        state=RunState.QUEUED,
        created=now,
        task=ShipTask("web--1a2b3c4d"),
    )
    application.history.create(run)
    application.history.start(run.id)
    application.history.wait(run.id, now, RunResult(error="away", error_code="remote-unreachable"))


def a_run(application: Application, state: RunState | None) -> None:
    now = application.overview.clock()
    run = Run(
        id=f"run-{state}",
        vm_name="web",
        kind=RunKind.BACKUP,
        trigger=Trigger.COMMAND,
        host="alpha",
        repository="default",
        requested_mode=Mode.FULL,
        state=RunState.QUEUED,
        created=now,
    )
    application.history.create(run)
    if state is not None:
        application.history.start(run.id)
        application.history.finish(run.id, state, RunResult(bytes_read=300, bytes_stored=100))


def test_each_value_is_that_of_the_tables(application: Application) -> None:
    now = application.overview.clock()
    application.inventory.save(
        [
            VmRecord(
                "1a2b3c4d-0000-4000-8000-000000000001",
                "web",
                protection=Protection.OVERDUE,
                overdue=True,
                points=PointFacts(last_point_at=now, points=3, bytes_stored=500),
                runs=RunFacts(failed_runs=2),
            ),
            VmRecord("1a2b3c4d-0000-4000-8000-000000000002", "new", protection=Protection.NEVER),
            VmRecord("1a2b3c4d-0000-4000-8000-000000000003", "newer", protection=Protection.PENDING),
        ]
    )
    for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED, None):
        a_run(application, state)
    application.statistics.sample_space({"default": SpaceSample(now, 500, 700, 1200)})
    due = Schedule("s1", "n", ("web",), "daily", "02:00", next_run=now.replace(year=now.year - 1))
    application.schedule_file.update(
        lambda _before: [due, Schedule("s2", "m", ("web",), "daily", "02:00", enabled=False)]
    )
    found = samples(application)
    assert found["kvm_backup_vms", ("overdue",)] == found["kvm_backup_vms", ("never",)] == 1
    assert found["kvm_backup_vms", ("pending",)] == 1
    assert found["kvm_backup_vm_last_point_timestamp_seconds", ("web",)] == pytest.approx(now.timestamp())
    assert ("kvm_backup_vm_last_point_timestamp_seconds", ("new",)) not in found
    assert [found["kvm_backup_vm_overdue", (name,)] for name in ("web", "new")] == [1, 0]
    assert found["kvm_backup_vm_stored_bytes", ("web",)] == 500
    assert found["kvm_backup_vm_failed_runs", ("web",)] == 2
    own = ("backup", "default")
    assert [found["kvm_backup_runs_total", (*own, state)] for state in ("succeeded", "failed", "cancelled")] == [
        1,
        2,
        0,
    ]
    assert found["kvm_backup_run_duration_seconds_count", own] == 3
    assert (found["kvm_backup_read_bytes_total", own], found["kvm_backup_stored_bytes_total", own]) == (900, 300)
    assert found["kvm_backup_unfinished_runs", ("queued",)] == 1
    assert [found["kvm_backup_schedules", (word,)] for word in ("true", "false")] == [1, 1]
    assert found["kvm_backup_schedule_lag_seconds", ()] >= 365 * 86400
    assert [found[f"kvm_backup_repository_{word}_bytes", ("default",)] for word in ("used", "free", "size")] == [
        500,
        700,
        1200,
    ]
    assert found["kvm_backup_service_up", ()] == 0
    assert found["kvm_backup_unacknowledged_alerts", ()] == 1


def test_what_waits_is_told_of_each_remote_and_why(application: Application) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    shipping(application, now)
    found = samples(application)
    values = {
        name: found[f"kvm_backup_remote_{name}", ("nas",)]
        for name in ("waiting_points", "waiting_bytes", "waiting_since_timestamp_seconds", "points")
    }
    assert values == {
        "waiting_points": 2,
        "waiting_bytes": 700,
        "waiting_since_timestamp_seconds": now.timestamp(),
        "points": 5,
    }
    assert found["kvm_backup_remote_last_shipped_timestamp_seconds", ("nas",)] == now.timestamp()
    assert found["kvm_backup_remote_failing_runs", ("nas", "remote-unreachable")] == 1


def test_open_alerts_are_counted_by_kind_and_severity(application: Application) -> None:
    application.alerts.evaluate(application.survey.situation())
    found = samples(application)
    key = ("kvm_backup_open_alerts", (AlertKind.DAEMON_NOT_TICKING.value, Severity.CRITICAL.value))
    assert found[key] == 1


def test_every_metric_is_documented_with_its_labels_and_none_besides(application: Application) -> None:
    documented = {}
    for names, labels in re.findall(r"^\| (`kvm_backup.+?) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = tuple(re.findall(r"`(\w+)`", labels))
    a_run(application, RunState.SUCCEEDED)
    now = application.overview.clock()
    points = PointFacts(last_point_at=now)
    application.inventory.save([VmRecord("1a2b3c4d-0000-4000-8000-000000000001", "web", points=points)])
    application.inventory.note_host(application.inventory.host_facts().__class__(listed=now))
    application.statistics.sample_space({"default": SpaceSample(now, 1, 1, 1)})
    application.alerts.evaluate(application.survey.situation())
    shipping(application, now)
    (application.settings.state_dir / "daemon.json").write_text(f'{{"ticked": "{now.isoformat()}"}}')
    collected = {
        sample.name: tuple(sample.labels) for family in Facts(application, now).collect() for sample in family.samples
    }
    assert {name: tuple(sorted(labels)) for name, labels in collected.items()} == {
        name: tuple(sorted(labels)) for name, labels in documented.items()
    }


def test_without_a_login_a_program_on_the_same_host_reads_nothing_either(visitor: httpx.Client) -> None:
    answer = visitor.get("/metrics")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "kvm_backup_" not in answer.text


def test_prometheus_can_read_it_with_the_token_of_a_viewer(dashboard: Dashboard, visitor: httpx.Client) -> None:
    with dashboard.logged_in(Role.VIEWER):
        accounts = dashboard.application.accounts
    viewer = next(account for account in accounts.all() if account.name == "viewer")
    _token, secret = dashboard.application.api_tokens.add(viewer, "prometheus", Role.VIEWER, 1)
    assert visitor.get("/metrics", headers={"Authorization": "Bearer kvmb_wrong"}).status_code == 401
    answer = visitor.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in families(answer.text)}
    assert {"kvm_backup_build_info", "kvm_backup_vms", "kvm_backup_runs"} <= names


def test_a_vms_name_cannot_break_out_of_its_label(application: Application) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    name = 'a"} 1\nevil{x="\\'
    application.inventory.save([VmRecord("1a2b3c4d-0000-4000-8000-000000000001", name)])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Facts(application, application.overview.clock()))
    text = generate_latest(registry).decode()
    [family] = [family for family in families(text) if family.name == "kvm_backup_vm_overdue"]
    assert [sample.labels for sample in family.samples] == [{"vm": name}]
