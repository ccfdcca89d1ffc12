"""What is said about schedules on several pages."""

import shlex
from collections.abc import Container, Sequence
from dataclasses import fields
from datetime import datetime
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.retention import RetentionRule, RetentionWish
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import ScheduleType
from kvm_backup.services.schedules import words
from kvm_backup.services.schedules.state import ScheduleState
from kvm_backup.web import formats
from kvm_backup.web.context import places
from kvm_backup.web.language import _, in_words, ngettext

RETENTION_KINDS = tuple(kind.name for kind in fields(RetentionWish))


def sentence(text: str) -> str:
    """With a capital letter at its beginning."""
    return f"{text[:1].upper()}{text[1:]}"


def when(schedule: Schedule) -> str:
    """Such as `Every day at 02:00`."""
    return sentence(in_words(words.when_in_words(schedule)))


def refusal(error: InvalidScheduleError) -> str:
    """What came in a field and what is expected there, for the place beside it."""
    expected = in_words(error.expected)
    came = in_words(error.came) if isinstance(error.came, str) else str(error.came)
    if not came.strip():
        return _("Expected: {expected}.", expected=expected)
    shown = came if came.isprintable() else repr(came)[1:-1]
    return _("“{came}” cannot be used. Expected: {expected}.", came=shown, expected=expected)


def type_words() -> dict[ScheduleType, str]:
    """How often, as the form and the filter call it."""
    return {
        ScheduleType.DAILY: _("Every day"),
        ScheduleType.WEEKLY: _("Every week"),
        ScheduleType.MONTHLY: _("Every month"),
        ScheduleType.HOURLY: _("Every hour"),
        ScheduleType.CRON: _("Cron"),
    }


def state_words() -> dict[ScheduleState, str]:
    """The states, as the filter calls them."""
    return {
        ScheduleState.SCHEDULED: _("Scheduled"),
        ScheduleState.RUNNING: _("Running"),
        ScheduleState.FAILED: _("Failed"),
        ScheduleState.LATE: _("Late"),
        ScheduleState.DISABLED: _("Disabled"),
        ScheduleState.INVALID: _("Cannot be used"),
    }


def mode_choices() -> list[tuple[str, str, str]]:
    """The modes with what they do, the usual one first."""
    return [
        (Mode.INCREMENTAL.value, _("Incremental"), _("What changed since the last point. The usual choice.")),
        (Mode.FULL.value, _("Full"), _("Everything, each time. Takes longer and more space.")),
        (Mode.SNAPSHOT.value, _("Snapshot"), _("Stays on this host: quick to go back to, but no backup.")),
    ]


def weekday_choices() -> list[tuple[str, str]]:
    """The days as a schedule's time has them, from Monday on."""
    return [(day.lower(), sentence(in_words(day))) for day in words.WEEKDAYS]


def on_clock(moment: datetime, zone: str) -> str:
    """A day and time on the clocks of the zone, such as `Sunday 2026-11-22 02:00`."""
    clocks = ZoneInfo(zone)
    day = in_words(words.WEEKDAYS[moment.astimezone(clocks).weekday()])
    return f"{sentence(day)} {formats.clock_time(moment, clocks)}"


def command(words_of_it: Sequence[str]) -> str:
    """A script as it is typed."""
    return shlex.join(words_of_it)


def retention_labels() -> dict[str, str]:
    """What each number of a schedule's retention counts."""
    return {
        "last": _("Newest points"),
        "daily": _("Days"),
        "weekly": _("Weeks"),
        "monthly": _("Months"),
        "yearly": _("Years"),
    }


def kept(numbers: RetentionWish | RetentionRule) -> str:
    """Such as `the newest 24 points, 30 days`; empty for a wish that asks for nothing."""
    told = {
        "last": lambda count: ngettext("the newest point", "the newest {count} points", count),
        "daily": lambda count: ngettext("{count} day", "{count} days", count),
        "weekly": lambda count: ngettext("{count} week", "{count} weeks", count),
        "monthly": lambda count: ngettext("{count} month", "{count} months", count),
        "yearly": lambda count: ngettext("{count} year", "{count} years", count),
    }
    held = {kind: getattr(numbers, kind) for kind in RETENTION_KINDS}
    shown_zeros = isinstance(numbers, RetentionWish)
    return ", ".join(
        told[kind](count) for kind, count in held.items() if count or (shown_zeros and count is not None)
    )


def shipped(ship_to: Sequence[str] | None, remotes: Container[str]) -> str:
    """Where a schedule's points are shipped; `remotes` are those that the settings name."""
    if ship_to is None:
        return _("every server that copies its repository")
    return places(ship_to, remotes) or _("nowhere")
