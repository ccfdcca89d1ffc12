"""kvm-backup point"""

from typing import Annotated, Any

import typer

from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.output import cell, console, print_error, print_json, table
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.lookup import find_point
from kvm_backup.services.queries import point_details, point_summary

app = typer.Typer(help="Restore points.", no_args_is_help=True)


@app.command("list")
def list_points(
    vm: Annotated[str | None, typer.Argument(metavar="[VM]", help="Only the points of this VM.")] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """List restore points, oldest first."""
    parts = application()
    store = parts.repository(repository)
    damaged = parts.catalogue.refresh(store)
    points = parts.catalogue.points(store, vm)
    for point in damaged:
        print_error(point.error)
    if json:
        print_json([point_summary(store, point) for point in points])
        return
    if not points:
        console().print("No restore point yet. Make one: kvm-backup backup VM")
        return
    rows = [
        [
            cell(point.id),
            point.mode.value,
            point.consistency.value,
            "on the host" if point.snapshot else show_size(point.bytes_stored),
        ]
        for point in points
    ]
    console().print(table([("POINT", "left"), ("MODE", "left"), ("CONSISTENCY", "left"), ("STORED", "right")], rows))


@app.command("show")
def show_point(
    point: Annotated[str, typer.Argument(metavar="POINT", help="Its id, VM/STAMP, or VM/latest.")],
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Show one restore point: disks, sizes, digests, what was left out and why."""
    parts = application()
    store = parts.repository(repository)
    details = point_details(store, find_point(store, point))
    if json:
        print_json(details)
        return
    out = console()
    for key in ("id", "vm", "mode", "created", "consistency", "parent", "path", "checkpoint", "snapshot"):
        if details[key] is not None:
            out.print(f"[bold]{key:<12}[/bold] {cell(details[key])}")
    if details["detail"]:
        out.print(f"[bold]{'full because':<12}[/bold] {cell(details['detail'])}")
    out.print(table([("DISK", "left"), ("SAVED", "left"), ("SIZE", "right"), ("STORED", "right")], _disks(details)))
    for disk in details["left_out"]:
        out.print(f"left out: {cell(disk['target'])} ({disk['reason']})")
    for notice in details["notices"]:
        out.print(f"note: {cell(notice)}")


def _disks(details: dict[str, Any]) -> list[list[str]]:
    return [
        [cell(disk["target"]), disk["mode"], show_size(disk["virtual_size"]), show_size(disk["bytes_stored"])]
        for disk in details["disks"]
    ]
