"""kvm-backup doctor"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.context import JsonOption, application
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_json, prose, with_sudo
from kvm_backup.config.settings import MANUAL, settings_file, unknown_variables
from kvm_backup.domain.errors import EXIT_DONE, EXIT_FAILED, KvmBackupError, SettingsError
from kvm_backup.domain.phrase import phrase
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import LocalRepository
from kvm_backup.runtime.heartbeat import moment_of, read_heartbeat
from kvm_backup.services.checks import Check, Health
from kvm_backup.services.doctor import (
    Remains,
    check_folders,
    check_hypervisor,
    check_programs,
    check_service,
    find_remains,
)

_MARKS = {Health.OK: "[green]✓[/green]", Health.WARNING: "[yellow]![/yellow]", Health.PROBLEM: "[red]✗[/red]"}


def doctor(
    clean: Annotated[bool, typer.Option("--clean", help="Remove what dead runs left behind.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what is missing, misconfigured, or left by dead runs."""
    remains: list[Remains] = []
    try:
        parts = application()
        checks = [*check_programs(), *_check_settings(), *check_hypervisor(lambda: parts.hypervisor)]
        usable = True
    except SettingsError as error:
        # Which folders to look at is not known then; the host itself can be checked all the same.
        bad = Check(phrase("settings"), Health.PROBLEM, error.message, error.hint)
        checks = [*check_programs(), bad, *check_hypervisor(Hypervisor.connect)]
        usable = False
    looks = usable and not any(check.name == "libvirt" and check.health is Health.PROBLEM for check in checks)
    if looks:
        openers = _openers(parts)
        checks += check_folders(parts.hypervisor, parts.folders, openers, parts.settings.backup.space_reserve)
        remains = list(find_remains(parts.hypervisor, parts.folders, _usable(openers), clean=clean))
    if usable:
        checks += [_check_service(parts), *parts.examining.checks()]
    sick = any(check.health is Health.PROBLEM for check in checks) or any(not one.removed for one in remains)
    if json:
        print_json({"checks": [asdict(check) for check in checks], "leftovers": [asdict(one) for one in remains]})
    else:
        _show(checks, remains, looked=looks)
    raise typer.Exit(EXIT_FAILED if sick else EXIT_DONE)


def _openers(parts: Application) -> list[Callable[[], LocalRepository]]:
    return [
        partial(parts.repository, name)
        for name in parts.repositories.listed()
        if not parts.repositories.would_make(name)
    ]


def _usable(openers: list[Callable[[], LocalRepository]]) -> list[LocalRepository]:
    found = []
    for opener in openers:
        try:
            found.append(opener())
        except KvmBackupError:
            continue  # reported as a check
    return found


def _check_settings() -> list[Check]:
    path = settings_file()
    checks = [Check(phrase("settings"), Health.OK, str(path) if path else phrase("defaults (no settings file)"))]
    checks += [
        Check(
            phrase("settings"),
            Health.WARNING,
            phrase("{name} is no setting and has no effect", name=name),
            phrase("See {manual}.", manual=MANUAL),
        )
        for name in unknown_variables()
    ]
    return checks


def _check_service(parts: Application) -> Check:
    beat = read_heartbeat(parts.settings.state_dir)
    return check_service(
        parts.schedules.all,
        running=parts.service_runs(),
        started=moment_of(beat.started) if beat else None,
        zone=parts.schedules.zone,
    )


def _show(checks: list[Check], remains: list[Remains], *, looked: bool) -> None:
    out = console()
    for check in checks:
        line = _("{name}: {detail}").format(name=cell(told(check.name)), detail=cell(told(check.detail)))
        out.print(f"{_MARKS[check.health]} {_beside_mark(line)}")
        if check.hint:
            out.print(prose(f"{_('HINT:')} {cell(with_sudo(check.detail, told(check.hint)))}", indent="    "))
    for one in remains:
        if one.removed:
            state = _("removed")
        else:
            state = _("failed: {cause}").format(cause=told(one.error)) if one.error else _("left behind")
        line = _("{name}: {detail}").format(name=cell(one.vm), detail=cell(told(one.detail)))
        mark = _MARKS[Health.OK if one.removed else Health.WARNING]
        out.print(f"{mark} {_beside_mark(f'{line} ({cell(one.name)}) - {cell(state)}')}")
    if any(not one.removed and not one.error for one in remains):
        hint = _("'kvm-backup doctor --clean' removes this; so does the next backup of the VM.")
        out.print(prose(f"{_('HINT:')} {hint}", indent="    "))
    if looked and not remains:
        out.print(f"{_MARKS[Health.OK]} {_('nothing is left behind by earlier runs')}")


def _beside_mark(line: str) -> str:
    """Broken between words, all of it right of the mark, whose markup has no width."""
    return prose(line, indent="  ").removeprefix("  ")
