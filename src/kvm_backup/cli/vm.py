"""kvm-backup vm"""

from typing import Any

from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.language import _
from kvm_backup.cli.output import cell, console, print_json, table
from kvm_backup.cli.output import size as shown_size
from kvm_backup.cli.program import Program
from kvm_backup.cli.words import left_out_word
from kvm_backup.domain.vm import VmState
from kvm_backup.services.queries import vm_summary

app = Program("The virtual machines of this host.")


@app.command("list")
def list_vms(repository: RepositoryOption = None, json: JsonOption = False) -> None:
    """List the VMs, their disks, and the newest point of each."""
    parts = application()
    store = parts.store(repository).view
    parts.catalogue.refresh(store)
    rows = [
        vm_summary(vm, parts.rules.excluded_disks(vm), parts.catalogue.points(store, vm.uuid))
        for vm in parts.hypervisor.list_vms()
    ]
    if json:
        print_json(rows)
        return
    if not rows:
        console().print(_("libvirt knows no VM on this host."))
        return
    console().print(
        table(
            [(_("VM"), "fold"), (_("STATE"), "left"), (_("DISKS"), "left"), (_("LAST POINT (UTC)"), "left")],
            [
                [cell(row["name"]), _state(row["state"]), _disks(row["disks"]), _when(row["last_point_created"])]
                for row in rows
            ],
        )
    )


def _state(state: str) -> str:
    return {
        VmState.RUNNING: _("powered on"),
        VmState.PAUSED: _("paused"),
        VmState.STOPPED: _("stopped"),
        VmState.CRASHED: _("crashed"),
    }[VmState(state)]


def _left_out(why: str) -> str:
    return _("left out: {why}").format(why=left_out_word(why))


def _disks(disks: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{cell(disk['target'])} {cell(disk['format'])} "
        + (f"[dim]{_left_out(disk['left_out'])}[/dim]" if disk["left_out"] else _size(disk["virtual_size"]))
        for disk in disks
    )


def _size(size: object) -> str:
    return shown_size(size) if isinstance(size, int) else _("size unknown")


def _when(created: str | None) -> str:
    return created[:19].replace("T", " ") if created else f"[yellow]{_('never')}[/yellow]"
