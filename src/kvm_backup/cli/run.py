"""kvm-backup run"""

import time
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any

import typer

from kvm_backup.cli.backup import back_up_each, exit_code
from kvm_backup.cli.context import JsonOption, application, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import (
    cell,
    console,
    print_clause,
    print_fact,
    print_json,
    print_json_line,
    size,
    table,
)
from kvm_backup.cli.output import seconds as shown_seconds
from kvm_backup.cli.program import Program
from kvm_backup.cli.prune import prune_each
from kvm_backup.cli.restore import restore_now
from kvm_backup.cli.ship import ship_each
from kvm_backup.cli.verify import verify_each
from kvm_backup.cli.words import consistency_word, local_time, mode_word, step_word
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import STATE_WORDS, Run, RunKind, RunState, Trigger
from kvm_backup.domain.task import BackupTask, PruneTask, RestoreTask, ShipTask, Task, VerifyTask
from kvm_backup.services.requests import Asker
from kvm_backup.services.run_views import restore_words, run_details, run_summary

app = Program("Runs: what was done when, and how it ended.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or a beginning of it.")]

_SHORTEST_ID = 8
_FOLLOW_SECONDS = 0.3
_DETAILS = {
    RunKind.BACKUP: phrase("full because"),
    RunKind.VERIFY: phrase("damaged"),
    RunKind.PRUNE: phrase("result"),
    RunKind.RESTORE: phrase("result"),
    RunKind.SHIP: phrase("result"),
}
"""What the detail of a run tells."""
_KINDS = {
    RunKind.BACKUP: phrase("backup"),
    RunKind.PRUNE: phrase("prune"),
    RunKind.VERIFY: phrase("verify"),
    RunKind.RESTORE: phrase("restore"),
    RunKind.SHIP: phrase("ship"),
}
_TRIGGERS = {
    Trigger.SCHEDULE: phrase("schedule"),
    Trigger.COMMAND: phrase("command"),
    Trigger.WEB: phrase("web"),
    Trigger.RETRY: phrase("retry"),
    Trigger.SERVICE: phrase("the service"),
}
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
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule", metavar="SCHEDULE", help="Only of this schedule: its id, a beginning, or its name."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="COUNT", min=1, max=100_000, help="How many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    from kvm_backup.database.history import RunFilter  # SQLAlchemy is slow to load, and other commands do without

    parts = application()
    schedule_id = None if schedule is None else parts.schedules.find(schedule).id
    wanted = RunFilter(vm=vm, kind=kind, state=state, schedule_id=schedule_id)
    runs = parts.swept_history().newest(wanted, limit=limit)
    if json:
        print_json([run_summary(run) for run in runs])
        return
    if not runs:
        chosen = vm or kind or state or schedule
        console().print(_("No such run.") if chosen else _("No run yet. Start one: kvm-backup backup VM"))
        return
    columns = [
        (_("RUN"), "left"),
        (_("VM"), "left"),
        (_("KIND"), "left"),
        (_("MODE"), "left"),
        (_("STATE"), "left"),
        (_("CREATED"), "left"),
    ]
    columns += [(_("TOOK"), "right"), (_("READ"), "right"), (_("STORED"), "right"), (_("ERROR"), "fold")]
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
    for title, text in _facts(found, details):
        print_fact(title, text)
    for line in (found.detail or "").splitlines():
        print_clause(told(_DETAILS[found.kind]), told(line))
    if found.error:
        print_clause(_("error"), told(found.error))
        print_clause(_("hint"), told(found.hint or ""))
    if found.steps:
        rows = [
            [
                cell(step_word(step["name"])),
                local_time(datetime.fromisoformat(step["started"])),
                _took(step["seconds"]),
            ]
            for step in details["steps"]
        ]
        console().print(table([(_("STEP"), "left"), (_("STARTED"), "left"), (_("TOOK"), "right")], rows))


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
    cancelled = application().work.runs.cancel(run)
    done = _("run {id} of {vm}: cancelled") if cancelled.state.final else _("run {id} of {vm}: asked to end")
    console().print(done.format(id=cell(cancelled.id), vm=cell(cancelled.vm_name)))


@app.command("retry")
def retry_run(run: RunArgument, json: JsonOption = False) -> None:
    """Do a run that has ended once more, as a new run."""
    parts = application()
    request = parts.requests.again(parts.work.runs.to_try_again(run), Asker(Trigger.RETRY))
    match request.task:
        case BackupTask():
            raise typer.Exit(exit_code(back_up_each(parts, [request], json=json), 1))
        case VerifyTask():
            verify_each(parts, [request], json=json)
        case PruneTask():
            prune_each(parts, [request], json=json)
        case ShipTask():
            ship_each(parts, [request], json=json)
        case RestoreTask():
            restore_now(parts, request, json=json)


def _row(run: Run, shown_id: str) -> list[str]:
    colour = _COLOURS.get(run.state, "default")
    seconds = run_summary(run)["seconds"]
    return [
        cell(shown_id),
        cell(run.vm_name),
        told(_KINDS[run.kind]),
        mode_word(run.mode or run.requested_mode),
        f"[{colour}]{told(STATE_WORDS[run.state])}[/{colour}]",
        _local(run.created),
        _took(seconds),
        _size(run, run.bytes_read),
        _size(run, run.bytes_stored),
        cell(told(run.error or "")),
    ]


def _facts(run: Run, details: dict[str, Any]) -> list[tuple[str, str]]:
    asked_for = _("{mode} (asked for)").format(mode=mode_word(run.requested_mode)) if run.requested_mode else None
    due = _("{time}, started late") if run.late else "{time}"
    copied = _("{done} of {total}").format(done=size(run.done), total=size(run.total))
    facts: list[tuple[str, str | None]] = [
        (_("run"), run.id),
        (_("vm"), run.vm_name),
        (_("state"), _state(run)),
        (_("asked by"), told(_TRIGGERS[run.trigger]) + (f" {run.schedule_name}" if run.schedule_name else "")),
        (_("host"), run.host),
        (_("repository"), run.repository),
        (_("kind"), told(_KINDS[run.kind])),
        (_("mode"), mode_word(run.mode) or asked_for),
        (_("asked for"), _in_words(run.task) if run.task else None),
        (_("due"), due.format(time=local_time(run.due)) if run.due else None),
        (_("created"), _at(run.created)),
        (_("started"), _at(run.started)),
        (_("ended"), _at(run.ended)),
        (_("again at"), _at(run.retry_at)),
        (_("took"), _took(details["seconds"]) or None),
        (_("copied"), copied if run.total else None),
        (_("read"), _size(run, run.bytes_read) or None),
        (_("stored"), _size(run, run.bytes_stored) or None),
        (_("rate"), f"{size(details['rate'])}/s" if details["rate"] else None),
        (_("point"), run.point),
        (_("consistency"), consistency_word(run.consistency) or None),
    ]
    return [(title, text) for title, text in facts if text is not None]


def _state(run: Run) -> str:
    parts = [told(STATE_WORDS[run.state])]
    if run.attempt > 1:
        parts.append(_("attempt {number}").format(number=run.attempt))
    if run.cancel_requested and not run.state.final:
        parts.append(_("asked to end"))
    return ", ".join(parts)


def _in_words(task: Task) -> str:
    match task:
        case BackupTask():
            return _("a {mode} point").format(mode=mode_word(task.mode))
        case VerifyTask():
            what = task.point or _("every point in {folder}").format(folder=task.folder)
            return _("{points}, deep").format(points=what) if task.deep else what
        case ShipTask():
            return _("what waits of {folder}").format(folder=task.folder)
        case PruneTask():
            return _("the points in {folder}").format(folder=task.folder)
        case RestoreTask():
            return told(restore_words(task))


def _size(run: Run, amount: int) -> str:
    """Nothing where there was nothing to count."""
    return size(amount) if amount or (run.kind is RunKind.BACKUP and run.point) else ""


def _print_entry(entry: dict[str, Any]) -> None:
    """A line of the log for people: the leading keys by their place, the others by name."""
    named = {key: value for key, value in entry.items() if key not in ("time", "level", "event", "run", "vm", "host")}
    texts = {key: told(value) if isinstance(value, str) else value for key, value in named.items()}
    rest = " ".join(f"{key}={value}" for key, value in texts.items() if value is not None)
    console().print(cell(f"{entry.get('time')} {entry.get('level', ''):<7} {entry.get('event')} {rest}".rstrip()))


def _shortened(ids: list[str]) -> list[str]:
    """As short as tells all of them apart, but eight characters at least."""
    length = _SHORTEST_ID
    while len({id_[:length] for id_ in ids}) < len(set(ids)):
        length += 1
    return [id_[:length] for id_ in ids]


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else local_time(moment)


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return shown_seconds(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
