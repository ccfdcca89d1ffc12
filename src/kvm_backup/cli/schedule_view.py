"""Schedules as text for people, and as JSON."""

import shlex
from collections.abc import Container, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from kvm_backup.cli.language import _, ngettext, told
from kvm_backup.cli.output import cell, console, print_json, printable, table
from kvm_backup.cli.words import mode_word
from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.shipping import marked_places
from kvm_backup.services.schedules import words
from kvm_backup.services.schedules.commands import SHORT_ID, short_ids
from kvm_backup.services.schedules.format import KEYS, entry_of, options_of
from kvm_backup.services.schedules.state import ScheduleState, state_of

_ROWS_OF_A_TABLE = 500
"""More rows than this are written without Rich, which takes a millisecond for each."""


def summary(schedule: Schedule, zone: ZoneInfo, short_id: str | None = None) -> dict[str, Any]:
    """One object of `--json`: the fields of the file, times in UTC, and what is derived from them."""
    entry = entry_of(schedule)
    options = {key: value or (value if key == "ship_to" else None) for key, value in options_of(schedule).items()}
    if options["retention"]:
        options["retention"] = asdict(schedule.retention)
    return (
        {key: entry[key] for key in KEYS}
        | options
        | {
            "short_id": short_id or schedule.id[:SHORT_ID],
            "timezone": zone.key,
            "problem": _problem(schedule),
        }
    )


def show_list(schedules: Sequence[Schedule], zone: ZoneInfo, now: datetime, *, json: bool, empty: str) -> None:
    """Print schedules as a table, or `empty` where there are none; or as JSON."""
    short = short_ids(tuple(schedules))
    if json:
        print_json([summary(schedule, zone, short[schedule.id]) for schedule in schedules])
        return
    if not schedules:
        console().print(empty)
    else:
        rows = [_row(schedule, short[schedule.id], zone, now) for schedule in schedules]
        titles = [
            (_("ID"), "left"),
            (_("NAME"), "fold"),
            (_("VMS"), "fold"),
            (_("WHEN"), "left"),
            (_("MODE"), "left"),
            (_("STATE"), "left"),
            (_("NEXT RUN"), "left"),
            (_("LAST RUN"), "left"),
        ]
        if len(rows) > _ROWS_OF_A_TABLE:
            _print_plainly([[title for title, _justify in titles], *rows])
        else:
            console().print(
                table(titles, [_coloured(row, schedule) for row, schedule in zip(rows, schedules, strict=True)])
            )
    console().print(f"[dim]{_('Times are in the zone {zone}.').format(zone=cell(zone.key))}[/dim]")


def show_one(
    schedule: Schedule, zone: ZoneInfo, now: datetime, upcoming: Sequence[datetime], remotes: Container[str]
) -> None:
    """Print all that is known of a schedule; `remotes` are those that the settings name."""
    lines = [
        (_("id"), schedule.id),
        (_("name"), schedule.name),
        (_("VMs"), ", ".join(schedule.vm_names)),
        (_("when"), when_in_words(schedule)),
        (_("mode"), mode_word(schedule.backup_mode)),
        (_("repository"), schedule.repository or ""),
        (_("shipped to"), shipped_in_words(schedule, remotes)),
        (_("keeps"), kept_in_words(schedule.retention)),
        (_("script before"), shlex.join(schedule.pre_script)),
        (_("script after"), shlex.join(schedule.post_script)),
        (_("state"), state_in_words(schedule)),
        (_("why"), _why(schedule)),
        (_("next run"), moment(schedule.next_run, zone, now)),
        (_("then"), "\n".join(moment(time, zone, now) for time in upcoming[1:]) if schedule.enabled else "-"),
        (_("last run"), moment(schedule.last_run, zone, now)),
        (_("made"), moment(schedule.created_at, zone, now)),
        (_("zone"), zone.key),
    ]
    rows = [[f"[bold]{label}[/bold]", "\n".join(map(cell, text.split("\n")))] for label, text in lines if text]
    shown = table([("", "left"), ("", "fold")], rows)
    shown.show_header = False
    console().print(shown)


def show_done(sentence: str, schedule: Schedule, zone: ZoneInfo, now: datetime) -> None:
    """Print what was done to a schedule, and what it is now."""
    out = console()
    out.print(f"[green]✓[/green] {sentence}")
    what = _("{when}, {mode}: {vms}").format(
        when=when_in_words(schedule), mode=mode_word(schedule.backup_mode), vms=", ".join(schedule.vm_names)
    )
    out.print(f"  {cell(what)}")
    planned = moment(schedule.next_run, zone, now) if schedule.enabled else _("disabled")
    out.print(f"  {cell(_('next run: {time}').format(time=planned))}")


def when_in_words(schedule: Schedule) -> str:
    """Such as `every day at 02:00`."""
    return told(words.when_in_words(schedule))


def kept_in_words(wish: RetentionWish) -> str:
    """Such as `the newest 24, 30 days`; empty when the repository's rule says all."""
    kinds = [
        (wish.last, ngettext("the newest point", "the newest {count} points", wish.last or 0)),
        (wish.daily, ngettext("{count} day", "{count} days", wish.daily or 0)),
        (wish.weekly, ngettext("{count} week", "{count} weeks", wish.weekly or 0)),
        (wish.monthly, ngettext("{count} month", "{count} months", wish.monthly or 0)),
        (wish.yearly, ngettext("{count} year", "{count} years", wish.yearly or 0)),
    ]
    return ", ".join(text.format(count=count) for count, text in kinds if count is not None)


def shipped_in_words(schedule: Schedule, remotes: Container[str]) -> str:
    """The remotes by name; empty when it is every one of its repository."""
    if schedule.ship_to is None:
        return ""
    return ", ".join(told(name) for name in marked_places(schedule.ship_to, remotes)) or _("nowhere")


def state_in_words(schedule: Schedule) -> str:
    """What the last run came to, or that there will be none."""
    return {
        ScheduleState.INVALID: _("cannot be used"),
        ScheduleState.DISABLED: _("disabled"),
        ScheduleState.FAILED: _("failed"),
        ScheduleState.LATE: _("late"),
        ScheduleState.RUNNING: _("running"),
        ScheduleState.SCHEDULED: _("scheduled"),
    }[state_of(schedule)]


def _why(schedule: Schedule) -> str:
    if state_of(schedule) is not ScheduleState.FAILED:
        return ""
    return f"kvm-backup run list --state failed --schedule {schedule.id[:SHORT_ID]}"


def weekday(number: int) -> str:
    """0 for Monday."""
    return told(words.WEEKDAYS[number])


def moment(time: datetime | None, zone: ZoneInfo, now: datetime) -> str:
    """A time on the clocks of the zone, and how far from now it is."""
    if time is None:
        return "-"
    return f"{time.astimezone(zone):%Y-%m-%d %H:%M %Z} ({_distance((time - now).total_seconds())})"


def _distance(seconds: float) -> str:
    size, future = abs(seconds), seconds >= 0
    if size < 60:
        return _("now")
    if size < 3600:
        amount = ngettext("{count} minute", "{count} minutes", int(size // 60)).format(count=int(size // 60))
    elif size < 2 * 86400:
        amount = ngettext("{count} hour", "{count} hours", int(size // 3600)).format(count=int(size // 3600))
    else:
        amount = ngettext("{count} day", "{count} days", int(size // 86400)).format(count=int(size // 86400))
    return (_("in {amount}") if future else _("{amount} ago")).format(amount=amount)


def _problem(schedule: Schedule) -> str | None:
    try:
        schedule.timing  # noqa: B018 - parsing it is the check
    except InvalidScheduleError as error:
        return error.message
    return None


def _row(schedule: Schedule, short_id: str, zone: ZoneInfo, now: datetime) -> list[str]:
    return [
        short_id,
        schedule.name,
        ", ".join(schedule.vm_names),
        when_in_words(schedule),
        mode_word(schedule.backup_mode),
        state_in_words(schedule),
        moment(schedule.next_run, zone, now) if schedule.enabled else "-",
        moment(schedule.last_run, zone, now),
    ]


def _coloured(row: list[str], schedule: Schedule) -> list[str]:
    cells = [cell(text) for text in row]
    if _problem(schedule) is not None or schedule.status == "failed":
        cells[5] = f"[red]{cells[5]}[/red]"
    elif not schedule.enabled:
        cells = [f"[dim]{text}[/dim]" for text in cells]
    elif schedule.status != "scheduled":
        cells[5] = f"[yellow]{cells[5]}[/yellow]"
    return cells


def _print_plainly(rows: list[list[str]]) -> None:
    shown = [[printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown)
    console().file.write("\n".join(lines) + "\n")
