"""The command `kvm-backup`."""

import sys
from typing import Annotated

import typer

from kvm_backup import __version__
from kvm_backup.cli import (
    audit,
    backup,
    daemon,
    doctor,
    key,
    point,
    prune,
    repository,
    restore,
    schedule,
    serve,
    service,
    ship,
    token,
    user,
    verify,
    vm,
)
from kvm_backup.cli import run as runs
from kvm_backup.cli.entry import run
from kvm_backup.cli.program import Program

app = Program(
    help="Back up running KVM/libvirt VMs as qcow2 chains that QEMU boots by itself.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad arguments, 3 some failed, 4 not found.",
)
app.add_typer(vm.app, name="vm")
app.command("backup")(backup.backup)
app.add_typer(point.app, name="point")
app.command("verify")(verify.verify)
app.command("restore")(restore.restore)
app.command("prune")(prune.prune)
app.command("ship")(ship.ship)
app.add_typer(repository.app, name="repository")
app.add_typer(key.app, name="key")
app.add_typer(schedule.app, name="schedule")
app.add_typer(runs.app, name="run")
app.command("serve")(serve.serve)
app.add_typer(user.app, name="user")
app.add_typer(token.app, name="token")
app.add_typer(audit.app, name="audit")
app.command("daemon")(daemon.daemon)
app.command("install-service")(service.install)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kvm-backup {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Entry point."""
    run(app, sys.argv[1:])


if __name__ == "__main__":
    main()
