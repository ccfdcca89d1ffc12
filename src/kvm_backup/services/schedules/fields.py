"""What may stand in a schedule's fields. Every refusal names the field, what came, and what is expected."""

import unicodedata
from collections.abc import Iterable, Sequence

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.schedule import Schedule, is_plain

NAME_MAX = 100
VM_NAME_MAX = 255
VMS_MAX = 1000

_NAME_EXPECTED = f"a name of 1 to {NAME_MAX} characters, without control characters"
_VM_EXPECTED = f"a VM's name of 1 to {VM_NAME_MAX} characters, without control characters"


def name(text: str) -> str:
    """A schedule's name, without spaces around it. Raises InvalidScheduleError."""
    cleaned = unicodedata.normalize("NFC", text).strip()
    if not cleaned or len(cleaned) > NAME_MAX or not is_plain(cleaned):
        raise InvalidScheduleError("name", _short(text), _NAME_EXPECTED)
    return cleaned


def vm_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of VMs, each once. Raises InvalidScheduleError."""
    if not names:
        raise InvalidScheduleError("vm_names", "", "one VM or more")
    for vm_name in names:
        if not vm_name.strip() or len(vm_name) > VM_NAME_MAX or not is_plain(vm_name):
            raise InvalidScheduleError("vm_names", _short(vm_name), _VM_EXPECTED)
    unique = tuple(dict.fromkeys(names))
    if len(unique) > VMS_MAX:
        raise InvalidScheduleError("vm_names", f"{len(unique)} names", f"at most {VMS_MAX} VMs")
    return unique


def mode(text: str) -> Mode:
    """A mode by its name. Raises InvalidScheduleError."""
    try:
        return Mode(text.strip().lower())
    except ValueError:
        raise InvalidScheduleError("backup_mode", _short(text), f"one of {', '.join(Mode)}") from None


def refuse_taken_name(wanted: str, others: Iterable[Schedule]) -> None:
    """Names that differ only in case are the same to a reader. Raises InvalidScheduleError."""
    for other in others:
        if other.name.casefold() == wanted.casefold():
            raise InvalidScheduleError("name", wanted, f"a name that no other schedule has ({other.id[:8]} has it)")


def _short(text: str) -> str:
    return text if len(text) <= NAME_MAX else f"{text[:NAME_MAX]}…"
