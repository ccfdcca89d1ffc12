"""kvm-backup vm"""

from kvm_backup.cli.context import JsonOption, RepositoryOption, application
from kvm_backup.cli.output import cell, console, print_json, table
from kvm_backup.cli.program import Program
from kvm_backup.domain.sizes import show_size
from kvm_backup.services.queries import vm_summary

app = Program("The virtual machines of this host.")


@app.command("list")
def list_vms(repository: RepositoryOption = None, json: JsonOption = False) -> None:
    """List the VMs, their disks, and the newest point of each."""
    parts = application()
    store = parts.repository(repository)
    parts.catalogue.refresh(store)
    rows = [
        vm_summary(vm, parts.excluded_disks(vm), parts.catalogue.points(store, vm.uuid))
        for vm in parts.hypervisor.list_vms()
    ]
    if json:
        print_json(rows)
        return
    if not rows:
        console().print("libvirt knows no VM on this host.")
        return
    console().print(
        table(
            [("VM", "fold"), ("STATE", "left"), ("DISKS", "left"), ("LAST POINT (UTC)", "left")],
            [
                [cell(row["name"]), row["state"], _disks(row["disks"]), _when(row["last_point_created"])]
                for row in rows
            ],
        )
    )


def _disks(disks: list[dict[str, object]]) -> str:
    return "\n".join(
        f"{cell(disk['target'])} {cell(disk['format'])} "
        + (f"[dim]left out: {disk['left_out']}[/dim]" if disk["left_out"] else _size(disk["virtual_size"]))
        for disk in disks
    )


def _size(size: object) -> str:
    return show_size(size) if isinstance(size, int) else "size unknown"


def _when(created: str | None) -> str:
    return created[:19].replace("T", " ") if created else "[yellow]never[/yellow]"
