"""kvm-backup run"""

import time
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any

import typer

from kvm_backup.cli.backup import back_up_each
from kvm_backup.cli.context import JsonOption, application, stop_requested
from kvm_backup.cli.output import cell, console, print_json, print_json_line, prose, table
from kvm_backup.cli.program import Program
from kvm_backup.cli.prune import prune_each
from kvm_backup.cli.restore import restore_now
from kvm_backup.cli.verify import verify_each
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.domain.sizes import show_size
from kvm_backup.domain.task import AsNewVm, BackupTask, PruneTask, RestoreTask, Task, ToFolder, VerifyTask
from kvm_backup.services.requests import Asker
from kvm_backup.services.run_views import run_details, run_summary

app = Program("Runs: what was done when, and how it ended.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or a beginning of it.")]

_SHORTEST_ID = 8
_FOLLOW_SECONDS = 0.3
_DETAILS = {
    RunKind.BACKUP: "full because",
    RunKind.VERIFY: "damaged",
    RunKind.PRUNE: "result",
    RunKind.RESTORE: "result",
}
"""What the detail of a run tells."""
_COLOURS = {
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.INTERRUPTED: "red",
    RunState.WAITING: "yellow",
    RunState.RUNNING: "cyan",
}


@app.command("list")
def list_runs(
    vm: Annotated[str | None, typer.Option("--vm", metavar="VM", help="Only of this VM: its name or UUID.")] = None,
    kind: Annotated[
        RunKind | None, typer.Option("--kind", metavar="KIND", help="Only of this kind, such as verify.")
    ] = None,
    state: Annotated[
        RunState | None, typer.Option("--state", metavar="STATE", help="Only in this state, such as failed.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="COUNT", min=1, max=100_000, help="How many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    from kvm_backup.database.history import RunFilter  # SQLAlchemy is slow to load, and other commands do without

    runs = application().swept_history().newest(RunFilter(vm=vm, kind=kind, state=state), limit=limit)
    if json:
        print_json([run_summary(run) for run in runs])
        return
    if not runs:
        console().print("No such run." if vm or kind or state else "No run yet. Start one: kvm-backup backup VM")
        return
    columns = [
        ("RUN", "left"),
        ("VM", "left"),
        ("KIND", "left"),
        ("MODE", "left"),
        ("STATE", "left"),
        ("CREATED", "left"),
    ]
    columns += [("TOOK", "right"), ("READ", "right"), ("STORED", "right"), ("ERROR", "fold")]
    ids = _shortened([run.id for run in runs])
    console().print(table(columns, [_row(run, id_) for run, id_ in zip(runs, ids, strict=True)]))


@app.command("show")
def show_run(run: RunArgument, json: JsonOption = False) -> None:
    """Show one run: steps, rates, and why it failed or became full."""
    found = application().swept_history().get(run)
    details = run_details(found)
    if json:
        print_json(details)
        return
    out = console()
    for title, text in _facts(found, details):
        out.print(f"[bold]{title:<12}[/bold] {cell(text)}")
    for line in (found.detail or "").splitlines():
        out.print(prose(cell(line), indent=f"[bold]{_DETAILS[found.kind]:<12}[/bold] ", hanging=" " * 13))
    if found.error:
        out.print(prose(cell(found.error), indent="[bold]error[/bold]        ", hanging=" " * 13))
        out.print(prose(cell(found.hint or ""), indent="[bold]hint[/bold]         ", hanging=" " * 13))
    if found.steps:
        rows = [[cell(step["name"]), step["started"], _took(step["seconds"])] for step in details["steps"]]
        out.print(table([("STEP", "left"), ("STARTED", "left"), ("TOOK", "right")], rows))


@app.command("logs")
def show_logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the log of a run."""
    parts = application()
    history = parts.swept_history()
    found = history.get(run)

    def ended() -> bool:
        if stop_requested():
            return True
        parts.swept_history()
        return history.get(found.id).state.final

    show = print_json_line if json else _print_entry
    with closing(parts.log_reader(found.id)) as reader:
        lines = reader.follow(ended, lambda: time.sleep(_FOLLOW_SECONDS)) if follow else reader.new_lines()
        for entry in lines:
            show(entry)


@app.command("cancel")
def cancel_run(run: RunArgument) -> None:
    """Cancel a run. One that goes on ends within seconds, and leaves nothing."""
    cancelled = application().runs.cancel(run)
    wish = "cancelled" if cancelled.state.final else "asked to end"
    console().print(f"run {cell(cancelled.id)} of {cell(cancelled.vm_name)}: {wish}")


@app.command("retry")
def retry_run(run: RunArgument, json: JsonOption = False) -> None:
    """Do a run that has ended once more, as a new run."""
    parts = application()
    request = parts.requests.again(parts.runs.to_try_again(run), Asker(Trigger.RETRY))
    match request.task:
        case BackupTask():
            back_up_each(parts, [request], json=json)
        case VerifyTask():
            verify_each(parts, [request], json=json)
        case PruneTask():
            prune_each(parts, [request], json=json)
        case RestoreTask():
            restore_now(parts, request, json=json)


def _row(run: Run, shown_id: str) -> list[str]:
    colour = _COLOURS.get(run.state, "default")
    seconds = run_summary(run)["seconds"]
    return [
        cell(shown_id),
        cell(run.vm_name),
        run.kind,
        run.mode or run.requested_mode or "",
        f"[{colour}]{run.state}[/{colour}]",
        _local(run.created),
        _took(seconds),
        _size(run, run.bytes_read),
        _size(run, run.bytes_stored),
        cell(run.error or ""),
    ]


def _facts(run: Run, details: dict[str, Any]) -> list[tuple[str, str]]:
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    facts: list[tuple[str, str | None]] = [
        ("run", run.id),
        ("vm", run.vm_name),
        (
            "state",
            f"{run.state}{attempt}" + (", asked to end" if run.cancel_requested and not run.state.final else ""),
        ),
        ("asked by", f"{run.trigger}" + (f" {run.schedule_name}" if run.schedule_name else "")),
        ("host", run.host),
        ("repository", run.repository),
        ("kind", run.kind),
        ("mode", run.mode or (f"{run.requested_mode} (asked for)" if run.requested_mode else None)),
        ("asked for", _in_words(run.task) if run.task else None),
        ("due", f"{details['due']}{', started late' if run.late else ''}" if run.due else None),
        ("created", details["created"]),
        ("started", details["started"]),
        ("ended", details["ended"]),
        ("again at", details["retry_at"]),
        ("took", _took(details["seconds"]) or None),
        ("copied", f"{show_size(run.done)} of {show_size(run.total)}" if run.total else None),
        ("read", _size(run, run.bytes_read) or None),
        ("stored", _size(run, run.bytes_stored) or None),
        ("rate", f"{show_size(details['rate'])}/s" if details["rate"] else None),
        ("point", run.point),
        ("consistency", run.consistency),
    ]
    return [(title, text) for title, text in facts if text is not None]


def _in_words(task: Task) -> str:
    match task:
        case BackupTask():
            return f"a {task.mode} point"
        case VerifyTask():
            return f"{task.point or f'every point in {task.folder}'}{', deep' if task.deep else ''}"
        case PruneTask():
            return f"the points in {task.folder}"
        case RestoreTask(target=AsNewVm(name=name, start=start)):
            return f"{task.point} as VM {name}{', started' if start else ''}"
        case RestoreTask(target=ToFolder(folder=folder, image_format=image_format)):
            return f"{task.point} to {folder}, as {image_format}"
        case RestoreTask():
            return f"{task.point} in place"


def _size(run: Run, size: int) -> str:
    """Nothing where there was nothing to count."""
    return show_size(size) if size or (run.kind is RunKind.BACKUP and run.point) else ""


def _print_entry(entry: dict[str, Any]) -> None:
    """A line of the log for people: the leading keys by their place, the others by name."""
    named = {key: value for key, value in entry.items() if key not in ("time", "level", "event", "run", "vm", "host")}
    rest = " ".join(f"{key}={value}" for key, value in named.items() if value is not None)
    console().print(cell(f"{entry.get('time')} {entry.get('level', ''):<7} {entry.get('event')} {rest}".rstrip()))


def _shortened(ids: list[str]) -> list[str]:
    """As short as tells all of them apart, but eight characters at least."""
    length = _SHORTEST_ID
    while len({id_[:length] for id_ in ids}) < len(set(ids)):
        length += 1
    return [id_[:length] for id_ in ids]


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
