"""The text of scheduled_backups.json: a list of objects, as the first version wrote it. No I/O here."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import SchedulesFileError
from kvm_backup.domain.phrase import Phrase, listed, phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule, ScheduleStatus, is_one_line
from kvm_backup.domain.timing import instant

BYTES_MAX = 8 * 1024 * 1024
KEYS = (
    "id",
    "name",
    "vm_names",
    "schedule_type",
    "schedule_time",
    "backup_mode",
    "enabled",
    "last_run",
    "next_run",
    "status",
    "created_at",
)
OPTIONAL_KEYS = ("repository", "pre_script", "post_script", "retention", "ship_to")
"""Written only where a schedule says something there, so that a file of the first version stays as it is."""
RETENTION_MAX = 10_000
_PROBLEMS_SHOWN = 3
_NESTING_MAX = 50
"""Python's own limit depends on who calls: what one part reads another could not write."""
_FIRST_YEAR, _LAST_YEAR = 1900, 9000
"""Times at the ends of Python's calendar have no local time in some zones."""
_RETENTION_KINDS = tuple(kind.name for kind in fields(RetentionWish))
_NEEDED = ("id", "name", "vm_names", "schedule_type", "schedule_time")
_MODES = ", ".join(Mode)


class _BadEntryError(Exception):
    """What is wrong with one object; `_damaged` adds where it is."""


class BadSchedulesError(SchedulesFileError):
    """Some schedules of the file cannot be used. `entries` are all of them in the file's order: in place of one that
    cannot be used its id, None where that cannot be told.
    """

    def __init__(self, message: str, entries: Sequence[Schedule | str | None]) -> None:
        super().__init__(
            message,
            hint=phrase(
                "The service goes on with the others. The file was left as it is, and is not changed until it is "
                "corrected with an editor."
            ),
        )
        self.entries = tuple(entries)


def parse(content: bytes, path: str, zone: ZoneInfo) -> tuple[Schedule, ...]:
    """The schedules in a file's content. Times without an offset, as the first version wrote them, are of `zone`.

    Raises SchedulesFileError naming `path`, the line and the column; BadSchedulesError where only some of them cannot
    be used.
    """
    if len(content) > BYTES_MAX:
        raise _damaged(path, phrase("is larger than {bytes_max} bytes", bytes_max=BYTES_MAX))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise _damaged(path, phrase("is not UTF-8"), (line, column)) from error
    entries = _load(text, path)
    if not isinstance(entries, list):
        raise _damaged(
            path, phrase("holds {kind} where a list of schedules is expected", kind=_kind(entries)), (1, 1)
        )
    found: list[Schedule | str | None] = []
    seen: set[str] = set()
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            schedule = _schedule(entry, zone)
            if schedule.id in seen:
                raise _BadEntryError(phrase("another schedule has the id {id!r} too", id=schedule.id))
        except _BadEntryError as error:
            if not problems:
                line, column = _place_of_entry(text, number)
                problems.append(_at(path, line, column, _problem_of(entry, number, error.args[0])))
            else:
                problems.append(_problem_of(entry, number, error.args[0]))
            found.append(_id_of(entry))
            continue
        seen.add(schedule.id)
        found.append(schedule)
    if problems:
        shown = problems[:_PROBLEMS_SHOWN]
        raise BadSchedulesError(listed("; ", *shown) if len(shown) > 1 else shown[0], found)
    return tuple(one for one in found if isinstance(one, Schedule))


def _problem_of(entry: Any, number: int, problem: str) -> str:
    """Told with the schedule's name, where it has one that can be shown."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if isinstance(name, str) and name and is_one_line(name):
        return phrase("schedule {number}, {name!r}: {problem}", number=number + 1, name=name[:100], problem=problem)
    return phrase("schedule {number}: {problem}", number=number + 1, problem=problem)


def _id_of(entry: Any) -> str | None:
    found = entry.get("id") if isinstance(entry, dict) else None
    return found if isinstance(found, str) and found else None


def render(schedules: Iterable[Schedule], path: str) -> bytes:
    """The content of a file with these schedules. Raises SchedulesFileError when it would be too large to be read."""
    content = _render(schedules, ascii_only=False)
    try:
        encoded = content.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, in a key that we do not know; JSON can only escape it
        encoded = _render(schedules, ascii_only=True).encode()
    if len(encoded) > BYTES_MAX:
        raise SchedulesFileError(
            phrase("{path} would be larger than {bytes_max} bytes", path=path, bytes_max=BYTES_MAX),
            hint=phrase("Remove schedules that are not needed any more."),
        )
    return encoded


def _render(schedules: Iterable[Schedule], *, ascii_only: bool) -> str:
    # Laid out by hand: json.dumps with an indent is written in Python and ten times slower.
    dumps = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False).encode
    entries = [
        "  {\n"
        + ",\n".join(f"    {dumps(key)}: {dumps(value)}" for key, value in entry_of(schedule).items())
        + "\n  }"
        for schedule in schedules
    ]
    return "[\n" + ",\n".join(entries) + "\n]\n" if entries else "[]\n"


def entry_of(schedule: Schedule) -> dict[str, Any]:
    """The object of one schedule, as the file and `--json` have it."""
    return {
        "id": schedule.id,
        "name": schedule.name,
        "vm_names": list(schedule.vm_names),
        "schedule_type": schedule.schedule_type,
        "schedule_time": schedule.schedule_time,
        "backup_mode": schedule.backup_mode.value,
        "enabled": schedule.enabled,
        "last_run": _iso(schedule.last_run),
        "next_run": _iso(schedule.next_run),
        "status": schedule.status.value,
        "created_at": _iso(schedule.created_at),
        **{key: value for key, value in options_of(schedule).items() if value or (key, value) == ("ship_to", [])},
        **schedule.extra,
    }


def options_of(schedule: Schedule) -> dict[str, Any]:
    """The values of the keys that a schedule need not have; None, or empty, where it has none. An empty list of
    remotes says something, though: that its points go nowhere.
    """
    return {
        "repository": schedule.repository,
        "pre_script": list(schedule.pre_script),
        "post_script": list(schedule.post_script),
        "retention": {
            kind: asked for kind in _RETENTION_KINDS if (asked := getattr(schedule.retention, kind)) is not None
        },
        "ship_to": None if schedule.ship_to is None else list(schedule.ship_to),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _load(text: str, path: str) -> Any:
    if not text.strip():
        raise _damaged(path, phrase("is empty"), (1, 1))
    try:
        loaded = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite_float, object_pairs_hook=_object_without_doubles
        )
    except json.JSONDecodeError as error:
        raise _damaged(
            path,
            phrase("is not JSON: {problem}", problem=_first_lower(error.msg)),
            (error.lineno, error.colno),
        ) from error
    except RecursionError as error:
        raise _damaged(path, phrase("is nested too deeply")) from error
    except ValueError as error:  # from the hooks below, or a number of thousands of digits
        problem = (
            error.args[0]
            if isinstance(error, _OffenceError)
            else phrase("a number of thousands of digits; a small whole number is expected")
        )
        raise _damaged(path, problem, _place_of_offender(text, error)) from error
    if _is_deep(loaded):
        raise _damaged(path, phrase("is nested too deeply"))
    return loaded


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_NESTING_MAX):
        inner = (held.values() if isinstance(held, dict) else held for held in level)
        level = [one for ones in inner for one in ones if isinstance(one, dict | list)]
    return bool(level)


class _OffenceError(ValueError):
    """What JSON allows, or Python's reader does, and we do not; `pattern` finds it in the text."""

    def __init__(self, problem: str, pattern: str) -> None:
        super().__init__(problem)
        self.pattern = pattern


def _no_constant(word: str) -> float:
    raise _OffenceError(phrase("{word} is no JSON", word=word), re.escape(word))


def _finite_float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise _OffenceError(phrase("the number {word} is too large", word=word[:20]), re.escape(word))
    return number


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise _OffenceError(
            phrase("the key {double!r} stands twice in one object", double=double), re.escape(json.dumps(double))
        )
    return made


def _place_of_offender(text: str, error: ValueError) -> tuple[int, int]:
    if isinstance(error, _OffenceError):
        strings = r'"(?:[^"\\]|\\.)*"'
        wanted = error.pattern if error.pattern.startswith('"') else rf"{strings}|({error.pattern})"
        for match in re.finditer(wanted, text):
            if match.re.groups == 0 or match[1] is not None:
                return _place(text, match.start())
    number = re.search(r"\d{4000}", text)
    return _place(text, number.start() if number else 0)


def _place_of_entry(text: str, number: int) -> tuple[int, int]:
    """Line and column of the nth object of a text that is a JSON list."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    for _ in range(number):
        position = _skip(text, position)
        position = decoder.raw_decode(text, position)[1]
        position = text.index(",", position) + 1
    return _place(text, _skip(text, position))


def _skip(text: str, position: int) -> int:
    while text[position].isspace():
        position += 1
    return position


def _place(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _schedule(entry: Any, zone: ZoneInfo) -> Schedule:
    if not isinstance(entry, dict):
        raise _BadEntryError(phrase("{kind} where an object is expected", kind=_kind(entry)))
    for key in _NEEDED:
        if key not in entry:
            raise _BadEntryError(phrase("the key {key!r} is missing", key=key))
    return Schedule(
        id=_text(entry, "id"),
        name=_text(entry, "name"),
        vm_names=_names(entry["vm_names"]),
        schedule_type=_text(entry, "schedule_type"),
        schedule_time=_text(entry, "schedule_time"),
        backup_mode=_mode(entry.get("backup_mode", Mode.INCREMENTAL.value)),
        enabled=_flag(entry.get("enabled", True)),
        last_run=_moment(entry, "last_run", zone),
        next_run=_moment(entry, "next_run", zone),
        status=_status(entry.get("status")),
        created_at=_moment(entry, "created_at", zone),
        repository=None if entry.get("repository") is None else _text(entry, "repository"),
        pre_script=_words(entry, "pre_script"),
        post_script=_words(entry, "post_script"),
        retention=_wish(entry.get("retention")),
        ship_to=_remotes(entry.get("ship_to")),
        extra={key: value for key, value in entry.items() if key not in KEYS and key not in OPTIONAL_KEYS},
    )


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value:
        raise _BadEntryError(phrase("{key}: {kind} where a text is expected", key=key, kind=_kind(value)))
    if not is_one_line(value):
        raise _BadEntryError(phrase("{key}: {value!r} holds control characters", key=key, value=value[:100]))
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and is_one_line(name) for name in value):
        raise _BadEntryError(phrase("vm_names: {kind} where a list of names is expected", kind=_kind(value)))
    return tuple(value)


def _words(entry: dict[str, Any], key: str) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) and is_one_line(word) for word in value):
        raise _BadEntryError(
            phrase(
                '{key}: {kind} where a list of plain words such as ["/usr/local/bin/before", "web"] is expected',
                key=key,
                kind=_kind(value),
            )
        )
    if value and not value[0]:
        raise _BadEntryError(phrase("{key}: an empty text where a program is expected", key=key))
    return tuple(value)


def _remotes(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) and name and is_one_line(name) for name in value):
        raise _BadEntryError(
            phrase("ship_to: {kind} where a list of repositories' names is expected", kind=_kind(value))
        )
    return tuple(value)


def _wish(value: Any) -> RetentionWish:
    """A key that is not understood is refused: a number that is passed over could remove points."""
    if value is None:
        return RetentionWish()
    if not isinstance(value, dict):
        raise _BadEntryError(phrase("retention: {kind} where an object is expected", kind=_kind(value)))
    for key, number in value.items():
        if key not in _RETENTION_KINDS:
            raise _BadEntryError(
                phrase(
                    "retention: {key!r} where one of {retention_kinds} is expected",
                    key=key[:100],
                    retention_kinds=", ".join(_RETENTION_KINDS),
                )
            )
        if number is None:
            continue
        least = 1 if key == "last" else 0
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= RETENTION_MAX:
            raise _BadEntryError(
                phrase(
                    "retention: {key}: {kind} where a number from {least} to {retention_max} is expected",
                    key=key,
                    kind=_kind(number),
                    least=least,
                    retention_max=RETENTION_MAX,
                )
            )
    return RetentionWish(**value)


def _mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise _BadEntryError(
            phrase("backup_mode: {value!r} where one of {modes} is expected", value=str(value)[:100], modes=_MODES)
        ) from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _BadEntryError(phrase("enabled: {kind} where true or false is expected", kind=_kind(value)))
    return value


def _status(value: Any) -> ScheduleStatus:
    """The first version had words of its own, such as `completed`; what they mean to us is that nothing is wrong."""
    if value is not None and not isinstance(value, str):
        raise _BadEntryError(phrase("status: {kind} where a text is expected", kind=_kind(value)))
    return ScheduleStatus(value) if value in list(ScheduleStatus) else ScheduleStatus.SCHEDULED


def _moment(entry: dict[str, Any], key: str, zone: ZoneInfo) -> datetime | None:
    value = entry.get(key)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        found = instant(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)
        if _FIRST_YEAR <= found.year <= _LAST_YEAR:
            return found
        raise ValueError(value)
    except (ValueError, TypeError, OverflowError, OSError):
        raise _BadEntryError(
            phrase(
                "{key}: {value!r} where a time such as 2026-11-22T02:00:00+00:00 is expected",
                key=key,
                value=str(value)[:100],
            )
        ) from None


def _kind(value: Any) -> str:
    """What came, in JSON's words, short enough for a message."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return phrase("a text") if value else phrase("an empty text")
    if isinstance(value, dict | list):
        return phrase("an object") if isinstance(value, dict) else phrase("a list")
    return phrase("the number {number}", number=str(value)[:20])


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _at(path: str, line: int, column: int, problem: str) -> Phrase:
    return phrase(
        "{path}: line {line} column {column}: {problem}", path=path, line=line, column=column, problem=problem
    )


def _damaged(path: str, problem: str, place: tuple[int, int] | None = None) -> SchedulesFileError:
    message = phrase("{path}: {problem}", path=path, problem=problem)
    if place is not None:
        message = _at(path, *place, problem)
    return SchedulesFileError(
        message, hint=phrase("The file was left as it is. Correct it with an editor, or move it away.")
    )
