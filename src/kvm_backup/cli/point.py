"""kvm-backup point"""

from collections.abc import Container, Mapping
from typing import Annotated, Any

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.choice import choose_point, elsewhere, places
from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_clause, print_error, print_fact, print_json, prose, size, table
from kvm_backup.cli.program import Program
from kvm_backup.cli.words import consistency_word, disk_mode_word, left_out_word, mode_word, utc_time
from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.lookup import points_of_vm
from kvm_backup.services.queries import point_details, point_summary
from kvm_backup.services.stores.store import Store

app = Program("Restore points.")


@app.command("list")
def list_points(
    vm: Annotated[str | None, typer.Argument(metavar="VM", help="Only the points of this VM.")] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """List restore points, oldest first."""
    parts = application()
    shelf = parts.store(repository)
    store = shelf.view
    damaged = parts.catalogue.refresh(store)
    points = parts.catalogue.points(store, vm)
    marks = parts.catalogue.elsewhere(store)
    foreign = shelf.foreign
    for point in damaged:
        print_error(point.error)
    if json:
        print_json(
            [point_summary(shelf, point, marks.get(point.id), foreign=point.id in foreign) for point in points]
        )
    if vm is not None and not points:
        _require_points(parts, store, vm)
    if json:
        return
    if points:
        _show_list(parts, points, marks, foreign)
    elif not shelf.far:
        console().print(_("No restore point yet. Make one: kvm-backup backup VM"))
    else:
        console().print(_("No restore point is known there."))
    _show_age(shelf)


@app.command("show")
def show_point(
    point: Annotated[str, typer.Argument(metavar="POINT", help="Its id, VM/STAMP, or VM/latest.")],
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Show one restore point: its disks, and what was left out and why."""
    parts = application()
    store = parts.store(repository)
    found = choose_point(parts, store, point)
    details = point_details(store, found)
    if json:
        print_json(details)
        return
    out = console()
    titles = {
        "id": _("id"),
        "vm": _("vm"),
        "mode": _("mode"),
        "created": _("created"),
        "consistency": _("consistency"),
        "parent": _("parent"),
        "path": _("path"),
        "checkpoint": _("checkpoint"),
        "snapshot": _("snapshot"),
    }
    words = {
        "mode": mode_word(found.mode),
        "created": utc_time(found.created),
        "consistency": consistency_word(found.consistency),
    }
    for key, title in titles.items():
        if details[key] is not None:
            print_fact(title, words.get(key, details[key]))
    if details["elsewhere"] is not None:
        print_fact(_("disks at"), places(parts, details["elsewhere"]) or _("lost"))
    if details["detail"]:
        print_clause(_("full because"), told(details["detail"]))
    columns = [(_("DISK"), "left"), (_("SAVED"), "left"), (_("SIZE"), "right"), (_("STORED"), "right")]
    out.print(table(columns, _disks(details)))
    for disk in details["left_out"]:
        out.print(f"{_('left out: {why}').format(why=cell(disk['target']))} ({left_out_word(disk['reason'])})")
    for notice in details["notices"]:
        out.print(prose(f"{_('note:')} {cell(told(notice))}", hanging="  "))
    _show_age(store)


def _show_age(store: Store) -> None:
    """How old what is shown may be, where it is not looked for anew."""
    if not store.far:
        return
    name = store.view.name
    if store.read is None:
        text = _("As this host shipped it; what is there now is read by: kvm-backup repository rescan {repository}")
    else:
        text = _(
            "As it was last read, {time}; what is there now is read by: kvm-backup repository rescan {repository}"
        )
    when = f"{store.read.astimezone():%Y-%m-%d %H:%M}" if store.read else ""
    console().print(prose(f"[dim]{cell(text.format(repository=name, time=when))}[/dim]"))


def _require_points(parts: Application, store: LocalRepository, vm: str) -> None:
    """Raises PointNotFoundError when the VM has no point though there are others: most likely a misspelling."""
    hint = elsewhere(parts, store, vm)
    if points_of_vm(store, vm) or not (hint or any(store.folders())):
        return
    raise PointNotFoundError(
        phrase("no restore point of a VM {vm!r} in repository {repository}", vm=vm, repository=store.name),
        hint=hint or phrase("See what there is with 'kvm-backup point list'."),
    )


def _show_list(
    parts: Application, points: list[Manifest], marks: Mapping[str, tuple[str, ...]], foreign: Container[str]
) -> None:
    rows = [
        [
            cell(point.id),
            mode_word(point.mode),
            consistency_word(point.consistency),
            _stored(parts, point, marks.get(point.id))
            if point.id not in foreign
            else cell(_("{size}, not from this host").format(size=size(point.bytes_stored))),
        ]
        for point in points
    ]
    columns = [(_("POINT"), "left"), (_("MODE"), "left"), (_("CONSISTENT"), "left"), (_("STORED"), "right")]
    console().print(table(columns, rows))


def _stored(parts: Application, point: Manifest, mark: tuple[str, ...] | None) -> str:
    if point.snapshot:
        return _("on host")
    if mark is None:
        return size(point.bytes_stored)
    return cell(_("at {names}").format(names=places(parts, mark))) if mark else _("lost")


def _disks(details: dict[str, Any]) -> list[list[str]]:
    return [
        [cell(disk["target"]), disk_mode_word(disk["mode"]), size(disk["virtual_size"]), size(disk["bytes_stored"])]
        for disk in details["disks"]
    ]
