"""Scripts before and after a run, as a schedule names them: argv lists, never a shell.

Each is told what happens in variables KVM_BACKUP_HOOK_… (docs/cli.md lists them). Not KVM_BACKUP_VM and the
like: those are settings, and a script that calls kvm-backup would change its settings by them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kvm_backup import process
from kvm_backup.domain.errors import CancelledError, HookError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.trusted_programs import open_to_others

VARIABLES = "KVM_BACKUP_HOOK_"


class HookEvent(StrEnum):
    """What a script is called for."""

    BEFORE = "before"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Happening:
    """What a script is told; what is not known is an empty variable."""

    event: HookEvent
    vm: str
    run: str
    mode: str
    repository: str
    schedule: str = ""
    schedule_id: str = ""
    due: str = ""
    point: str = ""
    error: str = ""
    error_code: str = ""

    def variables(self) -> dict[str, str]:
        # A zero byte cannot be in a variable, and a name from a file may hold one.
        return {
            f"{VARIABLES}{name.upper()}": str(getattr(self, name)).replace("\0", "")
            for name in self.__dataclass_fields__
        }


def run_before(
    argv: tuple[str, ...], happening: Happening, *, timeout: float, stop_requested: Callable[[], bool]
) -> None:
    """Run the script before a run, for at most `timeout` seconds. Raises HookError, CancelledError."""
    try:
        _run(argv, happening, timeout, stop_requested)
    except HookError as error:
        raise HookError(
            phrase("the script before the run failed: {cause}", cause=error.message),
            hint=phrase("Nothing was begun. {hint}", hint=error.hint),
            vm=happening.vm,
        ) from error


def run_after(
    argv: tuple[str, ...], happening: Happening, *, timeout: float, stop_requested: Callable[[], bool]
) -> str | None:
    """Run the script after a run; what went wrong with it, for a notice: the run itself is over."""
    try:
        _run(argv, happening, timeout, stop_requested)
    except KvmBackupError as error:
        return phrase("the script after the run failed: {cause}", cause=error.message)
    return None


def _run(argv: tuple[str, ...], happening: Happening, timeout: float, stop_requested: Callable[[], bool]) -> None:
    weak = open_to_others(argv[0])
    if weak is not None:
        raise HookError(
            phrase("{program} is not run: others may change {path}", program=argv[0], path=weak),
            hint=phrase(
                "It would run with the rights of this service. Let it and its folders belong to root, and take from "
                "others the right to write: chown root and chmod go-w."
            ),
            vm=happening.vm,
        )
    try:
        done = process.run_script(
            argv, timeout=timeout, environment=happening.variables(), stop_requested=stop_requested
        )
    except KvmBackupError as error:
        raise HookError(error.message, hint=error.hint, vm=happening.vm) from error
    if done.status == 0:
        return
    if stop_requested():
        raise CancelledError(
            phrase("the script {program} was ended with the run", program=argv[0]),
            hint=phrase("Start the run again."),
        )
    said = process.last_line(done.stdout)
    raise HookError(
        phrase("{program} ended with {status} and said: {said}", program=argv[0], status=done.status, said=said)
        if said
        else phrase("{program} ended with {status}", program=argv[0], status=done.status),
        hint=phrase("Try it by hand; it is given what happens in variables KVM_BACKUP_HOOK_…."),
        vm=happening.vm,
    )
