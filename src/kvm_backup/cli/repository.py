"""kvm-backup repository"""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.output import cell, console, print_error, print_json, prose, table
from kvm_backup.cli.program import Program
from kvm_backup.config.registry import prepare_registration
from kvm_backup.domain.errors import EXIT_DONE, EXIT_FAILED, KvmBackupError
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.repository_check import check_repository

app = Program("Where restore points are kept.")


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder that is empty or not there yet.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it; by default the folder's name.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the repository that needs no -r.")] = False,
) -> None:
    """Make a new repository and add it to the settings."""
    place = path.absolute()
    registration = prepare_registration(name or place.name, place, default=default)
    repository = LocalRepository.create(registration.name, place)
    out = console()
    out.print(f"[green]✓[/green] repository {cell(repository.name)} made in {cell(place)}")
    out.print(f"  added to {cell(registration.write())}")
    if application().service_runs():
        out.print("  the service knows it after a restart: systemctl restart kvm-backup")
    if default:
        out.print("  it is the default now: kvm-backup backup VM")
        return
    out.print(f"  use it: kvm-backup backup VM -r {cell(repository.name)}")
    out.print(f'  to use it without -r, begin the settings with: default_repository = "{cell(repository.name)}"')


@app.command("list")
def list_repositories(json: JsonOption = False) -> None:
    """List the configured repositories."""
    parts = application()
    rows = [_summary(name, path) for name, path in parts.settings.repositories().items()]
    for row in rows:
        row["default"] = row["name"] == parts.settings.default_repository
    if json:
        print_json(rows)
        return
    shown = [
        [
            cell(row["name"]) + (" (default)" if row["default"] else ""),
            cell(row["path"]),
            str(row["points"]) if row["error"] is None else "[yellow]unusable[/yellow]",
            show_size(row["bytes_stored"]),
        ]
        for row in rows
    ]
    titles = [("REPOSITORY", "left"), ("PATH", "fold"), ("POINTS", "left"), ("STORED", "right")]
    out = console()
    out.print(table(titles, shown))
    for row in rows:
        if row["error"] is not None:
            out.print(prose(f"[yellow]{cell(row['name'])}[/yellow]: {cell(row['error'])}", hanging="  "))


@app.command("check")
def check(repository: RepositoryOption = None, json: JsonOption = False) -> None:
    """Compare what lies in a repository with its manifests.

    Reports what is missing, damaged, of the wrong size, or not ours; reads no disk data ('verify' does).
    """
    parts = application()
    store = parts.repository(repository)
    findings = list(check_repository(store))
    if json:
        print_json([{"path": str(finding.path), "problem": finding.problem} for finding in findings])
    else:
        out = console()
        for finding in findings:
            out.print(f"[yellow]![/yellow] {cell(finding.path)}: {cell(finding.problem)}")
        if not findings:
            out.print(f"[green]✓[/green] repository {cell(store.name)} is in order")
            out.print(prose("'kvm-backup verify' also reads the data.", indent="  "))
    raise typer.Exit(EXIT_FAILED if findings else EXIT_DONE)


@app.command("rescan")
def rescan(repository: RepositoryOption = None) -> None:
    """Build the catalogue anew from the manifests."""
    parts = application()
    store = parts.repository(repository)
    damaged = parts.catalogue.refresh(store, everything=True)
    for point in damaged:
        print_error(point.error)
    count = len(parts.catalogue.points(store))
    console().print(f"[green]✓[/green] {count} points of repository {cell(store.name)} are in the catalogue")
    raise typer.Exit(EXIT_FAILED if damaged else EXIT_DONE)


def _summary(name: str, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "path": str(path), "points": 0, "bytes_stored": 0, "id": None, "error": None}
    parts = application()
    try:
        store = parts.repository(name)
        parts.catalogue.refresh(store)
        points = parts.catalogue.points(store)
    except KvmBackupError as error:
        return row | {"error": error.message}
    return row | {"id": store.id, "points": len(points), "bytes_stored": sum(point.bytes_stored for point in points)}
