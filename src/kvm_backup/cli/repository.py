"""kvm-backup repository"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.language import _, ngettext, told
from kvm_backup.cli.output import cell, console, print_error, print_json, prose, size, table
from kvm_backup.cli.program import Program
from kvm_backup.cli.repository_add import add
from kvm_backup.config.registry import prepare_registration
from kvm_backup.config.repository import DEFAULT_REPOSITORY
from kvm_backup.domain.errors import EXIT_DONE, EXIT_FAILED, BadArgumentError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.repository_check import check_repository

app = Program("Where restore points are kept.")
app.command("add")(add)


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder that is empty or not there yet.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it; by default the folder's name.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the repository that needs no -r.")] = False,
) -> None:
    """Make a new repository and add it to the settings."""
    # A link on the way stays in the settings; a .. there would depend on it.
    place = path.resolve() if ".." in path.parts else path.absolute()
    registration = prepare_registration(name or place.name, place, default=default)
    repository = LocalRepository.create(registration.name, place)
    out = console()
    name_, file = cell(repository.name), cell(registration.write())
    out.print(f"[green]✓[/green] {_('repository {name} made in {place}').format(name=name_, place=cell(place))}")
    out.print(f"  {_('added to {file}').format(file=file)}")
    if default:
        out.print(f"  {_('it is the default now: kvm-backup backup VM')}")
        return
    out.print(f"  {_('use it: kvm-backup backup VM -r {name}').format(name=name_)}")
    setting = f'default_repository = "{name_}"'
    out.print(f"  {_('to use it without -r, begin the settings with: {setting}').format(setting=setting)}")


@app.command("list")
def list_repositories(json: JsonOption = False) -> None:
    """List the configured repositories.

    Of one on another server, what was last known of it is shown, and nobody is asked; 'repository rescan' asks.
    """
    parts = application()
    default = parts.settings.default_repository
    rows = [
        _summary(partial(parts.repository, name), name, path=str(path), default=name == default)
        for name, path in parts.repositories.listed().items()
    ]
    rows += [
        _summary(partial(_mirrored, name), name, url=remote.url, of=remote.of)
        for name, remote in parts.settings.remotes().items()
    ]
    if json:
        print_json(rows)
        return
    alone = [row["name"] for row in rows if row["path"]] == [DEFAULT_REPOSITORY]
    shown = [
        [
            cell(row["name"]) + (f" ({_('default')})" if row["default"] and not alone else ""),
            cell(row["path"] or row["url"]),
            cell(row["of"] or ("" if row["path"] else _("only read"))),
            str(row["points"])
            if row["error"] is None
            else f"[yellow]{_('unusable') if row['path'] else '?'}[/yellow]",
            size(row["bytes_stored"]),
        ]
        for row in rows
    ]
    titles = [(_("REPOSITORY"), "left"), (_("PLACE"), "left"), (_("COPY OF"), "left"), (_("POINTS"), "left")]
    out = console()
    out.print(table([*titles, (_("STORED"), "right")], shown))
    for row in rows:
        if row["error"] is not None:
            out.print(prose(f"[yellow]{cell(row['name'])}[/yellow]: {cell(told(row['error']))}", hanging="  "))


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
            line = _("{name}: {detail}").format(name=cell(finding.path), detail=cell(told(finding.problem)))
            out.print(f"[yellow]![/yellow] {line}")
        if not findings:
            out.print(f"[green]✓[/green] {_('repository {name} is in order').format(name=cell(store.name))}")
            out.print(prose(_("'kvm-backup verify' also reads the data."), indent="  "))
    raise typer.Exit(EXIT_FAILED if findings else EXIT_DONE)


@app.command("rescan")
def rescan(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A repository's name or path, as with --repository.")
    ] = None,
    repository: RepositoryOption = None,
) -> None:
    """Build the catalogue anew from the manifests.

    Those of a repository on another server are fetched from there first.
    """
    if name is not None and repository is not None:
        raise BadArgumentError(
            phrase("a repository is named twice"), hint=phrase("Give NAME or --repository, not both.")
        )
    parts = application()
    wanted = name or repository
    if wanted in parts.settings.remotes():
        count, damaged = parts.remotes.rescan(wanted)
    else:
        store = parts.repository(wanted)
        wanted = store.name
        damaged = parts.catalogue.refresh(store, everything=True)
        count = len(parts.catalogue.points(store))
    for point in damaged:
        print_error(point.error)
    done = ngettext(
        "{count} point of repository {name} is in the catalogue",
        "{count} points of repository {name} are in the catalogue",
        count,
    )
    console().print(f"[green]✓[/green] {done.format(count=count, name=cell(wanted))}")
    raise typer.Exit(EXIT_FAILED if damaged else EXIT_DONE)


def _mirrored(name: str) -> LocalRepository:
    return application().shipping.mirror(name).repository


def _summary(
    open_it: Callable[[], LocalRepository],
    name: str,
    *,
    path: str | None = None,
    url: str | None = None,
    of: str | None = None,
    default: bool = False,
) -> dict[str, Any]:
    row = {"name": name, "path": path, "url": url, "of": of, "default": default}
    empty: dict[str, Any] = {"id": None, "points": 0, "bytes_stored": 0, "error": None}
    parts = application()
    try:
        if path is not None and parts.repositories.would_make(name):
            return row | empty  # its first use makes it, and this is none
        store = open_it()
        parts.catalogue.refresh(store)
        points = parts.catalogue.points(store)
    except KvmBackupError as error:
        return row | empty | {"error": error.message}
    stored = parts.catalogue.bytes_stored(store.catalogue_key)
    return row | empty | {"id": store.id, "points": len(points), "bytes_stored": stored}
