"""kvm-backup audit"""

from typing import Annotated, Any

import typer

from kvm_backup.cli.context import JsonOption, application
from kvm_backup.cli.language import _
from kvm_backup.cli.output import cell, console, print_json, table
from kvm_backup.cli.program import Program
from kvm_backup.domain.account import AuditEntry, Outcome

app = Program(help="Who did what.")

_COLOURS = {Outcome.DONE: "green", Outcome.REFUSED: "yellow", Outcome.FAILED: "red"}


@app.command("list")
def list_lines(
    search: Annotated[str, typer.Option("--search", metavar="TEXT", help="Only lines that hold this text.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="COUNT", min=1, max=100_000, help="How many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List what users, programs and commands changed or were refused, newest first."""
    lines = application().audit.newest(search=search, limit=limit)
    if json:
        print_json([summary(line) for line in lines])
        return
    if not lines:
        console().print(_("No such line.") if search else _("Nothing happened yet."))
        return
    columns = [(_("WHEN"), "left"), (_("WHO"), "left"), (_("FROM"), "left"), (_("ACTION"), "left")]
    columns += [(_("ON"), "fold"), (_("RESULT"), "left"), (_("DETAIL"), "fold")]
    console().print(table(columns, [_row(line) for line in lines]))


def summary(line: AuditEntry) -> dict[str, Any]:
    """One object of `--json`."""
    return {
        "number": line.number,
        "at": line.at.isoformat(),
        "who": line.who,
        "via": line.via.value,
        "address": line.address,
        "action": line.action,
        "subject": line.subject,
        "outcome": line.outcome.value,
        "detail": line.detail,
    }


def _row(line: AuditEntry) -> list[str]:
    colour = _COLOURS[line.outcome]
    return [
        line.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        cell(line.who),
        cell(line.address or line.via.value),
        cell(line.action),
        cell(line.subject),
        f"[{colour}]{line.outcome.value}[/{colour}]",
        cell(line.detail),
    ]
