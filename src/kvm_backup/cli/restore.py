"""kvm-backup restore"""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.choice import choose_point
from kvm_backup.cli.confirm import agrees
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_json_line, seconds, size
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import BadArgumentError, ForeignPointError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.task import AsNewVm, InPlace, RestoreTarget, ToFolder, is_in_place
from kvm_backup.services.events import Event, Finished, PointRestored, Started
from kvm_backup.services.restore_disks import Restored
from kvm_backup.services.stores.trust import foreign_warning


def restore(
    point: Annotated[str, typer.Argument(metavar="POINT", help="Its id, VM/STAMP, or VM/latest.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Write disks and XML there.")] = None,
    image_format: Annotated[
        Literal["qcow2", "raw"], typer.Option("--format", help="Image format of --to.")
    ] = "qcow2",
    new_name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Make a new VM.")] = None,
    disks_in: Annotated[
        Path | None,
        typer.Option(
            "--disks-in",
            metavar="DIR",
            help="With --as: where the disks go. With --in-place: where those go that this host does not know.",
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start the new VM.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Bring the VM itself back to this point.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="With --in-place: stop the VM; its power is cut after 60 s.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --in-place, or of a point that this host did not ship: do not ask.")
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Restore any point: to a folder, as a new VM, or in place."""
    targets = (to is not None) + (new_name is not None) + in_place
    if targets > 1:
        raise BadArgumentError(
            phrase("give only one of --to, --as and --in-place"),
            hint=phrase("'kvm-backup restore --help' explains each."),
        )
    if not targets:
        raise BadArgumentError(
            phrase("say where to: --to DIR, --as NAME or --in-place"),
            hint=phrase("'kvm-backup restore --help' explains each."),
        )
    if not in_place and (stop or (yes and repository is None)):
        raise BadArgumentError(phrase("--stop and --yes go with --in-place"), hint=phrase("Leave them out."))
    if start and new_name is None:
        raise BadArgumentError(phrase("--start goes with --as"), hint=phrase("Leave it out."))
    if disks_in is not None and to is not None:
        raise BadArgumentError(phrase("--disks-in goes with --as and --in-place"), hint=phrase("Leave it out."))
    parts = application()
    store = parts.store(repository)
    manifest = choose_point(parts, store, point)
    if warning := foreign_warning(store, manifest.id):
        _require_trust(warning, agreed=yes)
    target: RestoreTarget
    if to is not None:
        target = ToFolder(str(to.absolute()), image_format)
    elif new_name is not None:
        target = AsNewVm(new_name, _absolute(disks_in), start)
    else:
        target = InPlace(_absolute(disks_in), stop)
    request = parts.requests.restore(manifest.id, target, repository)
    restore_now(parts, request, confirm=(lambda _question: True) if yes else agrees, json=json)


def restore_now(
    parts: Application, request: RunRequest, *, confirm: Callable[[str], bool] = lambda _question: False, json: bool
) -> None:
    """Do one restore and show what came of it. `confirm` is asked before one in place. Raises what it failed with."""
    done: list[PointRestored] = []
    with EventView(json_lines=json) as view:

        def listen(event: Event) -> None:
            if isinstance(event, PointRestored):
                done.append(event)
            elif not isinstance(event, Started | Finished):
                view(event)

        _finished, error = parts.work.start(request, listener=listen, stop_requested=stop_requested, confirm=confirm)
    if error is not None:
        raise error
    for event in done:
        if json:
            print_json_line(event.as_json())
        else:
            _show(event.restored, in_place=is_in_place(request.task))


def _require_trust(warning: str, *, agreed: bool) -> None:
    """Raises ForeignPointError unless the user trusts a point that somebody else may have put there."""
    if agreed:
        sys.stderr.write(f"{_('note:')} {told(warning)}\n")
    elif not agrees(phrase("{warning}. Restore it all the same?", warning=warning)):
        raise ForeignPointError(
            warning, hint=phrase("Restore a point that this host has shipped; or give --yes if you trust it.")
        )


def _absolute(folder: Path | None) -> str | None:
    return str(folder.absolute()) if folder else None


def _show(done: Restored, *, in_place: bool) -> None:
    out = console()
    written = sum(disk.bytes_written for disk in done.disks)
    if in_place:
        line = _("{point} restored in place: {size} in {seconds}")
    elif done.name:
        line = _("{point} restored as VM {vm}: {size} in {seconds}")
    else:
        line = _("{point} restored: {size} in {seconds}")
    figures = {"size": size(written), "seconds": seconds(done.seconds)}
    out.print(f"[green]✓[/green] {line.format(point=cell(done.point), vm=cell(done.name), **figures)}")
    for disk in done.disks:
        line = _("{disk}: {path} ({format}, {size})")
        figures = {"format": disk.image_format, "size": size(disk.virtual_size)}
        out.print(f"  {line.format(disk=cell(disk.disk), path=cell(disk.path), **figures)}")
    for file in done.files:
        out.print(f"  {cell(file)}")
    for notice in done.notices:
        out.print(f"[yellow]{_('note:')}[/yellow] {cell(told(notice))}")
    if in_place:
        line = _("{vm} is off; start it when you like: virsh start {name}")
        out.print(f"  {line.format(vm=cell(done.vm), name=cell(shlex.quote(done.vm)))}")
