"""A schedule: what to run, when. Its fields are those of scheduled_backups.json, as the first version wrote it."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from kvm_backup.domain.point import Mode
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.timing import Timing, next_due, parse_timing


class ScheduleStatus(StrEnum):
    """What the last run of a schedule came to."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    FAILED = "failed"
    """Until a run succeeds."""
    LATE = "late"
    """The time passed while the service was down; the run is made up for."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule. Times are instants in UTC; `extra` are keys of the file that this program does not know."""

    id: str
    name: str
    vm_names: tuple[str, ...]
    schedule_type: str
    schedule_time: str
    backup_mode: Mode = Mode.INCREMENTAL
    enabled: bool = True
    last_run: datetime | None = None
    next_run: datetime | None = None
    status: ScheduleStatus = ScheduleStatus.SCHEDULED
    created_at: datetime | None = None
    repository: str | None = None
    """A configured name or an absolute path; None: the default one."""
    pre_script: tuple[str, ...] = ()
    post_script: tuple[str, ...] = ()
    """Words of a command line that is called before and after each run; empty where there is none."""
    retention: RetentionWish = field(default_factory=RetentionWish)
    ship_to: tuple[str, ...] | None = None
    """The remotes that its points go to; None: every one of its repository."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def timing(self) -> Timing:
        """Raises InvalidScheduleError."""
        return parse_timing(self.schedule_type, self.schedule_time)

    def planned_after(self, moment: datetime, zone: ZoneInfo) -> "Schedule":
        """The schedule with the next due time later than `moment`."""
        return replace(self, next_run=next_due(self.timing, moment, zone))

    def covers(self, vm_name: str, vm_uuid: str) -> bool:
        """Whether it backs this VM up."""
        return vm_name in self.vm_names or vm_uuid in self.vm_names

    def is_due(self, moment: datetime) -> bool:
        """Whether its planned time has come."""
        return self.enabled and self.next_run is not None and self.next_run <= moment


def is_plain(text: str) -> bool:
    """Whether a name that somebody chooses holds nothing that could steer a terminal, break a line or hide."""
    return is_one_line(text) and (text.isprintable() or not _holds(text, ("Cf",)))


def is_one_line(text: str) -> bool:
    """Whether a name that is there already can be worked with; what shows it escapes what is not printable.

    Some scripts and emoji need letters that are not seen, such as the zero-width joiner.
    """
    return text.isprintable() or not _holds(text, ("Cc", "Cs", "Zl", "Zp"))


def _holds(text: str, categories: tuple[str, ...]) -> bool:
    return any(unicodedata.category(letter) in categories for letter in text)
