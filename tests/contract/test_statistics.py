"""Sums by day and samples of space, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import URL, text

from kvm_backup.database.engine import Database
from kvm_backup.database.history import History
from kvm_backup.database.statistics import DaySums, Statistics, VmDay
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger

PARIS = ZoneInfo("Europe/Paris")
DAY = date(2026, 11, 22)
MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
UUID = "1a2b3c4d-0000-4000-8000-000000000001"
MADE = RunResult(mode=Mode.INCREMENTAL, bytes_read=7 * 2**40, bytes_stored=3 * 2**40)
DEMOTED = replace(MADE, mode=Mode.FULL, reason="disk-added")
FAILED = RunResult(error="no space left", error_code="no-space")


class Clock:
    """Stands until it is set."""

    now = MOMENT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(database: Database, clock: Clock) -> History:
    return History(database, clock, PARIS)


@pytest.fixture
def statistics(database: Database) -> Statistics:
    return Statistics(database, "alpha", PARIS)


class Runs:
    """Lets runs begin and end."""

    def __init__(self, history: History, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._count = 0

    def __call__(
        self,
        state: RunState = RunState.SUCCEEDED,
        result: RunResult = MADE,
        *,
        at: datetime = MOMENT,
        seconds: float = 60,
        **changes: Any,
    ) -> Run:
        self._count += 1
        run = Run(
            id=f"r{self._count}",
            vm_name="web",
            vm_uuid=UUID,
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host="alpha",
            repository="default",
            requested_mode=Mode.INCREMENTAL,
            state=RunState.QUEUED,
            created=at,
        )
        run = self._history.create(replace(run, **changes))
        self._clock.now = at
        self._history.start(run.id)
        self._clock.now = at + timedelta(seconds=seconds)
        assert self._history.finish(run.id, state, result)
        return self._history.get(run.id)


@pytest.fixture
def runs(history: History, clock: Clock) -> Runs:
    return Runs(history, clock)


def test_a_run_is_counted_when_it_ends_and_only_once(statistics: Statistics, runs: Runs, history: History) -> None:
    run = runs()
    assert not history.finish(run.id, RunState.FAILED, FAILED)
    [sums] = statistics.days(DAY, DAY)
    assert sums == DaySums(DAY, 1, 0, 0, MADE.bytes_read, MADE.bytes_stored, 60)


def test_runs_of_a_day_add_up_over_repositories_and_states(statistics: Statistics, runs: Runs) -> None:
    runs()
    runs(repository="far")
    runs(RunState.FAILED, FAILED)
    runs(RunState.INTERRUPTED, FAILED)
    runs(RunState.CANCELLED, RunResult())
    [sums] = statistics.days(DAY, DAY)
    assert (sums.succeeded, sums.failed, sums.cancelled) == (2, 2, 1)
    assert (sums.bytes_stored, sums.seconds) == (6 * 2**40, 300)
    totals = {total.repository: total.succeeded for total in statistics.totals()}
    assert totals == {"default": 1, "far": 1}


def test_other_kinds_of_runs_and_other_hosts_are_counted_by_themselves(statistics: Statistics, runs: Runs) -> None:
    runs(kind=RunKind.RESTORE)
    runs(host="beta")
    [backups] = statistics.days(DAY, DAY)
    [restores] = statistics.days(DAY, DAY, RunKind.RESTORE)
    assert (backups.succeeded, restores.succeeded) == (0, 1)
    assert statistics.vm_days([UUID], DAY, DAY) == {}


def test_a_run_that_waits_is_counted_when_it_has_ended(
    statistics: Statistics, history: History, runs: Runs, clock: Clock
) -> None:
    run = runs(RunState.FAILED, FAILED)
    waiting = history.create(replace(run, id="w", state=RunState.QUEUED, started=None, ended=None, created=MOMENT))
    history.start(waiting.id)
    history.wait(waiting.id, MOMENT, FAILED)
    assert statistics.days(DAY, DAY)[0].failed == 1
    history.request_cancel(waiting.id)
    [sums] = statistics.days(DAY, DAY)
    assert (sums.failed, sums.cancelled) == (1, 1)


def test_a_run_belongs_to_the_day_of_its_end_in_the_zone(statistics: Statistics, runs: Runs) -> None:
    runs(at=datetime(2026, 11, 22, 22, 59, 30, tzinfo=UTC))
    before, after = statistics.days(DAY, DAY + timedelta(days=1))
    assert (before.succeeded, after.succeeded) == (0, 1)


def test_every_day_has_an_entry(statistics: Statistics, runs: Runs) -> None:
    runs()
    days = statistics.days(DAY - timedelta(days=34), DAY)
    assert [sums.day for sums in days] == [DAY - timedelta(days=ago) for ago in range(34, -1, -1)]
    assert [sums.succeeded for sums in days] == [0] * 34 + [1]


def test_a_vms_day_tells_how_its_last_backup_ended(statistics: Statistics, runs: Runs) -> None:
    runs(RunState.FAILED, FAILED)
    runs(RunState.SUCCEEDED, DEMOTED, at=MOMENT + timedelta(hours=1))
    assert statistics.vm_days([UUID], DAY, DAY) == {UUID: {DAY: VmDay(2, 1, 1, RunState.SUCCEEDED)}}


@pytest.mark.parametrize(
    ("states", "last"),
    [
        ((RunState.SUCCEEDED, RunState.CANCELLED), RunState.SUCCEEDED),
        ((RunState.FAILED, RunState.CANCELLED), RunState.FAILED),
        ((RunState.CANCELLED, RunState.FAILED), RunState.FAILED),
        ((RunState.CANCELLED, RunState.CANCELLED), RunState.CANCELLED),
    ],
)
def test_a_backup_that_was_cancelled_hides_no_other_of_its_day(
    statistics: Statistics, runs: Runs, states: tuple[RunState, RunState], last: RunState
) -> None:
    for number, state in enumerate(states):
        runs(state, at=MOMENT + timedelta(hours=number))
    assert statistics.vm_days([UUID], DAY, DAY)[UUID][DAY].last is last
    statistics.backfill(MOMENT)
    assert statistics.vm_days([UUID], DAY, DAY)[UUID][DAY].last is last


@pytest.mark.parametrize("reason", [None, "requested", "no-point"])
def test_a_full_point_that_was_to_be_expected_is_no_demotion(
    statistics: Statistics, runs: Runs, reason: str | None
) -> None:
    runs(RunState.SUCCEEDED, replace(DEMOTED, reason=reason))
    assert statistics.vm_days([UUID], DAY, DAY)[UUID][DAY].demoted == 0


def test_a_run_that_passes_midnight_is_on_the_day_it_was_asked_for(statistics: Statistics, runs: Runs) -> None:
    runs(at=datetime(2026, 11, 22, 22, 59, 30, tzinfo=UTC))
    assert list(statistics.vm_days([UUID], DAY, DAY + timedelta(days=1))[UUID]) == [DAY]


def test_a_run_whose_vm_was_never_known_is_kept_by_its_name(statistics: Statistics, runs: Runs) -> None:
    runs(RunState.FAILED, FAILED, vm_uuid=None, vm_name="'; --\0")
    found = statistics.vm_days(["'; --\0"], DAY, DAY)
    assert [day[DAY].failed for day in found.values()] == [1]


def test_many_that_end_at_once_are_all_counted(database: Database, statistics: Statistics, history: History) -> None:
    def one(number: int) -> None:
        run = Run(
            id=f"t{number}",
            vm_name="web",
            vm_uuid=UUID,
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host="alpha",
            repository="default",
            requested_mode=Mode.FULL,
            state=RunState.QUEUED,
            created=MOMENT,
        )
        history.create(run)
        history.start(run.id)
        history.finish(run.id, RunState.SUCCEEDED, MADE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    assert statistics.days(DAY, DAY)[0].succeeded == 24
    assert statistics.vm_days([UUID], DAY, DAY)[UUID][DAY].runs == 24


def everything(statistics: Statistics) -> tuple[Any, ...]:
    first, last = DAY - timedelta(days=80), DAY + timedelta(days=1)
    return statistics.days(first, last), statistics.totals(), statistics.vm_days([UUID, "lost"], first, last)


@pytest.mark.parametrize("zone", ["Europe/Paris", "Asia/Kathmandu", "UTC"])
def test_what_ended_before_anybody_counted_adds_up_to_the_same(
    database: Database, history: History, clock: Clock, zone: str
) -> None:
    place = ZoneInfo(zone)
    statistics = Statistics(database, "alpha", place)
    runs = Runs(History(database, clock, place), clock)
    for ago in reversed(range(40)):
        at = MOMENT - timedelta(hours=19 * ago, minutes=7 * ago)
        state = [RunState.SUCCEEDED, RunState.FAILED, RunState.SUCCEEDED, RunState.CANCELLED][ago % 4]
        result = FAILED if state is RunState.FAILED else MADE if ago % 3 else DEMOTED
        runs(state, result, at=at, repository="far" if ago % 5 == 0 else "default")
    runs(RunState.FAILED, FAILED, vm_uuid=None, vm_name="lost")
    runs(kind=RunKind.PRUNE, at=MOMENT - timedelta(days=75))
    counted = everything(statistics)
    assert statistics.backfill(MOMENT)
    assert everything(statistics) == counted


def test_runs_are_added_up_once_and_what_ended_since_stays(statistics: Statistics, runs: Runs) -> None:
    runs()
    assert statistics.backfill(MOMENT)
    runs()
    assert not statistics.backfill(MOMENT)
    assert statistics.days(DAY, DAY)[0].succeeded == 2


def test_adding_up_leaves_other_hosts_alone(database: Database, statistics: Statistics, runs: Runs) -> None:
    beta = Statistics(database, "beta", PARIS)
    runs(host="beta")
    runs()
    statistics.backfill(MOMENT)
    assert (statistics.days(DAY, DAY)[0].succeeded, beta.days(DAY, DAY)[0].succeeded) == (1, 1)
    assert beta.backfill(MOMENT)


def test_samples_are_kept_by_repository_and_time(statistics: Statistics) -> None:
    samples = [SpaceSample(MOMENT + timedelta(hours=hours), 2**50 + hours, 5, 2**60) for hours in range(3)]
    for sample in samples:
        statistics.sample_space({"near": sample, "/a far path": sample})
        statistics.sample_space({"near": sample})
    assert statistics.space(MOMENT) == {"near": samples, "/a far path": samples}
    assert statistics.space(MOMENT + timedelta(hours=1))["near"] == samples[1:]


def test_the_newest_sample_is_given_also_when_it_is_old(statistics: Statistics) -> None:
    sample = SpaceSample(MOMENT, 1, 2, 3)
    statistics.sample_space({"near": sample})
    assert statistics.space(MOMENT + timedelta(days=30)) == {"near": [sample]}


def test_old_samples_are_thinned_to_the_last_of_each_day_and_dropped_in_the_end(statistics: Statistics) -> None:
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for days in (0, 59, 61, 62, 800):
        for hour in (1, 5, 20):
            at = now.replace(hour=hour) - timedelta(days=days, hours=1)
            statistics.sample_space({"near": SpaceSample(at, hour, 0, 0)})
    statistics.forget(now, timedelta(days=730))
    left = statistics.space(now - timedelta(days=1000))["near"]
    assert [(sample.at.astimezone(PARIS).date(), sample.used) for sample in left] == [
        (DAY - timedelta(days=62), 20),
        (DAY - timedelta(days=61), 20),
        *((DAY - timedelta(days=59), hour) for hour in (1, 5, 20)),
        *((DAY, hour) for hour in (1, 5, 20)),
    ]


def test_days_of_the_calendar_are_dropped_and_sums_stay(statistics: Statistics, runs: Runs) -> None:
    runs(at=MOMENT - timedelta(days=61))
    runs()
    statistics.forget(MOMENT, timedelta(days=730))
    long_ago = DAY - timedelta(days=61)
    assert list(statistics.vm_days([UUID], long_ago, DAY)[UUID]) == [DAY]
    assert statistics.days(long_ago, long_ago)[0].succeeded == 1


def test_who_adds_up_waits_for_runs_that_are_just_ending(empty_database: URL) -> None:
    """PostgreSQL only: SQLite lets one write at a time."""
    database = Database.open(empty_database)
    statistics = Statistics(database, "alpha", PARIS)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with database.engine.connect() as ending, ThreadPoolExecutor(1) as pool:
        ending.execute(text("LOCK TABLE run_days IN ROW EXCLUSIVE MODE"))
        adding = pool.submit(statistics.backfill, MOMENT)
        while not ending.execute(waiting).scalar_one():
            assert not adding.done()
        ending.commit()
        assert adding.result()
    database.close()
