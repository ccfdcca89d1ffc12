"""What an alert tells people: made of its kind and facts when it is shown, so that it is in the reader's language."""

from collections.abc import Callable

from kvm_backup.domain.alert import Alert, AlertKind
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.sizes import show_size

ShowSize = Callable[[int], str]
"""Bytes as people read them, in the language that the text will be told in."""


def title(alert: Alert, size: ShowSize = show_size) -> str:
    """What is wrong, in one line without a full stop; a phrase."""
    return _low_space(alert, size) if alert.kind is AlertKind.LOW_SPACE else _TITLES[alert.kind](alert)


def cause(alert: Alert, size: ShowSize = show_size) -> str:
    """What is known of the cause, in one sentence or as the error said it; may be empty."""
    if alert.kind is AlertKind.SHIPPING_LATE and not alert.facts.get("error"):
        return phrase("What is made here is more than the link carries, or it is still catching up.")
    if alert.kind is AlertKind.LOW_SPACE:
        return _low_space_cause(alert, size)
    told = alert.facts.get("error") or alert.facts.get("message")
    return _CAUSES.get(alert.kind) or str(told or "")


def advice(alert: Alert) -> str:
    """What to do, in full sentences; a phrase, or the hint of the error."""
    if alert.kind is AlertKind.DAEMON_NOT_TICKING:
        return _not_ticking_advice(alert)
    if alert.kind is AlertKind.SHIPPING_LATE:
        return _shipping_advice(alert)
    if alert.kind is AlertKind.POINTS_UNSHIPPABLE:
        return _unshippable_advice(alert)
    return str(alert.facts.get("hint") or "") or _ADVICE.get(alert.kind, "")


def kind_name(kind: AlertKind) -> str:
    """What alerts of a kind are called, for filters; a phrase."""
    return _NAMES[kind]


def _run_failed(alert: Alert) -> str:
    if alert.facts.get("times", 1) > 1:
        return phrase("{count} backups of {vm} failed in a row", count=alert.facts["times"], vm=alert.subject.name)
    return phrase("the backup of {vm} failed", vm=alert.subject.name)


def _low_space(alert: Alert, size: ShowSize) -> str:
    free = size(alert.facts["free"])
    if alert.subject.kind == "repository":
        return phrase("the repository {name} has only {free} left", name=alert.subject.name, free=free)
    return phrase("{path} has only {free} left", path=alert.facts["path"], free=free)


def _low_space_cause(alert: Alert, size: ShowSize) -> str:
    return phrase(
        "{free} of {total} are free on the disk of {path}; backups leave {reserve} free and fail where they cannot.",
        free=size(alert.facts["free"]),
        total=size(alert.facts["total"]),
        path=alert.facts["path"],
        reserve=size(alert.facts["reserve"]),
    )


def _shipping_late(alert: Alert) -> str:
    values = {"name": alert.subject.name, "count": alert.facts.get("points", 0)}
    if alert.facts.get("late"):
        return phrase("points have waited for {name} for more than a day: {count}", **values)
    return phrase("points wait to be shipped to {name}: {count}", **values)


def _shipping_advice(alert: Alert) -> str:
    if alert.facts.get("late"):
        return str(alert.facts.get("hint") or "") or phrase(
            "See what waits on the page of repositories; raise 'bandwidth', or ship fewer VMs there."
        )
    return phrase("Backups go on. What waits is shipped by itself once the server answers; nothing needs to be done.")


def _unshippable_advice(alert: Alert) -> str:
    names = list(alert.facts.get("names", ()))
    more = alert.facts.get("vms", 0) - len(names)
    return phrase(
        "The next backup will be a full one: it goes there again, and all that follows it. To have it there sooner, "
        "back these up now: {vms}.",
        vms=", ".join([*names, *([f"… +{more}"] if more > 0 else [])]),
    )


def _not_ticking(alert: Alert) -> str:
    if alert.facts.get("running"):
        return phrase("the service on {host} does not start what is due", host=alert.subject.name)
    return phrase("the service on {host} does not run", host=alert.subject.name)


def _not_ticking_advice(alert: Alert) -> str:
    if alert.facts.get("running"):
        return phrase("See what it says with 'journalctl -u kvm-backup'; restart it when that does not help.")
    return phrase("Start it: 'systemctl start kvm-backup'. What was missed meanwhile is made up for.")


_TITLES: dict[AlertKind, Callable[[Alert], str]] = {
    AlertKind.RUN_FAILED: _run_failed,
    AlertKind.RUN_LATE: lambda alert: phrase("the backup of {vm} is late", vm=alert.subject.name),
    AlertKind.OVERDUE: lambda alert: phrase(
        "the VM {vm} is overdue: its schedules promised a point", vm=alert.subject.name
    ),
    AlertKind.NEVER_BACKED_UP: lambda alert: phrase("the VM {vm} has never been backed up", vm=alert.subject.name),
    AlertKind.DAMAGED_POINT: lambda alert: phrase("the restore point {point} is damaged", point=alert.subject.name),
    AlertKind.REPOSITORY_AWAY: lambda alert: phrase("the repository {name} is away", name=alert.subject.name),
    AlertKind.LIBVIRT_AWAY: lambda alert: phrase("libvirt on {host} does not answer", host=alert.subject.name),
    AlertKind.SCHEDULES_FILE_DAMAGED: lambda _alert: phrase("the file of the schedules cannot be read"),
    AlertKind.SETTINGS_FILE_UNUSABLE: lambda _alert: phrase(
        "the settings file cannot be used: those that were read before hold"
    ),
    AlertKind.SCHEDULE_UNUSABLE: lambda alert: phrase(
        "the schedule {name} cannot be planned", name=alert.subject.name
    ),
    AlertKind.SHIPPING_LATE: _shipping_late,
    AlertKind.SHIPPING_REFUSED: lambda alert: phrase(
        "nothing can be shipped to {name} until somebody mends it", name=alert.subject.name
    ),
    AlertKind.POINTS_UNSHIPPABLE: lambda alert: phrase(
        "points that cannot be shipped to {name}: {count}",
        name=alert.subject.name,
        count=alert.facts.get("points", 0),
    ),
    AlertKind.DAEMON_NOT_TICKING: _not_ticking,
}
_CAUSES: dict[AlertKind, str] = {
    AlertKind.RUN_LATE: phrase("A schedule was due, and there is no restore point yet."),
    AlertKind.OVERDUE: phrase("A schedule was due long ago, and there is still no restore point."),
    AlertKind.NEVER_BACKED_UP: phrase("Its schedule was due, and there is no restore point at all."),
    AlertKind.POINTS_UNSHIPPABLE: phrase("What they build on is neither there nor here with its images."),
}
_ADVICE: dict[AlertKind, str] = {
    AlertKind.RUN_FAILED: phrase("The run's page tells what happened."),
    AlertKind.RUN_LATE: phrase("It may wait in the queue or go on: the VM's page shows it."),
    AlertKind.OVERDUE: phrase("See the VM's last runs, or back it up now."),
    AlertKind.NEVER_BACKED_UP: phrase("See the VM's last runs, or back it up now."),
    AlertKind.DAMAGED_POINT: phrase(
        "Verify the other points of the VM; the next backup starts a new chain by itself when it has to."
    ),
    AlertKind.LOW_SPACE: phrase("Make room there, or keep fewer points: 'kvm-backup prune' applies it."),
}
_NAMES: dict[AlertKind, str] = {
    AlertKind.RUN_FAILED: phrase("failed backup"),
    AlertKind.RUN_LATE: phrase("late backup"),
    AlertKind.OVERDUE: phrase("overdue"),
    AlertKind.NEVER_BACKED_UP: phrase("never backed up"),
    AlertKind.DAMAGED_POINT: phrase("damaged point"),
    AlertKind.LOW_SPACE: phrase("low space"),
    AlertKind.REPOSITORY_AWAY: phrase("repository away"),
    AlertKind.LIBVIRT_AWAY: phrase("libvirt away"),
    AlertKind.SCHEDULES_FILE_DAMAGED: phrase("schedules' file damaged"),
    AlertKind.SETTINGS_FILE_UNUSABLE: phrase("unusable settings file"),
    AlertKind.SCHEDULE_UNUSABLE: phrase("unusable schedule"),
    AlertKind.SHIPPING_LATE: phrase("shipping late"),
    AlertKind.SHIPPING_REFUSED: phrase("shipping refused"),
    AlertKind.POINTS_UNSHIPPABLE: phrase("unshippable points"),
    AlertKind.DAEMON_NOT_TICKING: phrase("service does not tick"),
}
