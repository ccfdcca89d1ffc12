"""What may stand in a schedule's fields. Every refusal names the field, what came, and what is expected."""

import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule, is_plain
from kvm_backup.services.schedules.format import RETENTION_MAX

NAME_MAX = 100
VM_NAME_MAX = 255
VMS_MAX = 1000
NOWHERE = "none"
DEFAULT_REMOTES = "default"
TEXT_MAX = 4096

_NAME_EXPECTED = phrase("a name of 1 to {most} characters, without control characters", most=NAME_MAX)
_SCRIPT_EXPECTED = phrase(
    "a program and its arguments, such as '/usr/local/bin/before web', at most {most} characters", most=TEXT_MAX
)
_VM_EXPECTED = phrase("a VM's name of 1 to {most} characters, without control characters", most=VM_NAME_MAX)


def name(text: str) -> str:
    """A schedule's name, without spaces around it. Raises InvalidScheduleError."""
    cleaned = unicodedata.normalize("NFC", text).strip()
    if not cleaned or len(cleaned) > NAME_MAX or not is_plain(cleaned):
        raise InvalidScheduleError("name", _short(text), _NAME_EXPECTED)
    return cleaned


def vm_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of VMs, each once. Raises InvalidScheduleError."""
    if not names:
        raise InvalidScheduleError("vm_names", "", phrase("one VM or more"))
    for vm_name in names:
        if not vm_name.strip() or len(vm_name) > VM_NAME_MAX or not is_plain(vm_name):
            raise InvalidScheduleError("vm_names", _short(vm_name), _VM_EXPECTED)
    unique = tuple(dict.fromkeys(names))
    if len(unique) > VMS_MAX:
        raise InvalidScheduleError(
            "vm_names",
            phrase("{count} names", count=len(unique)),
            phrase("at most {most} VMs", most=VMS_MAX),
        )
    return unique


def mode(text: str) -> Mode:
    """A mode by its name. Raises InvalidScheduleError."""
    try:
        return Mode(text.strip().lower())
    except ValueError:
        raise InvalidScheduleError(
            "backup_mode", _short(text), phrase("one of {choices}", choices=", ".join(Mode))
        ) from None


def repository(text: str) -> str:
    """A repository's name or path. Raises InvalidScheduleError."""
    if len(text) > TEXT_MAX or not is_plain(text):
        raise InvalidScheduleError("repository", _short(text), phrase("a name or path without control characters"))
    return text


def ship_to(names: Sequence[str]) -> tuple[str, ...] | None:
    """Remotes by name, each once. `none` alone is none at all; `default` alone, or nothing, every one of the
    repository, which is None. Raises InvalidScheduleError.
    """
    words = [text.strip() for text in names]
    if words == [NOWHERE]:
        return ()
    if words in ([], [""], [DEFAULT_REMOTES]):
        return None
    for word in words:
        if not word or word in (NOWHERE, DEFAULT_REMOTES) or len(word) > NAME_MAX or not is_plain(word):
            raise InvalidScheduleError(
                "ship_to",
                _short(word),
                phrase(
                    "names of repositories on other servers, or {none} or {default} alone",
                    none=NOWHERE,
                    default=DEFAULT_REMOTES,
                ),
            )
    return tuple(dict.fromkeys(words))


def script(field: str, text: str) -> tuple[str, ...]:
    """The words of a command line, split as a shell does, though none reads it; an empty text is no script.

    Raises InvalidScheduleError.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise InvalidScheduleError(field, _short(text), _SCRIPT_EXPECTED) from None
    if not is_plain(text) or len(text) > TEXT_MAX or (words and not words[0]):
        raise InvalidScheduleError(field, _short(text), _SCRIPT_EXPECTED)
    return words


def retention(wish: RetentionWish, keep: Mapping[str, str]) -> RetentionWish:
    """A wish with other numbers; `keep` has them by kind, as texts, and an empty one asks for nothing of that kind.

    Raises InvalidScheduleError that names the field keep_<kind>.
    """
    return replace(wish, **{kind: _kept(kind, text.strip()) for kind, text in keep.items()})


def _kept(kind: str, text: str) -> int | None:
    if not text:
        return None
    least = 1 if kind == "last" else 0
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= RETENTION_MAX:
        raise InvalidScheduleError(
            f"keep_{kind}",
            _short(text),
            phrase("a number from {least} to {most}", least=least, most=RETENTION_MAX),
        )
    return int(text)


def refuse_taken_name(wanted: str, others: Iterable[Schedule]) -> None:
    """Names that differ only in case are the same to a reader. Raises InvalidScheduleError."""
    for other in others:
        if other.name.casefold() == wanted.casefold():
            raise InvalidScheduleError(
                "name", wanted, phrase("a name that no other schedule has ({id} has it)", id=other.id[:8])
            )


def _short(text: str) -> str:
    return text if len(text) <= NAME_MAX else f"{text[:NAME_MAX]}…"
