"""What stands in the form of a schedule: texts as they were typed, so that none of them is lost by an error."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from starlette.datastructures import FormData, QueryParams

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import ScheduleType
from kvm_backup.services.schedules import words
from kvm_backup.services.schedules.commands import Changes, NewSchedule, revision
from kvm_backup.web.pages.schedule_words import RETENTION_KINDS

INHERIT, OWN = "inherit", "own"
EVERYWHERE, CHOSEN, NOWHERE = "default", "chosen", "none"
"""The first and the last as `ship_to` of a schedule is given (services.schedules.commands)."""
FIELDS = {
    "vm_names": "vms",
    "schedule_type": "type",
    "schedule_time": "time",
    "backup_mode": "mode",
}
"""The form's names of fields that the service calls otherwise."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One form. Of the parts of the time only those count that the type has; `other_vms` has a name a line."""

    name: str = ""
    vms: tuple[str, ...] = ()
    other_vms: str = ""
    type: str = ScheduleType.DAILY.value
    clock: str = "02:00"
    weekday: str = "sunday"
    day: str = "1"
    minute: str = "0"
    cron: str = ""
    mode: str = "incremental"
    repository: str = ""
    retention: str = INHERIT
    keep: Mapping[str, str] = field(default_factory=dict)
    ship: str = EVERYWHERE
    ship_to: tuple[str, ...] = ()
    pre_script: str | None = None
    post_script: str | None = None
    """None where the form has no such field."""
    revision: str = ""

    @classmethod
    def from_form(cls, form: FormData | QueryParams) -> Self:
        """What a browser sent; files are no texts of ours."""

        def text(name: str, default: str = "") -> str:
            value = form.get(name, default)
            return value if isinstance(value, str) else default

        def script(name: str) -> str | None:
            return text(name) if name in form else None

        return cls(
            name=text("name"),
            vms=tuple(dict.fromkeys(name for name in form.getlist("vms") if isinstance(name, str))),
            other_vms=text("other_vms"),
            type=text("type"),
            clock=text("clock"),
            weekday=text("weekday"),
            day=text("day"),
            minute=text("minute"),
            cron=text("cron"),
            mode=text("mode"),
            repository=text("repository"),
            retention=OWN if text("retention") == OWN else INHERIT,
            keep={kind: text(f"keep_{kind}") for kind in RETENTION_KINDS},
            ship=text("ship") if text("ship") in (CHOSEN, NOWHERE) else EVERYWHERE,
            ship_to=tuple(dict.fromkeys(name for name in form.getlist("ship_to") if isinstance(name, str))),
            pre_script=script("pre_script"),
            post_script=script("post_script"),
            revision=text("revision"),
        )

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        """The form that shows a schedule."""
        wished = {kind: getattr(schedule.retention, kind) for kind in RETENTION_KINDS}
        given = {kind: "" if count is None else str(count) for kind, count in wished.items()}
        return cls(
            name=schedule.name,
            vms=schedule.vm_names,
            mode=schedule.backup_mode.value,
            repository=schedule.repository or "",
            retention=OWN if any(given.values()) else INHERIT,
            keep=given,
            ship=EVERYWHERE if schedule.ship_to is None else CHOSEN if schedule.ship_to else NOWHERE,
            ship_to=schedule.ship_to or (),
            pre_script=shlex.join(schedule.pre_script),
            post_script=shlex.join(schedule.post_script),
            revision=revision(schedule),
            **_time_fields(schedule),
        )

    @property
    def vm_names(self) -> tuple[str, ...]:
        """The chosen ones, and those that were typed."""
        typed = (line.strip() for line in self.other_vms.splitlines())
        return tuple(dict.fromkeys([*self.vms, *filter(None, typed)]))

    @property
    def schedule_time(self) -> str:
        """The time as the service wants it for this type."""
        return {
            ScheduleType.HOURLY: self.minute,
            ScheduleType.DAILY: self.clock,
            ScheduleType.WEEKLY: f"{self.weekday}:{self.clock}",
            ScheduleType.MONTHLY: f"{self.day}:{self.clock}",
            ScheduleType.CRON: self.cron,
        }.get(ScheduleType(self.type) if self.type in list(ScheduleType) else ScheduleType.CRON, self.cron)

    @property
    def timing(self) -> Schedule:
        """A schedule that is nothing but this type and time."""
        return Schedule("", "", (), self.type, self.schedule_time)

    @property
    def wishes(self) -> dict[str, str]:
        """The numbers by kind; empty ones leave a kind to the repository's rule."""
        own = self.retention == OWN
        return {kind: self.keep.get(kind, "") if own else "" for kind in RETENTION_KINDS}

    @property
    def shipped_to(self) -> tuple[str, ...]:
        """Where its points are shipped, as the service takes it; none that is chosen is nowhere."""
        if self.ship == CHOSEN:
            return self.ship_to or (NOWHERE,)
        return (self.ship,)

    def new(self) -> NewSchedule:
        """The schedule to make."""
        return NewSchedule(
            self.name,
            self.vm_names,
            self.type,
            self.schedule_time,
            self.mode,
            repository=self.repository,
            pre_script=self.pre_script or "",
            post_script=self.post_script or "",
            keep=self.wishes,
            ship_to=self.shipped_to,
        )

    def changes(self) -> Changes:
        """What to make of an existing schedule."""
        return Changes(
            name=self.name,
            vm_names=self.vm_names,
            schedule_type=self.type,
            schedule_time=self.schedule_time,
            backup_mode=self.mode,
            repository=self.repository,
            pre_script=self.pre_script,
            post_script=self.post_script,
            keep=self.wishes,
            ship_to=self.shipped_to,
        )


def _time_fields(schedule: Schedule) -> dict[str, Any]:
    """The fields of a schedule's time; those of a time that cannot be used are empty."""
    kind = schedule.schedule_type.strip().lower()
    try:
        timing = schedule.timing
    except InvalidScheduleError:
        return {"type": kind, "clock": "", "minute": "", "cron": schedule.schedule_time}
    if timing.type is ScheduleType.CRON:
        return {"type": kind, "cron": timing.expression}
    if timing.type is ScheduleType.HOURLY:
        return {"type": kind, "minute": str(timing.minute)}
    return {
        "type": kind,
        "clock": f"{timing.hour:02}:{timing.minute:02}",
        "weekday": words.WEEKDAYS[timing.weekday].lower(),
        "day": str(timing.day or 1),
    }
