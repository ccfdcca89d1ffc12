"""What every program of ours does around its commands: signals, errors, exit codes."""

import errno
import os
import sys
import traceback

import typer

from kvm_backup.cli.context import stop_on_signals
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import ensure_streams, print_error, print_problem, survive_any_encoding
from kvm_backup.cli.program import usage_prefix
from kvm_backup.cli.several import expand
from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_FAILED, KvmBackupError
from kvm_backup.domain.phrase import phrase

DEBUG_VARIABLE = "KVM_BACKUP_DEBUG"
_SAID_BY_TYPER = (
    phrase("Missing argument {name}."),
    phrase("Missing option {name}."),
    phrase("Missing command."),
    phrase("No such option: {name}"),
    phrase("No such option: {name} Did you mean {other}?"),
    phrase("No such command {name}."),
    phrase("Option {name} requires an argument."),
    phrase("Option {name} does not take a value."),
    phrase("Got unexpected extra argument(s) ({words})"),
    phrase("Invalid value for {name}: {problem}"),
    phrase("{value} is not one of {values}."),
    phrase("Input should be greater than or equal to {least}"),
    phrase("Input should be less than or equal to {most}"),
    phrase("Input should be a valid integer, unable to parse string as an integer"),
)
"""Its sentences, named here so that the catalogue has them."""
_INTERRUPTED = 130
"""What Typer makes of a KeyboardInterrupt."""
_OUTPUT_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Why an open file takes no more; whoever writes our own files makes errors of ours from these."""


def run(app: typer.Typer, arguments: list[str], program: str | None = None) -> None:
    """Run a program and end the process: every failure becomes one clear error and the exit code of docs/cli.md.

    `program` is what the help calls it, where that is not the file's name.
    """
    stop_on_signals()
    ensure_streams()
    survive_any_encoding()
    try:
        status = app(args=expand(arguments), prog_name=program, standalone_mode=False)
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
        status = _print_unexpected(error)
    if status == _INTERRUPTED:
        print_problem(_("interrupted"), _("'kvm-backup doctor --clean' removes what may be left."))
        status = EXIT_FAILED
    sys.exit(status if isinstance(status, int) else 0)


def _print_unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in _OUTPUT_LOST and error.filename is None:
        # What is still buffered must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_problem(
            _("the output cannot be written: {cause}").format(cause=error.strerror or error),
            _("Free space where it goes, or have it go elsewhere."),
        )
    else:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        print_problem(
            _("unexpected {name}: {problem}").format(name=type(error).__name__, problem=error),
            _("This is a fault of KVM Backup. Set {variable}=1 for the details and report them.").format(
                variable=DEBUG_VARIABLE
            ),
        )
    return EXIT_FAILED


def _print_usage_error(error: typer.TyperException) -> None:
    message = error.format_message().replace("Value error, ", "")
    if message.startswith(
        usage_prefix()
    ):  # a command that needs a subcommand was given none: the message is its help
        sys.stderr.write(f"{message}\n")
        return
    context = getattr(error, "ctx", None)
    hint = phrase("See '{command} --help'.", command=context.command_path if context else "kvm-backup")
    print_problem(told(message), told(hint))
