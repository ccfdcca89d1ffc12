"""What can be done with schedules. A command and a button that do the same call the same method here."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from uuid import uuid4
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import (
    InvalidScheduleError,
    KvmBackupError,
    ScheduleChangedError,
    ScheduleNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.domain.timing import due_times, parse_timing
from kvm_backup.domain.vm import Vm
from kvm_backup.services.schedules import fields
from kvm_backup.services.schedules.file import ScheduleFile, Schedules
from kvm_backup.services.schedules.format import entry_of, options_of

SHORT_ID = 8
"""Characters of an id that lists show; new ids differ within them."""
_EDITED = ("name", "vm_names", "schedule_type", "schedule_time", "backup_mode")


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to make, as a user typed it. Empty texts, `keep` and `ship_to` are as in Changes; no word at all in
    `ship_to` is `default`.
    """

    name: str
    vm_names: Sequence[str]
    schedule_type: str
    schedule_time: str
    backup_mode: str
    repository: str = ""
    pre_script: str = ""
    post_script: str = ""
    keep: Mapping[str, str] = field(default_factory=dict)
    ship_to: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change about a schedule, as a user typed it; None leaves a field as it is.

    An empty `repository` is the default one again, an empty script is none. `keep` has numbers by kind, of
    RetentionWish; an empty one leaves that kind to the repository's rule again. `ship_to` has names of remotes, or
    one word: `none`, or `default` for every remote of the repository.
    """

    name: str | None = None
    vm_names: Sequence[str] | None = None
    schedule_type: str | None = None
    schedule_time: str | None = None
    backup_mode: str | None = None
    repository: str | None = None
    pre_script: str | None = None
    post_script: str | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    ship_to: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ScheduleService:
    """The use cases. `clock` gives the time in UTC; `list_vms` raises KvmBackupError while libvirtd is away.

    `lasting_repository` turns a repository's name or path into what names it also later and elsewhere, and raises
    InvalidScheduleError for one that is not configured. `check_ship_to` raises it for names of remotes to which
    nothing of a repository goes, whose lasting name it is given, None for the default one.

    Every method may raise SchedulesFileError and StorageError. Where one raises, nothing has been changed.
    """

    file: ScheduleFile
    zone: ZoneInfo
    clock: Callable[[], datetime]
    list_vms: Callable[[], Collection[Vm]]
    lasting_repository: Callable[[str], str]
    check_ship_to: Callable[[Sequence[str], str | None], None]

    def all(self) -> Schedules:
        """Every schedule, in the order of the file."""
        return self.file.read()

    def find(self, wanted: str) -> Schedule:
        """A schedule by its id, by a beginning that only one id has, or by its name. Raises ScheduleNotFoundError."""
        return find(self.file.read(), wanted)

    def add(self, new: NewSchedule) -> Schedule:
        """Make a schedule; it is due at its next time, today if that is still to come.

        Raises InvalidScheduleError.
        """
        now = self.clock()
        wanted = Schedule(
            id="",
            name=fields.name(new.name),
            vm_names=fields.vm_names(new.vm_names),
            schedule_type=new.schedule_type.strip().lower(),
            schedule_time=new.schedule_time.strip(),
            backup_mode=fields.mode(new.backup_mode),
            created_at=now.replace(microsecond=0),
            repository=self._repository(new.repository),
            pre_script=fields.script("pre_script", new.pre_script),
            post_script=fields.script("post_script", new.post_script),
            retention=fields.retention(RetentionWish(), new.keep),
            ship_to=self._ship_to(new.ship_to, new.repository),
        ).planned_after(now, self.zone)
        made = wanted

        def change(schedules: Schedules) -> Schedules:
            nonlocal made
            fields.refuse_taken_name(wanted.name, schedules)
            made = replace(wanted, id=_new_id(schedules))
            return (*schedules, made)

        self.file.update(change)
        return made

    def problems(self, new: NewSchedule, *, own_id: str = "") -> list[InvalidScheduleError]:
        """All that `add`, or `edit` of the schedule `own_id`, would refuse: they tell only the first of it."""

        def check_name() -> None:
            others = [schedule for schedule in self.file.read() if schedule.id != own_id]
            fields.refuse_taken_name(fields.name(new.name), others)

        checks: list[Callable[[], object]] = [
            check_name,
            lambda: fields.vm_names(new.vm_names),
            lambda: parse_timing(new.schedule_type, new.schedule_time),
            lambda: fields.mode(new.backup_mode),
            lambda: self._repository(new.repository),
            lambda: fields.script("pre_script", new.pre_script),
            lambda: fields.script("post_script", new.post_script),
            lambda: self._ship_to(new.ship_to, new.repository),
            *(partial(fields.retention, RetentionWish(), {kind: text}) for kind, text in new.keep.items()),
        ]
        found = []
        for check in checks:
            try:
                check()
            except InvalidScheduleError as problem:
                found.append(problem)
        return found

    def edit(self, wanted: str, changes: Changes, *, known: str | None = None) -> Schedule:
        """Change a schedule; it is planned anew when its type or time changes.

        `known` is the `revision` of the schedule that the user saw. Raises ScheduleNotFoundError,
        InvalidScheduleError, and ScheduleChangedError when it is another one by now.
        """

        def edited(schedule: Schedule, others: Schedules) -> Schedule:
            if known is not None and known != revision(schedule):
                raise ScheduleChangedError(schedule.name)
            new = replace(
                schedule,
                name=schedule.name if changes.name is None else fields.name(changes.name),
                vm_names=schedule.vm_names if changes.vm_names is None else fields.vm_names(changes.vm_names),
                schedule_type=_given(changes.schedule_type, schedule.schedule_type).lower(),
                schedule_time=_given(changes.schedule_time, schedule.schedule_time),
                backup_mode=schedule.backup_mode if changes.backup_mode is None else fields.mode(changes.backup_mode),
                repository=schedule.repository
                if changes.repository is None
                else self._repository(changes.repository),
                pre_script=_script("pre_script", changes.pre_script, schedule.pre_script),
                post_script=_script("post_script", changes.post_script, schedule.post_script),
                retention=fields.retention(schedule.retention, changes.keep),
                ship_to=schedule.ship_to if changes.ship_to is None else fields.ship_to(changes.ship_to),
            )
            if (new.ship_to, new.repository) != (schedule.ship_to, schedule.repository):
                self.check_ship_to(new.ship_to or (), new.repository)
            if changes.name is not None:
                fields.refuse_taken_name(new.name, others)
            moved = (new.schedule_type, new.schedule_time) != (schedule.schedule_type, schedule.schedule_time)
            return self._planned(new) if moved else new

        return self._change(wanted, edited)

    def enable(self, wanted: str) -> Schedule:
        """Let a schedule run again, from its next time on: what passed meanwhile is not made up for."""
        return self._change(
            wanted,
            lambda schedule, _: (
                schedule
                if schedule.enabled and schedule.next_run is not None
                else self._planned(replace(schedule, enabled=True))
            ),
        )

    def disable(self, wanted: str) -> Schedule:
        """Keep a schedule from running until it is enabled again."""
        return self._change(wanted, lambda schedule, _: replace(schedule, enabled=False, next_run=None))

    def remove(self, wanted: str) -> Schedule:
        """Forget a schedule; restore points stay. Raises ScheduleNotFoundError."""
        removed: list[Schedule] = []

        def change(schedules: Schedules) -> list[Schedule]:
            removed[:] = [find(schedules, wanted)]
            return [schedule for schedule in schedules if schedule.id != removed[0].id]

        self.file.update(change)
        return removed[0]

    def due(self) -> list[Schedule]:
        """Schedules that are enabled and whose time has come, the longest overdue first."""
        now = self.clock()
        found = [schedule for schedule in self.file.read() if schedule.is_due(now)]
        return sorted(found, key=lambda schedule: schedule.next_run or now)

    def next_times(self, schedule: Schedule, count: int) -> list[datetime]:
        """Its next times in UTC, whether it is enabled or not. Raises InvalidScheduleError."""
        return list(islice(due_times(schedule.timing, self.clock(), self.zone), count))

    def record_run(self, schedule_id: str, started: datetime, *, succeeded: bool | None) -> None:
        """Note that a schedule was run by hand; its next time stays. One that was removed meanwhile stays removed.

        `succeeded` is None where that is not known, as of runs that were cancelled: the status stays.
        """
        verdict = None if succeeded is None else ScheduleStatus.SCHEDULED if succeeded else ScheduleStatus.FAILED
        self.file.update(
            lambda schedules: [
                replace(schedule, last_run=started, status=verdict or schedule.status)
                if schedule.id == schedule_id
                else schedule
                for schedule in schedules
            ]
        )

    def record_start(self, schedule_id: str, started: datetime) -> None:
        """Note that runs of a schedule were asked for by hand; it stays failed until one succeeds."""

        def begun(schedule: Schedule) -> Schedule:
            failed = schedule.status is ScheduleStatus.FAILED
            return replace(schedule, last_run=started, status=schedule.status if failed else ScheduleStatus.RUNNING)

        self.file.update(lambda schedules: [begun(one) if one.id == schedule_id else one for one in schedules])

    def unknown_vms(self, schedule: Schedule) -> list[str]:
        """Its VMs that this host does not know, by name or UUID. Raises KvmBackupError while libvirtd is away."""
        vms = self.list_vms()
        known = {vm.name for vm in vms} | {vm.uuid for vm in vms}
        return [name for name in schedule.vm_names if name not in known]

    def _repository(self, text: str) -> str | None:
        return fields.repository(self.lasting_repository(text.strip())) if text.strip() else None

    def _ship_to(self, names: Sequence[str], repository: str) -> tuple[str, ...] | None:
        found = fields.ship_to(names)
        if found:
            self.check_ship_to(found, self._repository(repository))
        return found

    def _planned(self, schedule: Schedule) -> Schedule:
        planned = schedule.planned_after(self.clock(), self.zone)
        return planned if schedule.enabled else replace(planned, next_run=None)

    def _change(self, wanted: str, change: Callable[[Schedule, Schedules], Schedule]) -> Schedule:
        changed: list[Schedule] = []

        def change_one(schedules: Schedules) -> list[Schedule]:
            old = find(schedules, wanted)
            others = tuple(schedule for schedule in schedules if schedule.id != old.id)
            changed[:] = [change(old, others)]
            return [changed[0] if schedule.id == old.id else schedule for schedule in schedules]

        self.file.update(change_one)
        return changed[0]


def _script(name: str, new: str | None, old: tuple[str, ...]) -> tuple[str, ...]:
    return old if new is None else fields.script(name, new)


def _given(new: str | None, old: str) -> str:
    return old if new is None else new.strip()


def revision(schedule: Schedule) -> str:
    """What differs once somebody has edited the schedule; that it ran, or was disabled, makes no difference."""
    entry = entry_of(schedule)
    edited = {key: entry[key] for key in _EDITED} | options_of(schedule)
    return hashlib.sha256(json.dumps(edited, sort_keys=True).encode()).hexdigest()[:16]


def find(schedules: Schedules, wanted: str) -> Schedule:
    """A schedule by its id, by a beginning that only one id has, or by its name where only one has that.

    What an id begins with is never taken for a name. Raises ScheduleNotFoundError.
    """
    matches = [schedule for schedule in schedules if wanted and schedule.id.startswith(wanted)]
    matches = [schedule for schedule in matches if schedule.id == wanted] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ScheduleNotFoundError(
            phrase("{count} schedules have an id that begins with {wanted!r}", count=len(matches), wanted=wanted),
            hint=phrase("Give more of it: {ids}.", ids=_some_ids(matches)),
        )
    named = [schedule for schedule in schedules if schedule.name == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        raise ScheduleNotFoundError(
            phrase("{count} schedules are called {wanted!r}", count=len(named), wanted=wanted),
            hint=phrase("Give the id of one: {ids}.", ids=_some_ids(named)),
        )
    raise ScheduleNotFoundError(
        phrase("no schedule has the id or the name {wanted!r}", wanted=wanted[:100]),
        hint=phrase("'schedule list' shows the names and the beginning of each id."),
    )


def _some_ids(schedules: Sequence[Schedule]) -> str:
    return ", ".join(schedule.id for schedule in schedules[:5]) + (", …" if len(schedules) > 5 else "")


def short_ids(schedules: Schedules) -> dict[str, str]:
    """The beginning of each id that lists show: eight characters, more where another id begins with the same."""
    ids = sorted(schedule.id for schedule in schedules)
    short = {}
    for place, own in enumerate(ids):
        near = ids[max(place - 1, 0) : place] + ids[place + 1 : place + 2]
        length = SHORT_ID
        while length < len(own) and any(other.startswith(own[:length]) for other in near):
            length += 1
        short[own] = own[:length]
    return short


def _new_id(schedules: Schedules) -> str:
    taken = {schedule.id[:SHORT_ID] for schedule in schedules}
    while True:
        made = uuid4().hex
        if made[:SHORT_ID] not in taken:
            return made


def warnings_about(service: ScheduleService, schedule: Schedule) -> list[tuple[str, KvmBackupError | None]]:
    """VMs of a schedule that this host does not know; with the error, all of them, when libvirtd is away."""
    try:
        return [(name, None) for name in service.unknown_vms(schedule)]
    except KvmBackupError as error:
        return [(name, error) for name in schedule.vm_names]
