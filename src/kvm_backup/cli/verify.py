"""kvm-backup verify"""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.choice import choose_point, elsewhere
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.output import cell, console, print_json_line, prose, short_digests
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import EXIT_DONE, EXIT_FAILED, BadArgumentError, PointNotFoundError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.lookup import points_of_vm
from kvm_backup.services.control import RunControl
from kvm_backup.services.events import Progress, Step, StepStarted
from kvm_backup.services.verify import Finding, Verdict, chain_of, verify_points


def verify(
    point: Annotated[str | None, typer.Argument(metavar="POINT", help="This point and all it builds on.")] = None,
    vm: Annotated[str | None, typer.Option("--vm", metavar="VM", help="Every point of this VM.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every point of the repository (the default).")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Decompress every cluster, too.")] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Check that restore points are whole: digests, parents, images.

    Without a POINT, --vm or --all, every point of the repository is checked.
    """
    if (point is not None) + (vm is not None) + every > 1:
        raise BadArgumentError(
            "give only one of POINT, --vm and --all", hint="'kvm-backup verify --help' explains each."
        )
    parts = application()
    store = parts.repository(repository)
    chosen = _choose(parts, store, point, vm)
    total = sum(item.bytes_stored for item in chosen if isinstance(item, Manifest))
    bad = 0
    with EventView(json_lines=False) as view:
        label = point or vm or store.name
        if not json:
            view(StepStarted(label, Step.VERIFY))
        control = RunControl(
            stop_requested=stop_requested,
            on_progress=None if json else lambda done, of: view(Progress(label, Step.VERIFY, done, of)),
            total=total * (2 if deep else 1),
        )
        for verdict in verify_points(store, chosen, hypervisor=lambda: parts.hypervisor, deep=deep, control=control):
            bad += not verdict.good
            if json:
                print_json_line(_as_json(verdict))
            else:
                _show(view, verdict)
        if not json:
            _sum_up(len(chosen), bad)
    raise typer.Exit(EXIT_FAILED if bad else EXIT_DONE)


def _choose(
    parts: Application, store: LocalRepository, point: str | None, vm: str | None
) -> list[Manifest | DamagedPoint]:
    if point is not None:
        return chain_of(store, choose_point(parts, store, point, whole_vm="--vm"))
    chosen = list(store.all_points()) if vm is None else points_of_vm(store, vm)
    if vm is not None and not chosen:
        raise PointNotFoundError(
            f"repository {store.name} holds no point of a VM {vm!r}",
            hint=elsewhere(parts, store, vm) or "See what there is: 'kvm-backup point list'.",
        )
    return chosen


def _show(view: EventView, verdict: Verdict) -> None:
    if verdict.good:
        how = "deep, " if verdict.deep else ""
        view.print(
            f"[green]✓[/green] {cell(verdict.point)}: whole"
            f" ({how}{show_size(verdict.bytes_checked)} in {verdict.seconds:.1f} s)"
        )
        return
    view.print(f"[red]✗[/red] {cell(verdict.point)}: damaged")
    for finding in verdict.findings:
        view.print(f"    {cell(finding.file)}{_place(finding)}: {cell(short_digests(finding.message))}")


def _sum_up(count: int, bad: int) -> None:
    if bad:
        hint = "Restore another point; the next backup of the VM starts a new chain by itself when it has to."
        console().print(f"{bad} of {count} points damaged\n{prose(f'HINT: {hint}')}")
    elif count != 1:
        console().print(f"{count} points, none damaged")


def _place(finding: Finding) -> str:
    places = []
    if finding.file_offset is not None:
        places.append(f"byte {finding.file_offset}")
    if finding.disk_offset is not None:
        places.append(f"disk offset {finding.disk_offset}")
    return f" ({', '.join(places)})" if places else ""


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {"event": "verified", "good": verdict.good} | asdict(verdict)
