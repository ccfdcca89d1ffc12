"""The command `kvm-backup`."""

import os
import sys
import traceback
from typing import Annotated

import typer

from kvm_backup import __version__
from kvm_backup.cli import backup, doctor, point, repository, restore, verify, vm
from kvm_backup.cli.context import stop_on_signals
from kvm_backup.cli.output import ensure_streams, print_error, print_problem, survive_any_encoding
from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_FAILED, KvmBackupError

DEBUG_VARIABLE = "KVM_BACKUP_DEBUG"
_INTERRUPTED = 130
"""What Typer makes of a KeyboardInterrupt."""

app = typer.Typer(
    help="Back up running KVM/libvirt VMs as qcow2 chains that QEMU boots by itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 bad arguments, 3 some failed, 4 not found.",
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
    ensure_streams()
    survive_any_encoding()
    try:
        status = app(standalone_mode=False)
    except KvmBackupError as error:
        print_error(error)
        status = error.exit_code
    except typer.TyperException as error:
        _print_usage_error(error)
        status = EXIT_BAD_ARGUMENTS
    except (typer.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    except BrokenPipeError:
        # The reader went away (| head): nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort, so that no traceback reaches a user
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        print_problem(
            f"unexpected {type(error).__name__}: {error}",
            f"This is a fault of KVM Backup. Set {DEBUG_VARIABLE}=1 for the details and report them.",
        )
        status = EXIT_FAILED
    if status == _INTERRUPTED:
        print_problem("interrupted", "'kvm-backup doctor --clean' removes what may be left.")
        status = EXIT_FAILED
    sys.exit(status if isinstance(status, int) else 0)


def _print_usage_error(error: typer.TyperException) -> None:
    message = error.format_message().replace("Value error, ", "")
    if message.startswith("Usage:"):  # a command that needs a subcommand was given none: the message is its help
        sys.stderr.write(f"{message}\n")
        return
    context = getattr(error, "ctx", None)
    print_problem(message, f"See '{context.command_path if context else 'kvm-backup'} --help'.")


if __name__ == "__main__":
    main()
