"""kvm-backup prune"""

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_error, print_json_line, prose, size
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import EXIT_DONE, EXIT_SOME_FAILED, BadArgumentError, CancelledError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import RunRequest
from kvm_backup.services.events import Event, Finished, Notice, Started, VmPruned
from kvm_backup.services.prune import Pruned, VmPoints, vms_with_points


def prune(
    vms: Annotated[
        list[str] | None, typer.Argument(metavar="VM", help="Its name, UUID or folder in the repository.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every VM that the repository holds points of.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and why; change nothing.")
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove the restore points that no retention rule keeps.

    The oldest point that stays of a chain becomes a full one, so that what lies below it can go. VMs that libvirt no
    longer knows are pruned, too.
    """
    if bool(vms) == every:
        raise BadArgumentError(
            phrase("name the VMs to prune, or give --all"), hint=phrase("'kvm-backup point list' shows them.")
        )
    parts = application()
    store = parts.store(repository).view
    chosen: dict[str, VmPoints] = {}
    for found in vms_with_points(store) if every else [one for vm in vms or () for one in vms_with_points(store, vm)]:
        chosen.setdefault(found.folder.name, found)
    if not (chosen or json):
        console().print(_("No restore point yet. Make one: kvm-backup backup VM"))
    if dry_run:
        _preview(parts, repository, list(chosen.values()), json=json)
    prune_each(parts, [parts.requests.prune_folder(folder, repository) for folder in chosen], json=json)


def prune_each(parts: Application, requests: Sequence[RunRequest], *, json: bool) -> NoReturn:
    """A run for each VM, one after the other, shown as they go; ends the command with their exit code."""
    errors: list[KvmBackupError] = []
    with EventView(json_lines=False) as view:
        notices: list[Notice] = []

        def listen(event: Event) -> None:
            if isinstance(event, VmPruned):
                _show(event.pruned, json=json)
                # As JSON they are part of the result.
                notices[:] = [notice for notice in notices if notice.message not in event.pruned.notices]
            elif json and isinstance(event, Notice):
                notices.append(event)
            elif not (json or isinstance(event, Started | Finished)):
                view(event)

        for request in requests:
            _, error = parts.work.start(request, listener=listen, stop_requested=stop_requested)
            while notices:
                view(notices.pop(0))
            _tell(error, errors)
    raise typer.Exit(_exit_code(errors, len(requests)))


def _preview(parts: Application, repository: str | None, chosen: Sequence[VmPoints], *, json: bool) -> NoReturn:
    """What would be done; no run of it is kept."""
    errors: list[KvmBackupError] = []
    with EventView(json_lines=False) as view:
        service = parts.work.pruner(repository, _quiet if json else view, stop_requested)
        for wanted in chosen:
            try:
                pruned = service.run(wanted, dry_run=True)
            except KvmBackupError as error:
                _tell(error, errors)
            else:
                _show(pruned, json=json)
    raise typer.Exit(_exit_code(errors, len(chosen)))


def _tell(error: KvmBackupError | None, errors: list[KvmBackupError]) -> None:
    if isinstance(error, CancelledError):
        raise error
    if error is not None:
        print_error(error)
        errors.append(error)


def _quiet(_event: Event) -> None:
    """With --json the notices are part of the result."""


def _exit_code(errors: list[KvmBackupError], asked: int) -> int:
    if not errors:
        return EXIT_DONE
    return errors[0].exit_code if len(errors) == asked == 1 else EXIT_SOME_FAILED


def _show(pruned: Pruned, *, json: bool) -> None:
    if json:
        print_json_line(pruned.as_json())
        return
    out = console()
    where = _("{vm} in repository {repository}")
    out.print(where.format(vm=f"[bold]{cell(pruned.vm)}[/bold]", repository=cell(pruned.repository)))
    for point in pruned.points:
        mark = "[green]✓[/green]" if point.kept else "[yellow]-[/yellow]"
        out.print(f"{mark} {cell(point.id)}")
        out.print(prose(cell(told(point.explanation)), indent="    "))
    kept = sum(point.kept for point in pruned.points)
    consolidated = sum(point.consolidated for point in pruned.points)
    counts = {"kept": kept, "removed": len(pruned.points) - kept, "consolidated": consolidated}
    freed = _("{size} freed") if pruned.bytes_freed >= 0 else _("{size} more used")
    amount = size(abs(pruned.bytes_freed))
    if pruned.dry_run:
        amount = _("about {size}").format(size=amount)
        told_all = _("points to keep: {kept}, to remove: {removed}, to make full: {consolidated}; {freed}")
    else:
        told_all = _("points kept: {kept}, removed: {removed}, made full: {consolidated}; {freed}")
    out.print(prose(told_all.format(**counts, freed=freed.format(size=amount)), hanging="  "))
