"""kvm-backup ship"""

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.context import JsonOption, application, ignore_suspension, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_error, print_json, print_json_line, prose, size, table
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    BadArgumentError,
    CancelledError,
    KvmBackupError,
    PointNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import RunState
from kvm_backup.services.events import Finished, Notice
from kvm_backup.services.requests import Asker
from kvm_backup.services.shipping.departures import Departure
from kvm_backup.services.shipping.lack import stuck_in_words


def ship(
    vms: Annotated[
        list[str] | None, typer.Argument(metavar="VM", help="Its name, UUID or folder; without any, every VM.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="NAME", help="Only to this repository.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Show what waits; send nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Send restore points that wait to the repositories on other servers, now.

    The service does this by itself after each backup, and again until the server answers. What was cut off goes on
    where it was.
    """
    parts = application()
    if to is not None:
        parts.shipping.remote(to)
    if not parts.shipping.remotes:
        raise BadArgumentError(
            phrase("no repository on another server is configured"),
            hint=phrase("Add one: kvm-backup repository add NAME ssh://user@host/folder"),
        )
    hidden: list[KvmBackupError] = []
    found = parts.shipments.everything_that_waits(hidden.append)
    problems = list({error.message: error for error in hidden}.values())
    chosen = [one for one in found if to in (None, one.remote)]
    if vms:
        chosen = [one for name in dict.fromkeys(vms) for one in _of(parts, chosen, name)]
    if waiting:
        _show([one for one in chosen if one.lacks_points], json=json, all_seen=not problems)
    else:
        _tell_stuck([one for one in chosen if not one.wants_run], json=json)
        if not (chosen or problems or json):
            console().print(_("nothing waits to be shipped"))
    for error in problems:
        print_error(error)
    to_send = [] if waiting else [one for one in chosen if one.wants_run]
    requests = [parts.shipping.departures.request(one.remote, one.points, Asker()) for one in to_send]
    ship_each(parts, requests, json=json, before=problems)


def ship_each(
    parts: Application, requests: Sequence[RunRequest], *, json: bool, before: Sequence[KvmBackupError] = ()
) -> NoReturn:
    """A run for each VM and remote, one after the other, shown as they go; ends the command with their exit code.

    `before` is what went wrong already.
    """
    errors = ship_now(parts, requests, json=json) if requests else []
    if before:
        raise typer.Exit(before[0].exit_code if len(before) == 1 and not requests else EXIT_SOME_FAILED)
    if not errors:
        raise typer.Exit(EXIT_DONE)
    raise typer.Exit(errors[0].exit_code if len(errors) == len(requests) == 1 else EXIT_SOME_FAILED)


def ship_now(parts: Application, requests: Sequence[RunRequest], *, json: bool) -> list[KvmBackupError]:
    """The same; returns what went wrong. Once a server does not answer, it is not asked again for each VM.

    Raises CancelledError.
    """
    ignore_suspension()
    errors: list[KvmBackupError] = []
    away: set[str] = set()
    with EventView(json_lines=json) as view:
        for request in requests:
            if request.repository in away:
                continue
            finished, error = parts.work.start(request, listener=view, stop_requested=stop_requested)
            if isinstance(error, CancelledError):
                raise error
            if error is not None:
                errors.append(error)
                if error.code.startswith(("remote-", "host-key")):
                    away.add(request.repository)
                if not json:
                    with view.aside():
                        print_error(error)
            elif not json:
                view.print(_line(request, finished))
    return errors


def _line(request: RunRequest, finished: Finished) -> str:
    head = _("{vm}: shipped to {repository}").format(vm=cell(request.vm), repository=cell(request.repository))
    return f"[green]✓[/green] {head}\n  {cell(told(finished.detail or ''))}"


def _of(parts: Application, departures: Sequence[Departure], name: str) -> list[Departure]:
    """Those of one VM. Raises PointNotFoundError when no repository holds points of it."""
    found = [one for one in departures if name in (one.points.vm, one.points.vm_uuid, one.points.folder.name)]
    if not found and not parts.shipments.knows_vm(name):
        raise PointNotFoundError(
            phrase("no repository that is shipped holds points of a VM {name!r}", name=name),
            hint=phrase("See what there is: 'kvm-backup point list'."),
        )
    return found


def _tell_stuck(departures: Sequence[Departure], *, json: bool) -> None:
    for one in departures:
        if one.lack.stuck and json:
            print_json_line(Notice(one.points.vm, stuck_in_words(one.remote, one.lack, unsure=one.unsure)).as_json())
        elif one.lack.stuck:
            console().print(prose(cell(told(stuck_in_words(one.remote, one.lack, unsure=one.unsure)))))


def _show(departures: Sequence[Departure], *, json: bool, all_seen: bool) -> None:
    if json:
        print_json([_as_json(one) for one in departures])
        return
    _tell_stuck(departures, json=False)
    waiting = [one for one in departures if one.lack.to_ship]
    if not waiting:
        if all_seen and not departures:
            console().print(_("nothing waits to be shipped"))
        return
    columns = [
        (_("VM"), "left"),
        (_("TO"), "left"),
        (_("POINTS"), "right"),
        (_("SIZE"), "right"),
        (_("SINCE"), "left"),
        (_("STATE"), "fold"),
    ]
    console().print(table(columns, [_row(one) for one in waiting]))
    problems = {one.run.error: one.run.hint for one in waiting if one.run and one.run.error}
    for error, hint in problems.items():
        console().print(prose(cell(told(error))))
        console().print(prose(_("HINT: {hint}").format(hint=cell(told(hint or "")))))


def _row(one: Departure) -> list[str]:
    since = one.lack.since
    return [
        cell(one.points.vm),
        cell(one.remote),
        str(len(one.lack.to_ship)),
        size(one.lack.bytes),
        f"{since.astimezone():%Y-%m-%d %H:%M}" if since else "",
        _state(one),
    ]


def _state(one: Departure) -> str:
    if one.run is None:
        return _("not asked for yet")
    if one.run.state is RunState.RUNNING:
        return _("being shipped: {done} of {total}").format(done=size(one.run.done), total=size(one.run.total))
    if one.run.state is RunState.WAITING and one.run.retry_at is not None:
        return _("next try at {time}").format(time=f"{one.run.retry_at.astimezone():%H:%M}")
    return _("queued")


def _as_json(one: Departure) -> dict[str, Any]:
    """The documented form (docs/cli.md)."""
    run = one.run
    return {
        "vm": one.points.vm,
        "vm_uuid": one.points.vm_uuid,
        "repository": one.remote,
        "points": [point.manifest.id for point in one.lack.to_ship],
        "stuck": list(one.lack.stuck),
        "next_full": one.lack.newest_stuck and not one.unsure,
        "bytes": one.lack.bytes,
        "since": one.lack.since.isoformat() if one.lack.since else None,
        "run": run.id if run else None,
        "state": run.state.value if run else None,
        "retry_at": run.retry_at.isoformat() if run and run.retry_at else None,
        "error": run.error if run else None,
        "hint": run.hint if run else None,
    }
