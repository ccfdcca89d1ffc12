"""A backup in this process between the scripts that its request names."""

from collections.abc import Callable
from dataclasses import replace

from kvm_backup.domain.errors import CancelledError, KvmBackupError
from kvm_backup.domain.request import RunRequest
from kvm_backup.services import events, hooks

Outcome = tuple[events.Finished, KvmBackupError | None]


def run_with_scripts(
    request: RunRequest,
    back_up: Callable[[], Outcome],
    *,
    listener: events.Listener,
    stop_requested: Callable[[], bool],
    timeout: float,
) -> Outcome:
    """Call the script before, back up, call the script after; `timeout` is in seconds, for each script.

    When the script before fails nothing is begun, and the script after is told so. What goes wrong with the script
    after is a notice: the run itself is over.
    """
    told = hooks.Happening(
        event=hooks.HookEvent.BEFORE,
        vm=request.vm,
        run=request.run_id,
        mode=request.requested_mode or "",
        repository=request.repository,
        schedule=request.schedule_name or "",
        schedule_id=request.schedule_id or "",
    )
    try:
        if request.pre_script:
            hooks.run_before(request.pre_script, told, timeout=timeout, stop_requested=stop_requested)
    except KvmBackupError as error:
        finished, problem = events.failed(request.vm, request.requested_mode, error, 0.0), error
        listener(finished)
        outcome: Outcome = (finished, problem)
    else:
        outcome = back_up()
    if request.post_script:
        said = hooks.run_after(
            request.post_script, _after(told, outcome), timeout=timeout, stop_requested=lambda: False
        )
        if said is not None:
            listener(events.Notice(request.vm, said))
    return outcome


def _after(told: hooks.Happening, outcome: Outcome) -> hooks.Happening:
    finished, error = outcome
    event = hooks.HookEvent.SUCCEEDED
    if error is not None:
        event = hooks.HookEvent.CANCELLED if isinstance(error, CancelledError) else hooks.HookEvent.FAILED
    return replace(
        told,
        event=event,
        mode=finished.mode or told.mode,
        point=finished.point or "",
        error=finished.error or "",
        error_code=finished.error_code or "",
    )
