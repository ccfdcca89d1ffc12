"""Alerts: what a person should look at, and when that is over. Pure; times in UTC, sizes in bytes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kvm_backup.domain.inventory import RunFacts, VmRecord
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.waiting import NEEDS_SOMEBODY, RemoteState

Facts = Mapping[str, Any]
"""What is known of the condition; values are those of JSON."""


class AlertKind(StrEnum):
    """What is wrong; docs/alerts.md tells when each is raised and when it goes."""

    RUN_FAILED = "run-failed"
    RUN_LATE = "run-late"
    OVERDUE = "overdue"
    NEVER_BACKED_UP = "never-backed-up"
    DAMAGED_POINT = "damaged-point"
    LOW_SPACE = "low-space"
    REPOSITORY_AWAY = "repository-away"
    LIBVIRT_AWAY = "libvirt-away"
    SCHEDULES_FILE_DAMAGED = "schedules-file-damaged"
    SETTINGS_FILE_UNUSABLE = "settings-file-unusable"
    SCHEDULE_UNUSABLE = "schedule-unusable"
    SHIPPING_LATE = "shipping-late"
    SHIPPING_REFUSED = "shipping-refused"
    POINTS_UNSHIPPABLE = "points-unshippable"
    DAEMON_NOT_TICKING = "daemon-not-ticking"


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


class SubjectKind(StrEnum):
    """What an alert is about."""

    VM = "vm"
    POINT = "point"
    REPOSITORY = "repository"
    FOLDER = "folder"
    SCHEDULE = "schedule"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alert is about. `uuid` is that of a VM, the id of a schedule; None where the name says all."""

    kind: SubjectKind
    name: str
    uuid: str | None = None

    @property
    def key(self) -> str:
        """What stays the same when the name changes."""
        return self.uuid or self.name


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now."""

    kind: AlertKind
    subject: Subject
    severity: Severity = Severity.WARNING
    facts: Facts = field(default_factory=dict)

    @property
    def identity(self) -> tuple[AlertKind, SubjectKind, str]:
        """At most one alert of it is open."""
        return self.kind, self.subject.kind, self.subject.key


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition as a person meets it: raised, maybe acknowledged, and resolved when it is over."""

    id: str
    kind: AlertKind
    severity: Severity
    subject: Subject
    host: str
    raised: datetime
    last_seen: datetime
    resolved: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    facts: Facts = field(default_factory=dict)

    @property
    def identity(self) -> tuple[AlertKind, SubjectKind, str]:
        return self.kind, self.subject.kind, self.subject.key

    @property
    def open(self) -> bool:
        return self.resolved is None


@dataclass(frozen=True, slots=True)
class Place:
    """A file system that must not fill up: `reserve` bytes of it are what runs leave free."""

    subject: Subject
    path: str
    free: int
    total: int
    reserve: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A restore point that cannot be used as it should, and what was found."""

    point: str
    repository: str
    message: str
    found_by: str
    """`manifest`: it cannot be read; `verify` or `deep verify`: a run checked it."""


@dataclass(frozen=True, slots=True)
class Away:
    """Something that does not answer or cannot be read, and since when that is known."""

    subject: Subject
    message: str
    hint: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that alerts are made of, at one moment."""

    vms: Iterable[VmRecord] = ()
    strangers: Mapping[str, RunFacts] = field(default_factory=dict)
    """Backups of VMs that schedules name and that this host does not have, by that name."""
    places: Sequence[Place] = ()
    damages: Sequence[Damage] = ()
    libvirt: Away | None = None
    repositories_away: Sequence[Away] = ()
    schedules_file: Away | None = None
    settings_file: Away | None = None
    remotes: Sequence[RemoteState] = ()
    unusable_schedules: Sequence[Away] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be written so that the open alerts are those of the conditions."""

    new: Sequence[Condition]
    changed: Sequence[tuple[Alert, Condition]]
    over: Sequence[Alert]


_FAILURES = 2
"""How many attempts to ship must have failed for somebody to be told: one may be cut off by chance."""
_SPACE_SHARE = 0.05
_SPACE_ENOUGH = 1.2
"""How much more than the least must be free for the alert to go, so that it does not come and go."""


def conditions(now: Situation, open_alerts: Iterable[Alert] = ()) -> Iterator[Condition]:
    """What is wrong, each once. The open alerts matter where one stays a little longer than it would be raised."""
    for vm in now.vms:
        yield from _of_vm(vm)
    for name, runs in now.strangers.items():
        yield from _failed(Subject(SubjectKind.VM, name), runs)
    open_places = {alert.subject.key for alert in open_alerts if alert.kind is AlertKind.LOW_SPACE}
    for place in now.places:
        yield from _of_place(place, was_low=place.subject.key in open_places)
    for damage in now.damages:
        subject = Subject(SubjectKind.POINT, damage.point, f"{damage.repository}:{damage.point}")
        facts = {"repository": damage.repository, "message": damage.message, "found_by": damage.found_by}
        yield Condition(AlertKind.DAMAGED_POINT, subject, Severity.CRITICAL, facts)
    if now.libvirt is not None:
        yield _away(AlertKind.LIBVIRT_AWAY, now.libvirt, Severity.CRITICAL)
    if now.schedules_file is not None:
        yield _away(AlertKind.SCHEDULES_FILE_DAMAGED, now.schedules_file, Severity.CRITICAL)
    if now.settings_file is not None:
        yield _away(AlertKind.SETTINGS_FILE_UNUSABLE, now.settings_file, Severity.WARNING)
    for away in now.repositories_away:
        yield _away(AlertKind.REPOSITORY_AWAY, away, Severity.CRITICAL)
    for remote in now.remotes:
        yield from _of_remote(remote)
    for away in now.unusable_schedules:
        yield _away(AlertKind.SCHEDULE_UNUSABLE, away, Severity.WARNING)


def compare(open_alerts: Iterable[Alert], found: Iterable[Condition]) -> Changes:
    """What to raise, to refresh and to resolve."""
    gone = {alert.identity: alert for alert in open_alerts}
    new: list[Condition] = []
    changed: list[tuple[Alert, Condition]] = []
    for condition in found:
        alert = gone.pop(condition.identity, None)
        if alert is None:
            new.append(condition)
        elif (alert.facts, alert.severity, alert.subject) != (condition.facts, condition.severity, condition.subject):
            changed.append((alert, condition))
    return Changes(new, changed, list(gone.values()))


def _of_vm(vm: VmRecord) -> Iterator[Condition]:
    subject = Subject(SubjectKind.VM, vm.name, vm.uuid)
    yield from _failed(subject, vm.runs)
    if vm.gone:
        return
    facts = {"missed": _iso(vm.missed), "last_point": vm.points.last_point, "made": _iso(vm.points.last_point_at)}
    if vm.protection is Protection.OVERDUE:
        yield Condition(AlertKind.OVERDUE, subject, Severity.CRITICAL, facts)
    elif vm.protection is Protection.NEVER:
        yield Condition(AlertKind.NEVER_BACKED_UP, subject, Severity.CRITICAL, {"missed": facts["missed"]})
    elif vm.protection is Protection.LATE:
        yield Condition(AlertKind.RUN_LATE, subject, Severity.WARNING, facts)


def _of_remote(remote: RemoteState) -> Iterator[Condition]:
    """A link that is down for a while is no alarm: points wait and follow by themselves. A key that is refused is.

    Of points that cannot be shipped nobody needs to be told once newer ones do without them.
    """
    if remote.unshippable.full_vms:
        stuck = remote.unshippable
        yield Condition(
            AlertKind.POINTS_UNSHIPPABLE,
            Subject(SubjectKind.REPOSITORY, remote.name),
            Severity.WARNING,
            {"vms": stuck.full_vms, "points": stuck.full_points, "names": list(stuck.names)},
        )
    trouble, waiting = remote.trouble, remote.waiting
    refused = trouble is not None and trouble.error_code in NEEDS_SOMEBODY
    failing = trouble is not None and trouble.failures >= _FAILURES
    if not (refused or failing or remote.late):
        return
    facts = {
        "vms": waiting.vms,
        "points": waiting.points,
        "since": _iso(waiting.since),
        "late": remote.late,
        "error": trouble.error if trouble else None,
        "error_code": trouble.error_code if trouble else None,
        "hint": trouble.hint if trouble else None,
    }
    subject = Subject(SubjectKind.REPOSITORY, remote.name)
    if refused:
        yield Condition(AlertKind.SHIPPING_REFUSED, subject, Severity.CRITICAL, facts)
    else:
        severity = Severity.CRITICAL if remote.late and trouble else Severity.WARNING
        yield Condition(AlertKind.SHIPPING_LATE, subject, severity, facts)


def _failed(subject: Subject, runs: RunFacts) -> Iterator[Condition]:
    if runs.failed_run is None:
        return
    facts = {
        "run": runs.failed_run,
        "at": _iso(runs.failed_at),
        "times": runs.failed_runs,
        "error": runs.error,
        "error_code": runs.error_code,
        "hint": runs.hint,
    }
    yield Condition(AlertKind.RUN_FAILED, subject, Severity.CRITICAL, facts)


def _of_place(place: Place, *, was_low: bool) -> Iterator[Condition]:
    least = max(2 * place.reserve, int(place.total * _SPACE_SHARE))
    if place.free >= (least * _SPACE_ENOUGH if was_low else least):
        return
    severity = Severity.CRITICAL if place.free < place.reserve else Severity.WARNING
    facts = {"path": place.path, "free": _rounded(place.free), "total": place.total, "reserve": place.reserve}
    yield Condition(AlertKind.LOW_SPACE, place.subject, severity, facts)


def _away(kind: AlertKind, away: Away, severity: Severity) -> Condition:
    facts = {"message": away.message, "hint": away.hint} | ({"path": away.path} if away.path else {})
    return Condition(kind, away.subject, severity, facts)


def _rounded(size: int) -> int:
    """To about a hundredth, so that an alert is not written anew for each byte."""
    step = 1 << max(size.bit_length() - 7, 0)
    return size // step * step


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


_TICKS_LATE = timedelta(minutes=3)
"""The service ticks each minute; a tick may take a while where there are thousands of schedules."""


def not_ticking(
    host: str, *, running: bool, started: datetime | None, ticked: datetime | None, now: datetime
) -> Condition | None:
    """Whether the service does not do its work: it does not run, or its last tick was more than three minutes ago."""
    last = max((moment for moment in (started, ticked) if moment is not None), default=None)
    if running and last is not None and now - last <= _TICKS_LATE:
        return None
    facts = {"running": running, "ticked": _iso(ticked)}
    return Condition(AlertKind.DAEMON_NOT_TICKING, Subject(SubjectKind.HOST, host), Severity.CRITICAL, facts)


def damage_of(alert: Alert) -> Damage | None:
    """The damage that an alert tells of."""
    if alert.kind is not AlertKind.DAMAGED_POINT:
        return None
    return Damage(alert.subject.name, alert.facts["repository"], alert.facts["message"], alert.facts["found_by"])
