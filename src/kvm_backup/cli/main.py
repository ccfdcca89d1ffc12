"""The command `kvm-backup`."""

import os
import sys
import traceback
from typing import Annotated

import click
import typer

from kvm_backup import __version__
from kvm_backup.cli import backup, doctor, point, repository, restore, verify, vm
from kvm_backup.cli.context import stop_on_signals
from kvm_backup.cli.output import print_error
from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_FAILED, KvmBackupError

DEBUG_VARIABLE = "KVM_BACKUP_DEBUG"

app = typer.Typer(
    help="Back up running KVM/libvirt virtual machines as plain qcow2 chains that QEMU boots by itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 bad arguments, 3 some VMs failed, 4 not found.",
)
app.add_typer(vm.app, name="vm")
app.command("backup")(backup.backup)
app.add_typer(point.app, name="point")
app.command("verify")(verify.verify)
app.command("restore")(restore.restore)
app.add_typer(repository.app, name="repository")
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
    """Entry point: every failure becomes one clear error and the exit code of docs/cli.md."""
    stop_on_signals()
    try:
        status = app(standalone_mode=False)
    except KvmBackupError as error:
        print_error(error)
        status = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        status = EXIT_BAD_ARGUMENTS
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "kvm-backup"
        sys.stderr.write(f"error: {error.format_message()}\nHINT: See '{command} --help'.\n")
        status = EXIT_BAD_ARGUMENTS
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("error: interrupted\nHINT: 'kvm-backup doctor --clean' removes what may be left.\n")
        status = EXIT_FAILED
    except BrokenPipeError:
        # The reader went away (| head): nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort, so that no traceback reaches a user
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        sys.stderr.write(
            f"error: unexpected {type(error).__name__}: {error}\n"
            f"HINT: This is a fault of KVM Backup. Set {DEBUG_VARIABLE}=1 for the details and report them.\n"
        )
        status = EXIT_FAILED
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
