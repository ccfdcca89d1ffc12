"""The status that a schedule shows, made of what its runs came to."""

from collections.abc import Iterator
from dataclasses import replace

from kvm_backup.database.history import History, RunFilter
from kvm_backup.domain.errors import InterruptedRunError
from kvm_backup.domain.run import Run, RunState
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.services.schedules.file import ScheduleFile, Schedules

_RUNS_LOOKED_AT = 200


def settle_schedule(file: ScheduleFile, history: History, schedule_id: str | None) -> None:
    """Write the status of a schedule after one of its runs has ended or waits.

    Raises DatabaseError, and what the file raises.
    """
    if schedule_id is None:
        return
    which = RunFilter(schedule_id=schedule_id, until=history.horizon())
    runs = history.newest(which, limit=_RUNS_LOOKED_AT)

    def change(schedules: Schedules) -> Iterator[Schedule]:
        for schedule in schedules:
            yield replace(schedule, status=status_of(schedule, runs)) if schedule.id == schedule_id else schedule

    file.update(change)


def status_of(schedule: Schedule, runs: list[Run]) -> ScheduleStatus:
    """Failed when the last verdict about any of its VMs is a failure; a new run is none before it has succeeded.

    `runs` are those of the schedule, newest first. A run that was cancelled says nothing.
    """
    verdicts: dict[str, RunState] = {}
    going = False
    for run in runs:
        if run.vm_name not in schedule.vm_names and run.vm_uuid not in schedule.vm_names:
            continue
        # A service that was stopped leaves its runs waiting for its next start: no failure.
        suspended = run.state is RunState.WAITING and run.error_code == InterruptedRunError.code
        going = going or suspended or run.state in (RunState.QUEUED, RunState.RUNNING)
        if not suspended and run.state in (
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.INTERRUPTED,
            RunState.WAITING,
        ):
            verdicts.setdefault(run.vm_name, run.state)
    if any(state is not RunState.SUCCEEDED for state in verdicts.values()):
        return ScheduleStatus.FAILED
    if going:
        return ScheduleStatus.LATE if schedule.status is ScheduleStatus.LATE else ScheduleStatus.RUNNING
    return ScheduleStatus.SCHEDULED
