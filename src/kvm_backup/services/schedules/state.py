"""What a schedule is doing, in one word."""

from collections.abc import Collection
from enum import StrEnum

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.schedule import Schedule, ScheduleStatus


class ScheduleState(StrEnum):
    """What lists show of a schedule; the first that is true."""

    INVALID = "invalid"
    """Its type or time cannot be used, so it does not run."""
    DISABLED = "disabled"
    FAILED = "failed"
    """Until a run succeeds."""
    LATE = "late"
    """A time that had passed while the service was down is being made up for."""
    RUNNING = "running"
    SCHEDULED = "scheduled"


def state_of(schedule: Schedule, running: Collection[str] = ()) -> ScheduleState:
    """`running` are the ids of schedules whose runs go on now, where that is known."""
    try:
        _ = schedule.timing
    except InvalidScheduleError:
        return ScheduleState.INVALID
    if not schedule.enabled:
        return ScheduleState.DISABLED
    if schedule.status is ScheduleStatus.SCHEDULED and schedule.id in running:
        return ScheduleState.RUNNING
    return ScheduleState(schedule.status.value)
