"""kvm-backup schedule, which is schedule_manager.py too"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from kvm_backup.cli import schedule_view as view
from kvm_backup.cli.context import application
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_json, printable
from kvm_backup.cli.program import Program
from kvm_backup.domain.errors import BadArgumentError, CancelledError, DetachedError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.commands import Changes, NewSchedule, warnings_about

_SHOWN_TIMES = 4
_NO_VERDICT = (CancelledError, DetachedError)
"""How a run ends for this command that says nothing of whether backups work."""

app = Program(help=_("What is backed up, and when."))

IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help=_("A schedule's id, a beginning that only one id has, or its name."), show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help=_("Print JSON instead of text."))]
VmsHelp = _("Names of the VMs: --vms web db.")
TypeHelp = _("hourly, daily, weekly, monthly or cron.")
TimeHelp = _("MM, HH:MM, DAY:HH:MM, D:HH:MM, or five fields of cron, as the type wants it.")
NoSchedules = _('There are no schedules. Add one: schedule add "Nightly" --vms VM --type daily --time 02:00')
ModeHelp = _("incremental (the default), full or snapshot.")
RepositoryHelp = _("Where to: a repository's name or path; else the default one.")
PreScriptHelp = _("A command before each run, such as '/usr/local/bin/before web'; no shell reads it.")
PostScriptHelp = _("A command after each run.")
ShipToHelp = _("Repositories on other servers: --ship-to nas away; 'none'; 'default': every one there is.")

Repository = Annotated[str | None, typer.Option("--repository", "-r", metavar="NAME", help=RepositoryHelp)]
PreScript = Annotated[str | None, typer.Option("--pre-script", metavar="COMMAND", help=PreScriptHelp)]
PostScript = Annotated[str | None, typer.Option("--post-script", metavar="COMMAND", help=PostScriptHelp)]
ShipTo = Annotated[list[str] | None, typer.Option("--ship-to", metavar="NAME...", help=ShipToHelp)]
KeepLast = Annotated[str | None, typer.Option("--keep-last", metavar="N", help=_("Keep the newest N points."))]
KeepDaily = Annotated[str | None, typer.Option("--keep-daily", metavar="N", help=_("Keep one point of N days."))]
KeepWeekly = Annotated[str | None, typer.Option("--keep-weekly", metavar="N", help=_("Keep one of N weeks."))]
KeepMonthly = Annotated[str | None, typer.Option("--keep-monthly", metavar="N", help=_("Keep one of N months."))]
KeepYearly = Annotated[str | None, typer.Option("--keep-yearly", metavar="N", help=_("Keep one of N years."))]


@app.command("list", help=_("List the schedules."))
def list_schedules(json: JsonOption = False) -> None:
    service = application().schedules
    found = service.all()
    view.show_list(found, service.zone, service.clock(), json=json, empty=NoSchedules)
    _note(_unattended() if any(schedule.enabled for schedule in found) else [])


@app.command("add", help=_("Add a schedule."))
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help=_("What to call it."), show_default=False)],
    vms: Annotated[list[str], typer.Option("--vms", metavar="VM...", help=VmsHelp, show_default=False)],
    schedule_type: Annotated[str, typer.Option("--type", metavar="TYPE", help=TypeHelp, show_default=False)],
    time: Annotated[str, typer.Option("--time", metavar="TIME", help=TimeHelp, show_default=False)],
    mode: Annotated[str, typer.Option("--mode", metavar="MODE", help=ModeHelp, show_default=False)] = "incremental",
    repository: Repository = None,
    pre_script: PreScript = None,
    post_script: PostScript = None,
    ship_to: ShipTo = None,
    keep_last: KeepLast = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    json: JsonOption = False,
) -> None:
    new = NewSchedule(
        name,
        vms,
        schedule_type,
        time,
        mode,
        repository=repository or "",
        pre_script=pre_script or "",
        post_script=post_script or "",
        keep=_given(last=keep_last, daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly, yearly=keep_yearly),
        ship_to=ship_to or (),
    )
    added = application().schedules.add(new)
    _tell(_("schedule {id} added: {name}"), added, json=json, warnings=[*_warnings(added), *_unattended()])


@app.command("show", help=_("Show one schedule and its next times."))
def show(schedule_id: IdArgument, json: JsonOption = False) -> None:
    parts = application()
    service = parts.schedules
    found = service.find(schedule_id)
    if json:
        print_json(view.summary(found, service.zone))
        return
    try:
        upcoming = service.next_times(found, _SHOWN_TIMES)
    except KvmBackupError:
        upcoming = []  # a time that cannot be used, which the words for it tell
    view.show_one(found, service.zone, service.clock(), upcoming, parts.settings.remotes())


@app.command("edit", help=_("Change a schedule; what is not given stays."))
def edit(
    schedule_id: IdArgument,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help=_("What to call it."))] = None,
    vms: Annotated[list[str] | None, typer.Option("--vms", metavar="VM...", help=VmsHelp)] = None,
    schedule_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help=TypeHelp)] = None,
    time: Annotated[str | None, typer.Option("--time", metavar="TIME", help=TimeHelp)] = None,
    mode: Annotated[str | None, typer.Option("--mode", metavar="MODE", help=ModeHelp)] = None,
    repository: Repository = None,
    pre_script: PreScript = None,
    post_script: PostScript = None,
    ship_to: ShipTo = None,
    keep_last: KeepLast = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    json: JsonOption = False,
) -> None:
    changes = Changes(
        name,
        vms or None,
        schedule_type,
        time,
        mode,
        repository=repository,
        pre_script=pre_script,
        post_script=post_script,
        keep=_given(last=keep_last, daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly, yearly=keep_yearly),
        ship_to=ship_to or None,
    )
    if changes == Changes():
        raise BadArgumentError(
            phrase("nothing to change was given"),
            hint=phrase("Give an option, such as --time; --help shows them. Nothing was changed."),
        )
    changed = application().schedules.edit(schedule_id, changes)
    _tell(
        _("schedule {id} changed: {name}"), changed, json=json, warnings=_warnings(changed) if vms is not None else []
    )


@app.command("enable", help=_("Let a schedule run again."))
def enable(schedule_id: IdArgument, json: JsonOption = False) -> None:
    _tell(_("schedule {id} enabled: {name}"), application().schedules.enable(schedule_id), json=json)


@app.command("disable", help=_("Keep a schedule from running."))
def disable(schedule_id: IdArgument, json: JsonOption = False) -> None:
    _tell(_("schedule {id} disabled: {name}"), application().schedules.disable(schedule_id), json=json)


@app.command("remove", help=_("Remove a schedule; its restore points stay."))
def remove(schedule_id: IdArgument, json: JsonOption = False) -> None:
    service = application().schedules
    removed = service.remove(schedule_id)
    if json:
        print_json(view.summary(removed, service.zone))
        return
    console().print(f"[green]✓[/green] {_sentence(_('schedule {id} removed: {name}'), removed)}")


@app.command("run", help=_("Back its VMs up now; its next time stays."))
def run(schedule_id: IdArgument, json: JsonOption = False) -> None:
    run_now(application().schedules.find(schedule_id), json=json)


@app.command("next", help=_("Show the next times of a schedule."))
def next_times(
    schedule_id: IdArgument,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, max=1000, help=_("How many."))] = 5,
    json: JsonOption = False,
) -> None:
    service = application().schedules
    found = service.find(schedule_id)
    times = service.next_times(found, count)
    if json:
        print_json([{"utc": time.isoformat(), "local": time.astimezone(service.zone).isoformat()} for time in times])
        return
    out = console()
    if not found.enabled:
        out.print(f"[yellow]{_('It is disabled; it would run at these times:')}[/yellow]")
    for time in times:
        weekday = view.weekday(time.astimezone(service.zone).weekday())
        out.print(f"{cell(view.moment(time, service.zone, service.clock()))}, {weekday}")


@app.command("due", help=_("List the enabled schedules whose time has come."))
def due(json: JsonOption = False) -> None:
    service = application().schedules
    view.show_list(service.due(), service.zone, service.clock(), json=json, empty=_("No schedule is due."))


def run_now(schedule: Schedule, *, json: bool) -> None:
    """Back the VMs of a schedule up as `kvm-backup backup` does, by the service when it runs, and note how it went.

    Raises typer.Exit with the exit code of the backup.
    """
    from kvm_backup.cli.backup import back_up_each, exit_code  # here, since they need libvirt, and a list does not

    service = application().schedules
    started = service.clock().replace(microsecond=0)
    succeeded: bool | None = False
    try:
        requests = application().requests
        asked = [
            requests.backup(vm, schedule.backup_mode, schedule.repository, schedule=schedule)
            for vm in schedule.vm_names
        ]
        errors = back_up_each(application(), asked, json=json, parallel=application().settings.scheduler.parallel)
        if all(isinstance(error, _NO_VERDICT) for error in errors):
            succeeded = None if errors else True
    except KeyboardInterrupt:
        succeeded = None
        raise
    finally:
        service.record_run(schedule.id, started, succeeded=succeeded)
    raise typer.Exit(exit_code(errors, len(asked)))


def _given(**texts: str | None) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text is not None}


def _tell(sentence: str, schedule: Schedule, *, json: bool, warnings: Sequence[str] = ()) -> None:
    service = application().schedules
    if json:
        print_json(view.summary(schedule, service.zone) | {"warnings": list(warnings)})
    else:
        view.show_done(_sentence(sentence, schedule), schedule, service.zone, service.clock())
    _note(warnings)


def _note(warnings: Sequence[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"{_('note:')} {printable(warning)}\n")


def _sentence(sentence: str, schedule: Schedule) -> str:
    return sentence.format(id=cell(schedule.id[:8]), name=cell(schedule.name))


def _warnings(schedule: Schedule) -> list[str]:
    found = warnings_about(application().schedules, schedule)
    names = ", ".join(name for name, _error in found)
    error = next((error for _name, error in found if error is not None), None)
    if error is not None:
        return [
            _("whether these VMs exist could not be checked: {names} ({cause})").format(
                names=names, cause=told(error.message)
            )
        ]
    return [_("this host knows no VM called {name} yet").format(name=name) for name, _error in found]


def _unattended() -> list[str]:
    if application().service_runs():
        return []
    return [
        _("no service runs that would start schedules: 'systemctl enable --now kvm-backup' or 'kvm-backup serve'")
    ]


if __name__ == "__main__":
    from kvm_backup.cli.entry import run as run_program

    run_program(app, sys.argv[1:], "schedule_manager.py")
