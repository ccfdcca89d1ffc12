"""The calendar of VMs and days, as the macro `calendar` of chart.html draws it."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from kvm_backup.domain.calendar import Cell, CellState
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.web import formats
from kvm_backup.web.language import _, ngettext

Row = tuple[str, str, list[tuple[str, str, str]]]
"""Name, address, and cells of (state of the macro, text, address)."""

_TONES = {
    CellState.OK: "good",
    CellState.DEMOTED: "warning",
    CellState.FAILED: "problem",
    CellState.MISSED: "problem",
    CellState.RUNNING: "busy",
    CellState.CANCELLED: "none",
    CellState.NONE: "none",
}
_WEEK = 7


def calendar_days(vms: Sequence[VmRecord], cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """The headings: the first day of each week, counted from the oldest, has a text."""
    days = [cell.day for cell in cells[vms[0].uuid]] if vms else []
    return [formats.short_day(day) if number % _WEEK == 0 else "" for number, day in enumerate(days)]


def calendar_rows(vms: Sequence[VmRecord], cells: Mapping[str, Sequence[Cell]]) -> list[Row]:
    """One row for each VM."""
    return [(vm.name, f"/vms/{quote(vm.uuid, safe='')}", [_shown(vm, cell) for cell in cells[vm.uuid]]) for vm in vms]


def _shown(vm: VmRecord, cell: Cell) -> tuple[str, str, str]:
    text = f"{formats.short_day(cell.day)} · {_told(cell)}"
    address = f"/runs?vm={quote(vm.uuid, safe='')}&day={cell.day.isoformat()}" if cell.runs else ""
    return _TONES[cell.state], text, address


def _told(cell: Cell) -> str:
    match cell.state:
        case CellState.OK:
            words = ngettext("{count} backup, well done", "{count} backups, well done", cell.runs)
        case CellState.DEMOTED:
            words = _("a full point instead of an incremental one")
        case CellState.FAILED:
            words = _("the backup failed")
        case CellState.MISSED:
            words = _("a schedule was due, and there was no backup")
        case CellState.CANCELLED:
            words = _("cancelled")
        case CellState.RUNNING:
            words = _("a backup goes on")
        case _:
            words = _("nothing was to do")
    if cell.failed and cell.state is not CellState.FAILED:
        words += ", " + ngettext("{count} failed before", "{count} failed before", cell.failed)
    return words
