"""kvm-backup verify"""

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.choice import choose_point, elsewhere, places
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_json_line, prose, seconds, short_digests, size
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    BadArgumentError,
    DamagedPointError,
    PointNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import RunRequest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.lookup import folders_of_vm
from kvm_backup.services.events import Event, Finished, Notice, PointVerified, Started
from kvm_backup.services.stores.store import unnamed_hint
from kvm_backup.services.verify import Finding, Verdict


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
            phrase("give only one of POINT, --vm and --all"), hint=phrase("'kvm-backup verify --help' explains each.")
        )
    parts = application()
    shelf = parts.store(repository)
    store = shelf.view
    if point is not None:
        found = choose_point(parts, shelf, point, whole_vm="--vm")
        requests = [parts.requests.verify_point(found.id, repository, deep=deep)]
    else:
        folders = parts.requests.all_folders(repository) if vm is None else _folders_of(parts, store, vm)
        requests = [parts.requests.verify_folder(folder, repository, deep=deep) for folder in folders]
    verify_each(parts, requests, json=json)


def verify_each(parts: Application, requests: Sequence[RunRequest], *, json: bool) -> NoReturn:
    """A run for each VM, each verdict shown as it comes; ends the command with their exit code."""
    verdicts: list[Verdict] = []
    hints: list[str] = []
    with EventView(json_lines=False) as view:

        def listen(event: Event) -> None:
            if isinstance(event, PointVerified):
                verdicts.append(event.verdict)
                if json:
                    print_json_line(event.as_json())
                else:
                    _show(parts, view, event.verdict)
            elif isinstance(event, Notice) or not (json or isinstance(event, Started | Finished)):
                view(event)

        for request in requests:
            _finished, error = parts.work.start(request, listener=listen, stop_requested=stop_requested)
            if error is not None and not isinstance(error, DamagedPointError):
                raise error
            if error is not None and error.hint:
                hints.append(error.hint)
    bad = sum(not verdict.good for verdict in verdicts)
    if not json:
        _sum_up(len(verdicts), bad, hints)
        _tell_unnamed(parts, verdicts)
    raise typer.Exit(EXIT_FAILED if bad else EXIT_DONE)


def _folders_of(parts: Application, store: LocalRepository, vm: str) -> list[str]:
    found = folders_of_vm(store, vm)
    if not found:
        raise PointNotFoundError(
            phrase("repository {repository} holds no point of a VM {vm!r}", repository=store.name, vm=vm),
            hint=elsewhere(parts, store, vm) or phrase("See what there is: 'kvm-backup point list'."),
        )
    return found


def _show(parts: Application, view: EventView, verdict: Verdict) -> None:
    if verdict.good and verdict.elsewhere is not None:
        where = _("its disks are at {names}, and were not checked").format(names=places(parts, verdict.elsewhere))
        view.print(f"[dim]–[/dim] {cell(verdict.point)}: {cell(where)}")
        return
    if verdict.good:
        line = (
            _("{point}: whole (deep, {size} in {seconds})")
            if verdict.deep
            else _("{point}: whole ({size} in {seconds})")
        )
        figures = {"size": size(verdict.bytes_checked), "seconds": seconds(verdict.seconds)}
        view.print(f"[green]✓[/green] {line.format(point=cell(verdict.point), **figures)}")
        if verdict.chain_elsewhere is not None:
            where = _("what it builds on is at {names}").format(names=places(parts, verdict.chain_elsewhere))
            view.print(f"    {cell(where)}")
        return
    view.print(f"[red]✗[/red] {_('{point}: damaged').format(point=cell(verdict.point))}")
    for finding in verdict.findings:
        line = _("{name}: {detail}").format(
            name=f"{cell(finding.file)}{_place(finding)}", detail=cell(short_digests(told(finding.message)))
        )
        view.print(f"    {line}")


def _sum_up(count: int, bad: int, hints: Sequence[str]) -> None:
    if bad:
        console().print(_("{bad} of {count} points damaged").format(bad=bad, count=count))
        for hint in dict.fromkeys(hints):
            console().print(prose(_("HINT: {hint}").format(hint=cell(told(hint)))))
    elif count != 1:
        console().print(_("{count} points, none damaged").format(count=count))


def _tell_unnamed(parts: Application, verdicts: Sequence[Verdict]) -> None:
    """What to do about those that no repository of the settings holds."""
    marks = [verdict.elsewhere for verdict in verdicts if verdict.elsewhere]
    unknown = [names for names in marks if not parts.shipping.remotes.keys() & set(names)]
    if unknown:
        count = _("points whose disks are only where the settings name no repository: {count}")
        console().print(prose(count.format(count=len(unknown))))
        hint = unnamed_hint(sorted({name for names in unknown for name in names}))
        console().print(prose(_("HINT: {hint}").format(hint=cell(told(hint)))))


def _place(finding: Finding) -> str:
    places = []
    if finding.file_offset is not None:
        places.append(_("byte {offset}").format(offset=finding.file_offset))
    if finding.disk_offset is not None:
        places.append(_("disk offset {offset}").format(offset=finding.disk_offset))
    return f" ({', '.join(places)})" if places else ""
