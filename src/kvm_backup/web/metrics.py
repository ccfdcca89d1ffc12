"""GET /metrics, for Prometheus: collected from tables when it is asked for. docs/metrics.md has every metric."""

from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from kvm_backup import __version__
from kvm_backup.bootstrap import Application
from kvm_backup.database.statistics import RunTotal
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.waiting import WaitingSum
from kvm_backup.runtime.heartbeat import moment_of, read_heartbeat

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Everything at once, for who may see the pages."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Facts(request.app.state.application, datetime.now(UTC)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Facts(Collector):
    """What the tables of this host say at one time. Raises DatabaseError when the database is away."""

    def __init__(self, application: Application, now: datetime) -> None:
        self._application = application
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("kvm_backup_build", "The version of KVM Backup.", value={"version": __version__})
        yield from self._service()
        yield from self._vms()
        yield from self._runs()
        yield from self._schedules()
        yield from self._repositories()
        yield from self._shipping()
        yield from self._alerts()

    def _service(self) -> Iterator[Metric]:
        beat = read_heartbeat(self._application.settings.state_dir)
        listed = self._application.inventory.host_facts().listed
        yield GaugeMetricFamily(
            "kvm_backup_service_up", "Whether the service runs.", int(self._application.service_runs())
        )
        yield _moment(
            "kvm_backup_last_tick_timestamp_seconds",
            "When the service last looked at what is due.",
            moment_of(beat.ticked) if beat else None,
        )
        yield _moment("kvm_backup_last_listed_timestamp_seconds", "When the list of VMs was last read.", listed)

    def _vms(self) -> Iterator[Metric]:
        inventory = self._application.inventory
        counts = inventory.counts()
        protection = GaugeMetricFamily("kvm_backup_vms", "VMs by how well they are protected.", labels=["protection"])
        for word in ("protected", "late", "overdue", "never", "unscheduled", "pending", "gone"):
            protection.add_metric([word], getattr(counts, word))
        yield protection
        made = _of_vm("last_point_timestamp_seconds", "When the last good restore point was made.")
        overdue = _of_vm("overdue", "Whether the last good point is older than schedules promise.")
        stored = _of_vm("stored_bytes", "What the restore points take.")
        failed = _of_vm("failed_runs", "How many backups failed since one succeeded.")
        for vm in inventory.points_of_all():
            labels = [vm.name]
            if vm.last_point_at is not None:
                made.add_metric(labels, vm.last_point_at.timestamp())
            overdue.add_metric(labels, int(vm.overdue))
            stored.add_metric(labels, vm.bytes_stored)
            failed.add_metric(labels, vm.failed_runs)
        yield from (made, overdue, stored, failed)

    def _runs(self) -> Iterator[Metric]:
        labels = ["kind", "repository"]
        ended = CounterMetricFamily("kvm_backup_runs", "Runs that ended, by how they did.", labels=[*labels, "state"])
        took = SummaryMetricFamily("kvm_backup_run_duration_seconds", "How long runs took.", labels=labels)
        read = CounterMetricFamily("kvm_backup_read_bytes", "What runs read.", labels=labels)
        stored = CounterMetricFamily("kvm_backup_stored_bytes", "What runs stored.", labels=labels)
        for total in self._application.statistics.totals():
            own = [total.kind.value, total.repository]
            for state in ("succeeded", "failed", "cancelled"):
                ended.add_metric([*own, state], getattr(total, state))
            took.add_metric(own, count_value=_count(total), sum_value=total.seconds)
            read.add_metric(own, total.bytes_read)
            stored.add_metric(own, total.bytes_stored)
        yield from (ended, took, read, stored)
        unfinished = GaugeMetricFamily(
            "kvm_backup_unfinished_runs", "Runs that have not ended, by state.", labels=["state"]
        )
        for state, number in self._application.history.counts_unfinished(self._application.host).items():
            unfinished.add_metric([state.value], number)
        yield unfinished

    def _schedules(self) -> Iterator[Metric]:
        schedules, problem = self._application.schedule_file.read_or_last_good()
        enabled = [schedule for schedule in schedules if schedule.enabled]
        number = GaugeMetricFamily("kvm_backup_schedules", "Schedules, by whether they are on.", labels=["enabled"])
        number.add_metric(["true"], len(enabled))
        number.add_metric(["false"], len(schedules) - len(enabled))
        yield number
        yield GaugeMetricFamily(
            "kvm_backup_schedules_file_readable", "Whether the schedules' file can be read.", int(problem is None)
        )
        yield GaugeMetricFamily(
            "kvm_backup_schedule_lag_seconds",
            "How long ago the oldest due time was that nothing has been started for.",
            max((self._lag(schedule) for schedule in enabled), default=0.0),
        )

    def _lag(self, schedule: Schedule) -> float:
        return (
            (self._now - schedule.next_run).total_seconds()
            if schedule.is_due(self._now) and schedule.next_run
            else 0.0
        )

    def _repositories(self) -> Iterator[Metric]:
        used, free, size = (
            GaugeMetricFamily(f"kvm_backup_repository_{what}_bytes", text, labels=["repository"])
            for what, text in (
                ("used", "What the restore points of a repository take."),
                ("free", "What is free on the repository's disk."),
                ("size", "How large the repository's disk is."),
            )
        )
        for name, samples in self._application.statistics.space(self._now).items():
            used.add_metric([name], samples[-1].used)
            free.add_metric([name], samples[-1].free)
            size.add_metric([name], samples[-1].total)
        yield from (used, free, size)

    def _shipping(self) -> Iterator[Metric]:
        labels = ["remote"]
        points, stored, since, held, shipped = (
            GaugeMetricFamily(f"kvm_backup_remote_{what}", text, labels=labels)
            for what, text in (
                ("waiting_points", "How many restore points wait to be shipped there."),
                ("waiting_bytes", "What they take."),
                ("waiting_since_timestamp_seconds", "Since when the first of them waits."),
                ("points", "How many restore points it is known to hold."),
                ("last_shipped_timestamp_seconds", "When a restore point last arrived there."),
            )
        )
        failing = GaugeMetricFamily(
            "kvm_backup_remote_failing_runs", "Runs that failed and are tried again.", labels=[*labels, "code"]
        )
        facts, sums = self._application.shipping.facts, self._application.shipping.facts.store.sums()
        known = facts.store.remotes()
        for name, remote in sorted(self._application.shipping.remotes.items()):
            if remote.of is not None:
                waiting = sums.get(name, WaitingSum())
                points.add_metric([name], waiting.points)
                stored.add_metric([name], waiting.bytes)
                if waiting.since is not None:
                    since.add_metric([name], waiting.since.timestamp())
            if name in known:
                held.add_metric([name], known[name].points)
                if (arrived := known[name].shipped_at) is not None:
                    shipped.add_metric([name], arrived.timestamp())
        for trouble in self._application.history.shipping_troubles(self._application.host):
            failing.add_metric([trouble.remote, trouble.error_code], trouble.runs)
        yield from (points, stored, since, held, shipped, failing)

    def _alerts(self) -> Iterator[Metric]:
        alerts = self._application.alerts
        opened = GaugeMetricFamily("kvm_backup_open_alerts", "Alerts that are not over.", labels=["kind", "severity"])
        for (kind, severity), number in sorted(alerts.counts().items()):
            opened.add_metric([kind.value, severity.value], number)
        yield opened
        yield GaugeMetricFamily(
            "kvm_backup_unacknowledged_alerts",
            "Alerts that are not over and that nobody has acknowledged.",
            alerts.count_open_unacknowledged(),
        )


def _moment(name: str, text: str, moment: datetime | None) -> GaugeMetricFamily:
    """Without a sample while there was none."""
    return GaugeMetricFamily(name, text, None if moment is None else moment.timestamp())


def _of_vm(what: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"kvm_backup_vm_{what}", text, labels=["vm"])


def _count(total: RunTotal) -> int:
    return total.succeeded + total.failed + total.cancelled
