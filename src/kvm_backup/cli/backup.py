"""kvm-backup backup"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, ignore_suspension, stop_requested
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, print_error, print_json_line, prose, seconds, size, unheard
from kvm_backup.cli.parallel import Wish, do_each
from kvm_backup.cli.progress import EventView
from kvm_backup.cli.ship import ship_now
from kvm_backup.cli.words import mode_word
from kvm_backup.domain.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    BadArgumentError,
    KvmBackupError,
    VmNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Consistency, Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.services import events


def backup(
    vms: Annotated[
        list[str] | None, typer.Argument(metavar="VM", help="Its name or UUID; several are backed up one by one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every VM of this host.")] = False,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            metavar="MODE",
            show_default=False,
            help="incremental (the default), full or snapshot.",
        ),
    ] = Mode.INCREMENTAL,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Make a restore point of each VM, running or not.

    Mode incremental saves what changed since the last point, or everything (and says why) when there is no point
    to build on. Mode full saves everything. Mode snapshot takes a libvirt snapshot, which stays on this host.

    Points go on to the repositories on other servers that the VM's points are shipped to: by the service when that
    runs, else by this command. A server that does not answer makes the exit code 3; the points wait for it.
    """
    parts = application()
    if vms and every:
        raise BadArgumentError(phrase("give only one of VM and --all"), hint=phrase("Leave out the names, or --all."))
    if not vms and not every:
        raise BadArgumentError(
            phrase("name the VMs to back up, or give --all"), hint=phrase("'kvm-backup vm list' shows their names.")
        )
    names = list(dict.fromkeys(vms)) if vms else [vm.name for vm in parts.hypervisor.list_vms()]
    asked = {name: parts.requests.backup(name, mode, repository) for name in names}
    _require_repositories(parts, asked.values())
    unknown = _refuse_unknown(parts, vms or [], mode, json=json)
    requests = [request for name, request in asked.items() if name not in unknown]
    errors = [*unknown.values(), *(back_up_each(parts, requests, json=json) if requests else [])]
    unshipped = ship_now(parts, parts.shipments.after_all(requests), json=json)
    raise typer.Exit(exit_code(errors, len(names)) or (EXIT_SOME_FAILED if unshipped else EXIT_DONE))


def _refuse_unknown(
    parts: Application, names: Sequence[str], mode: Mode, *, json: bool
) -> dict[str, VmNotFoundError]:
    """The names that libvirt does not know, which are told. A typo is no failed run; a schedule's lost VM is one."""
    unknown: dict[str, VmNotFoundError] = {}
    for name in dict.fromkeys(names):
        try:
            parts.hypervisor.state(name)
        except VmNotFoundError as error:
            unknown[name] = error
        except KvmBackupError:
            break  # libvirt does not answer, which the backup says
    for name, refused in unknown.items():
        if json:
            print_json_line(events.failed(name, mode.value, refused, 0.0).as_json())
        else:
            print_error(refused)
    return unknown


def back_up_each(
    parts: Application, requests: Sequence[RunRequest], *, json: bool, parallel: int = 1
) -> list[KvmBackupError]:
    """All runs, at most `parallel` at once, shown as they go; what went wrong with those that did not succeed."""
    _require_repositories(parts, requests)
    _ = parts.hypervisor
    ignore_suspension()
    errors: list[KvmBackupError] = []
    with EventView(json_lines=json) as view:

        def run(request: RunRequest, wish: Wish) -> None:
            finished, error = parts.work.start(request, listener=view, stop_requested=wish)
            if error is not None:
                errors.append(error)
                if not json:
                    with view.aside(), unheard():
                        print_error(error)
            elif not json:
                view.print(_line(finished))

        do_each(requests, run, stop_requested=stop_requested, parallel=parallel)
    return errors


def _require_repositories(parts: Application, requests: Iterable[RunRequest]) -> None:
    """What no VM's run could succeed without is said once, before the first begins."""
    for repository in {request.repository for request in requests}:
        parts.repository(repository)


def exit_code(errors: list[KvmBackupError], asked: int) -> int:
    """What a command ends with of whose runs some did not succeed."""
    if not errors:
        return EXIT_DONE
    if len(errors) < asked:
        return EXIT_SOME_FAILED
    codes = {error.exit_code for error in errors}
    return codes.pop() if len(codes) == 1 else EXIT_SOME_FAILED


def _line(finished: events.Finished) -> str:
    head = _("{vm}: {mode} point {point}").format(
        vm=cell(finished.vm), mode=mode_word(finished.mode), point=cell(finished.point)
    )
    took = {"consistency": _consistent(finished.consistency), "seconds": seconds(finished.seconds)}
    if finished.mode == Mode.SNAPSHOT:
        figures = _("{consistency} in {seconds}").format(**took)
    else:
        figures = _("{consistency}, read {read}, stored {stored} in {seconds} ({rate}/s)").format(
            read=size(finished.bytes_read),
            stored=size(finished.bytes_stored),
            rate=size(finished.bytes_read / finished.seconds if finished.seconds else 0),
            **took,
        )
    why = _("full because {reasons}").format(reasons=cell(told(finished.detail))) if finished.detail else ""
    return f"[green]✓[/green] {head}\n  {figures}" + (f"\n{prose(why, indent='  ')}" if why else "")


def _consistent(consistency: str | None) -> str:
    """Whether file systems were frozen for the point."""
    return {
        Consistency.FILESYSTEM: _("filesystem-consistent"),
        Consistency.CRASH: _("crash-consistent"),
    }.get(Consistency(consistency or Consistency.CRASH), "")
