"""kvm-backup restore"""

import shlex
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from kvm_backup.cli.choice import choose_point
from kvm_backup.cli.confirm import agrees
from kvm_backup.cli.context import JsonOption, RepositoryOption, application, stop_requested
from kvm_backup.cli.output import cell, console, print_json_line
from kvm_backup.cli.progress import EventView
from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.lookup import find_point
from kvm_backup.services.restore import restore_as_new_vm, restore_to_folder
from kvm_backup.services.restore_disks import Restored
from kvm_backup.services.restore_in_place import restore_in_place
from kvm_backup.services.vm_lock import hold_vm


def restore(
    point: Annotated[str, typer.Argument(metavar="POINT", help="Its id, VM/STAMP, or VM/latest.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Write disks and XML there.")] = None,
    image_format: Annotated[
        Literal["qcow2", "raw"], typer.Option("--format", help="Image format of --to.")
    ] = "qcow2",
    new_name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Make a new VM.")] = None,
    disks_in: Annotated[
        Path | None,
        typer.Option(
            "--disks-in",
            metavar="DIR",
            help="With --as: where the disks go. With --in-place: where those go that this host does not know.",
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start the new VM.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Bring the VM itself back to this point.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="With --in-place: stop the VM; its power is cut after 60 s.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --in-place: do not ask.")] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Restore any point: to a folder, as a new VM, or in place."""
    targets = (to is not None) + (new_name is not None) + in_place
    if targets > 1:
        raise BadArgumentError(
            "give only one of --to, --as and --in-place", hint="'kvm-backup restore --help' explains each."
        )
    if not targets:
        raise BadArgumentError(
            "say where to: --to DIR, --as NAME or --in-place", hint="'kvm-backup restore --help' explains each."
        )
    if (stop or yes) and not in_place:
        raise BadArgumentError("--stop and --yes go with --in-place", hint="Leave them out.")
    if start and new_name is None:
        raise BadArgumentError("--start goes with --as", hint="Leave it out.")
    if disks_in is not None and to is not None:
        raise BadArgumentError("--disks-in goes with --as and --in-place", hint="Leave it out.")
    parts = application()
    store = parts.repository(repository)
    manifest = choose_point(parts, store, point)
    wait = parts.settings.backup.lock_wait
    with EventView(json_lines=json) as view, ExitStack() as held:
        # A snapshot's state is on the host, where a backup's merge would change it while it is read.
        if in_place or manifest.mode is Mode.SNAPSHOT:
            held.enter_context(hold_vm(parts.folders.locks, manifest.vm_name, manifest.vm_uuid, wait=wait))
            manifest = find_point(store, manifest.id)
        if to is not None:
            done = restore_to_folder(
                store,
                manifest,
                to.absolute(),
                image_format,
                hypervisor=lambda: parts.hypervisor,
                listener=view,
                stop_requested=stop_requested,
            )
        elif new_name is not None:
            done = restore_as_new_vm(
                store,
                manifest,
                new_name,
                hypervisor=parts.hypervisor,
                folder=disks_in.absolute() if disks_in else None,
                start=start,
                listener=view,
                stop_requested=stop_requested,
            )
        else:
            done = restore_in_place(
                store,
                manifest,
                hypervisor=parts.hypervisor,
                disks_in=disks_in.absolute() if disks_in else None,
                stop=stop,
                confirm=(lambda _question: True) if yes else agrees,
                listener=view,
                stop_requested=stop_requested,
            )
    if json:
        print_json_line({"event": "restored"} | asdict(done))
    else:
        _show(done, in_place=in_place)


def _show(done: Restored, *, in_place: bool) -> None:
    out = console()
    written = sum(disk.bytes_written for disk in done.disks)
    where = " in place" if in_place else f" as VM {cell(done.name)}" if done.name else ""
    out.print(f"[green]✓[/green] {cell(done.point)} restored{where}: {show_size(written)} in {done.seconds:.1f} s")
    for disk in done.disks:
        out.print(f"  {cell(disk.disk)}: {cell(disk.path)} ({disk.image_format}, {show_size(disk.virtual_size)})")
    for file in done.files:
        out.print(f"  {cell(file)}")
    for notice in done.notices:
        out.print(f"[yellow]note:[/yellow] {cell(notice)}")
    if in_place:
        out.print(f"  {cell(done.vm)} is off; start it when you like: virsh start {cell(shlex.quote(done.vm))}")
