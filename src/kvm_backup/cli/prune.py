"""kvm-backup prune"""

from typing import Annotated

import typer

from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.output import cell, console, print_error, print_json_line, prose
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import EXIT_DONE, EXIT_SOME_FAILED, BadArgumentError, CancelledError, KvmBackupError
from kvm_backup.domain.sizes import show_size
from kvm_backup.services.events import Event
from kvm_backup.services.prune import Pruned, PruneService, VmPoints, vms_with_points


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
        raise BadArgumentError("name the VMs to prune, or give --all", hint="'kvm-backup point list' shows them.")
    parts = application()
    store = parts.repository(repository)
    chosen: dict[str, VmPoints] = {}
    for found in vms_with_points(store) if every else [one for vm in vms or () for one in vms_with_points(store, vm)]:
        chosen.setdefault(found.folder.name, found)
    errors: list[KvmBackupError] = []
    with EventView(json_lines=False) as view:
        service = parts.prune_service(store, _quiet if json else view, stop_requested)
        for wanted in chosen.values():
            pruned = _prune(service, wanted, dry_run, errors)
            if pruned is None:
                continue
            if json:
                print_json_line(pruned.as_json())
            else:
                _show(pruned)
    raise typer.Exit(_exit_code(errors, len(chosen)))


def _prune(service: PruneService, wanted: VmPoints, dry_run: bool, errors: list[KvmBackupError]) -> Pruned | None:
    try:
        return service.run(wanted, dry_run=dry_run)
    except CancelledError:
        raise
    except KvmBackupError as error:
        print_error(error)
        errors.append(error)
        return None


def _quiet(_event: Event) -> None:
    """With --json the notices are part of the result."""


def _exit_code(errors: list[KvmBackupError], asked: int) -> int:
    if not errors:
        return EXIT_DONE
    return errors[0].exit_code if len(errors) == asked == 1 else EXIT_SOME_FAILED


def _show(pruned: Pruned) -> None:
    out = console()
    out.print(f"[bold]{cell(pruned.vm)}[/bold] in repository {cell(pruned.repository)}")
    for point in pruned.points:
        mark = "[green]✓[/green]" if point.kept else "[yellow]-[/yellow]"
        out.print(f"{mark} {cell(point.id)}")
        out.print(prose(cell(point.explanation), indent="    "))
    kept = sum(point.kept for point in pruned.points)
    consolidated = sum(point.consolidated for point in pruned.points)
    verb = "would be" if pruned.dry_run else "were"
    freed = f"{'about ' if pruned.dry_run else ''}{show_size(abs(pruned.bytes_freed))}"
    freed = f"{freed} {'freed' if pruned.bytes_freed >= 0 else 'more used'}"
    counts = (
        f"{kept} points stay, {len(pruned.points) - kept} {verb} removed, {consolidated} {verb} made full: {freed}"
    )
    out.print(prose(counts, hanging="  "))
