"""Sizes, durations, rates and times as people of the page's language write them."""

from datetime import UTC, date, datetime
from math import ceil, floor
from zoneinfo import ZoneInfo

from kvm_backup.web.language import NARROW_SPACE, _, current_language, grouped, in_words, ngettext

NO_BREAK = "\N{NO-BREAK SPACE}"
NOTHING = "–"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def size(value: float | None) -> str:
    """Bytes: 1610612736 as "1.5 GiB", in French "1,5 Gio"."""
    if value is None:
        return NOTHING
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(abs(amount)) < 1024 or unit == "TiB":
            break
        amount /= 1024
    whole = unit == "B" or abs(amount) >= 100 or amount == int(amount)
    shown = unit.replace("B", "o") if current_language() == "fr" else unit
    return f"{grouped(amount, 0 if whole else 1)}{NO_BREAK}{shown}"


def rate(value: float | None) -> str:
    """Bytes a second."""
    return NOTHING if value is None else f"{size(value)}/s"


def percent(done: float, total: float) -> str:
    """How much of it is done, never 100 before the end."""
    share = 0 if total <= 0 else min(int(100 * done / total), 99 if done < total else 100)
    return f"{share}{NARROW_SPACE}%" if current_language() == "fr" else f"{share}%"


def duration(seconds: float | None) -> str:
    """The two largest units: "2 h 05 min", "3 d 4 h", "12 s"."""
    if seconds is None:
        return NOTHING
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}{NO_BREAK}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}{NO_BREAK}min{NO_BREAK}{whole % _MINUTE:02}{NO_BREAK}s"
    if whole < _DAY:
        return f"{whole // _HOUR}{NO_BREAK}h{NO_BREAK}{whole % _HOUR // _MINUTE:02}{NO_BREAK}min"
    day = "j" if current_language() == "fr" else "d"
    return f"{grouped(whole // _DAY)}{NO_BREAK}{day}{NO_BREAK}{whole % _DAY // _HOUR}{NO_BREAK}h"


def distance(moment: datetime | None, now: datetime) -> str:
    """How far away a time is: "in 3 h", "il y a 5 min", "now". What is to come is never told too early."""
    if moment is None:
        return NOTHING
    seconds = (moment - now).total_seconds()
    away = abs(seconds)
    if away < _MINUTE:
        tens = ceil(seconds / 10) * 10 if seconds > 0 else floor(away / 10) * 10
        if not tens:
            return _("now")
        amount = f"{tens}{NO_BREAK}s"
    elif away < _HOUR:
        amount = f"{int(away // _MINUTE)}{NO_BREAK}min"
    elif away < 2 * _DAY:
        amount = f"{int(away // _HOUR)}{NO_BREAK}h"
    else:
        amount = ngettext("{count} day", "{count} days", int(away // _DAY))
    return _("in {amount}", amount=amount) if seconds > 0 else _("{amount} ago", amount=amount)


def clock_time(moment: datetime | None, zone: ZoneInfo) -> str:
    """A time on the clocks of the zone: "2026-11-22 02:00", in French "22/11/2026 02:00"."""
    if moment is None:
        return NOTHING
    pattern = "%d/%m/%Y %H:%M" if current_language() == "fr" else "%Y-%m-%d %H:%M"
    return moment.astimezone(zone).strftime(pattern)


def clock_seconds(moment: datetime, zone: ZoneInfo) -> str:
    """The same to the second, for lines of a log."""
    return f"{clock_time(moment, zone)}:{moment.astimezone(zone):%S}"


def clock_title(moment: datetime, zone: ZoneInfo) -> str:
    """The same to the second and with its zone, for who points at it."""
    return f"{clock_seconds(moment, zone)} {moment.astimezone(zone):%Z} ({zone.key})"


def machine_time(moment: datetime) -> str:
    """ISO 8601 in UTC, for the attribute `datetime` of `<time>`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def on_day(moment: datetime, zone: ZoneInfo) -> str:
    """The day alone: "22 Nov", in French "22/11"."""
    return short_day(moment.astimezone(zone).date())


def short_day(day: date) -> str:
    """A day of the calendar: "22 Nov", in French "22/11"."""
    return day.strftime("%d/%m" if current_language() == "fr" else "%d %b")


def sentence(text: str) -> str:
    """A message of an error or alert, which begins small and has no full stop, as a sentence of its own."""
    told = in_words(text)
    begins_with_address = "://" in told.partition(" ")[0]
    return (told if begins_with_address else f"{told[:1].upper()}{told[1:]}") + (
        "" if told.endswith((".", "!", "?", "…")) or not told else "."
    )
