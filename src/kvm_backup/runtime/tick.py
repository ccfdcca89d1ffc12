"""One tick: what is due is put into the queue, and planned anew.

A due time becomes one run for each VM, whoever ticks and how often: the run's id is made of the schedule, the due
time and the VM. First the runs are queued, then the schedule is moved on: a tick that dies in between is repeated.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from kvm_backup.database.history import History
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.request import RunRequest, scheduled_run_id
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.domain.task import BackupTask
from kvm_backup.services.schedules.file import ScheduleFile, Schedules

LATE_AFTER = timedelta(minutes=2)
"""A due time that is longer ago passed while nobody ticked."""


@dataclass(slots=True)
class Tick:
    """What one tick did: ids of the runs that it queued, and the due times that it left out, with the reason."""

    queued: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Scheduler:
    """Ticks. `clock` gives the time in UTC; `say` is told what a person should know, once for each cause.

    `enqueue` is given any number of requests; that one is queued already changes nothing. `repository` is that of
    schedules which name none.
    """

    file: ScheduleFile
    history: History
    enqueue: Callable[..., None]
    zone: ZoneInfo
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    host: str
    repository: str
    catch_up: bool
    _last_tick: datetime | None = None
    _schedules: int = 0
    _told: set[str] = field(default_factory=set)
    _moved: dict[str, tuple[datetime | None, datetime | None]] = field(default_factory=dict)
    """For a file that cannot be written: by schedule, its next time as the file has it and as it should be."""

    def tick(self) -> Tick:
        """Queue what is due now. Raises DatabaseError when the history cannot be asked; nothing is lost then."""
        now = self.clock()
        schedules, problem = self.file.read_or_last_good()
        self._tell_once("file", problem)
        self._tell_when_gone(schedules)
        schedules = tuple(self._as_moved(schedule) for schedule in schedules)
        # Planned times are trusted, except where the clock may have been wrong when they were computed.
        doubtful = self._last_tick is None or now < self._last_tick
        after: dict[str, tuple[Schedule, Schedule]] = {}
        for schedule in schedules:
            planned = self._corrected(schedule, now) if doubtful or schedule.next_run is None else schedule
            if planned != schedule:
                after[schedule.id] = (schedule, planned)
        done = Tick()
        due = [schedule for schedule in schedules if schedule.is_due(now) and self._can_be_planned(schedule)]
        going = self._going() if due else {}
        wanted = {schedule.id: list(self._requests(schedule, now, going, done)) for schedule in due}
        states = self.history.create_all([one.as_run() for requests in wanted.values() for one in requests])
        for schedule in due:
            # What has ended was done before: the clock was set back, or the file could not be written then.
            wanted[schedule.id] = [one for one in wanted[schedule.id] if not states[one.run_id].final]
            done.queued += [one.run_id for one in wanted[schedule.id]]
            after[schedule.id] = (schedule, self._moved_on(schedule, now, bool(wanted[schedule.id])))
        self.enqueue(*(one for requests in wanted.values() for one in requests))
        if after or self._moved:
            self._move_on(after)
        self._last_tick = now  # only now: what a tick that failed would have corrected, the next one has to
        return done

    def _requests(
        self, schedule: Schedule, now: datetime, going: dict[tuple[str, str], str], done: Tick
    ) -> Iterator[RunRequest]:
        """The runs of a schedule that is due."""
        assert schedule.next_run is not None
        due, late = schedule.next_run, _is_late(schedule, now)
        if late and not self.catch_up:
            self._skip(done, f"{schedule.name!r} missed its time {due.isoformat()}, and scheduler.catch_up is off")
            return
        if not schedule.vm_names:
            self._skip(done, f"{schedule.name!r} is due and names no VM")
        for vm in dict.fromkeys(schedule.vm_names):
            run_id = scheduled_run_id(self.host, schedule.id, due, vm)
            earlier = going.get((schedule.id, vm))
            if earlier is not None and earlier != run_id:
                self._skip(done, f"{schedule.name!r} is due for {vm}, whose run {earlier} has not ended; left out")
                continue
            yield RunRequest(
                run_id=run_id,
                host=self.host,
                vm=vm,
                task=BackupTask(schedule.backup_mode),
                repository=schedule.repository or self.repository,
                trigger=Trigger.SCHEDULE,
                created=now,
                schedule_id=schedule.id,
                schedule_name=schedule.name,
                due=due,
                late=late,
                pre_script=schedule.pre_script,
                post_script=schedule.post_script,
            )

    def _moved_on(self, schedule: Schedule, now: datetime, queued: bool) -> Schedule:
        """A schedule that was due, as it goes on; `queued` tells whether that began runs."""
        moved = schedule.planned_after(now, self.zone)
        if not queued:
            return moved
        if schedule.status is ScheduleStatus.FAILED:
            return replace(moved, last_run=now)  # it stays failed until a run succeeds
        status = ScheduleStatus.LATE if _is_late(schedule, now) else ScheduleStatus.RUNNING
        return replace(moved, last_run=now, status=status)

    def _going(self) -> dict[tuple[str, str], str]:
        return {
            (run.schedule_id, run.vm_name): run.id
            for run in self.history.unfinished_of(self.host)
            if run.schedule_id is not None
        }

    def _corrected(self, schedule: Schedule, now: datetime) -> Schedule:
        """A schedule whose next time is missing, or later than the next one there is, is planned anew."""
        if not schedule.enabled or not self._can_be_planned(schedule):
            return schedule
        planned = schedule.planned_after(now, self.zone)
        assert planned.next_run is not None
        return planned if schedule.next_run is None or schedule.next_run > planned.next_run else schedule

    def _can_be_planned(self, schedule: Schedule) -> bool:
        try:
            _ = schedule.timing
        except KvmBackupError as error:
            self._tell_once(
                f"{schedule.id} {schedule.schedule_type} {schedule.schedule_time}", error, f"{schedule.name!r}: "
            )
            return False
        return True

    def _move_on(self, after: dict[str, tuple[Schedule, Schedule]]) -> None:
        def change(schedules: Schedules) -> Iterator[Schedule]:
            for held in map(self._as_moved, schedules):
                known, moved = after.get(held.id, (held, held))
                # What somebody changed meanwhile stays; only what we computed from is replaced.
                if held.enabled and held.next_run == known.next_run:
                    yield replace(held, next_run=moved.next_run, last_run=moved.last_run, status=moved.status)
                else:
                    yield held

        try:
            self.file.update(change)
        except KvmBackupError as error:
            self._tell_once("update", error)
            for known, moved in after.values():
                stale = self._moved[known.id][0] if known.id in self._moved else known.next_run
                self._moved[known.id] = (stale, moved.next_run)
        else:
            self._told.discard("update")
            self._moved.clear()

    def _as_moved(self, schedule: Schedule) -> Schedule:
        stale, moved = self._moved.get(schedule.id, (None, None))
        if schedule.id not in self._moved or schedule.next_run != stale:
            return schedule
        return replace(schedule, next_run=moved)

    def _tell_when_gone(self, schedules: Schedules) -> None:
        if schedules:
            self._schedules = len(schedules)
            self._told.discard("gone")
        elif self._schedules and "gone" not in self._told and not self.file.path.exists():
            self._told.add("gone")
            self.say(f"{self.file.path} is gone; the {self._schedules} schedules that it held run no more")

    def _skip(self, done: Tick, message: str) -> None:
        done.skipped.append(message)
        self.say(message)

    def _tell_once(self, what: str, problem: KvmBackupError | None, prefix: str = "") -> None:
        """Say a problem when it comes, not each minute; when it is gone it may be told again."""
        if problem is None:
            self._told.discard(what)
        elif what not in self._told:
            self._told.add(what)
            self.say(f"{prefix}{problem.message}. {problem.hint}")


def _is_late(schedule: Schedule, now: datetime) -> bool:
    return schedule.next_run is not None and now - schedule.next_run >= LATE_AFTER
