"""The history keeps its word on SQLite and on PostgreSQL."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import URL, text

from kvm_backup.database.engine import Database
from kvm_backup.database.history import Batch, History, RunFilter
from kvm_backup.domain.errors import DatabaseError, RunNotFoundError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, RunStep, Trigger

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
UUID = "1a2b3c4d-0000-4000-8000-000000000000"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> datetime:
        return self.now

    def after(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def history(database: Database, clock: Clock) -> History:
    return History(database, clock)


def a_run(id_: str = "a1b2c3d4e5", **changes: Any) -> Run:
    run = Run(
        id=id_,
        vm_name="web",
        kind=RunKind.BACKUP,
        trigger=Trigger.COMMAND,
        host="alpha",
        repository="default",
        requested_mode=Mode.INCREMENTAL,
        state=RunState.QUEUED,
        created=MOMENT,
    )
    return replace(run, **changes)


RESULT = RunResult(
    mode=Mode.FULL,
    reason="no-point",
    detail="the repository holds no earlier point of this VM",
    point="web--1a2b3c4d/20261122T020000Z",
    consistency="filesystem",
    bytes_read=7 * 2**40,
    bytes_stored=3 * 2**40,
)
FAILURE = RunResult(error="no space left", error_code="no-space", hint="Free some.")


def test_everything_about_a_run_is_kept(history: History) -> None:
    run = a_run(
        vm_uuid=UUID,
        schedule_id="s",
        schedule_name="Chaque nuit, l’été",
        due=MOMENT + timedelta(microseconds=1),
        late=True,
        attempt=3,
        total=2**50,
    )
    assert history.create(run) == run
    assert history.get(run.id) == run


def test_a_time_of_any_zone_is_kept_as_that_instant(history: History) -> None:
    from zoneinfo import ZoneInfo

    due = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    kept = history.create(a_run(due=due)).due
    assert kept == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert kept.tzinfo is UTC


@pytest.mark.parametrize("name", ["é \U0001f600", "a\0b", "\udcff\udcfe", "'; DROP TABLE runs; --", "%_\\"])
def test_a_vm_of_any_name_is_kept_and_found_by_it(history: History, name: str) -> None:
    history.create(a_run(vm_name=name))
    history.create(a_run("other"))
    [found] = history.newest(RunFilter(vm=name))
    assert found.id == "a1b2c3d4e5"
    [last] = history.last_of_vms([name]).values()
    assert last == found


def test_a_run_is_created_once(history: History) -> None:
    first = history.create(a_run())
    history.start(first.id)
    again = history.create(a_run(vm_name="another"))
    assert (again.vm_name, again.state) == ("web", RunState.RUNNING)
    assert len(history.newest()) == 1


def test_a_run_from_its_start_to_its_good_end(history: History, clock: Clock) -> None:
    run = history.create(a_run())
    started = clock.after(5)
    assert history.start(run.id)
    history.identified(run.id, "web", UUID)
    history.step_started(run.id, "prepare")
    copying = clock.after(2)
    history.step_started(run.id, "copy")
    history.decided(run.id, RunResult(mode=Mode.FULL, reason="no-point", detail=RESULT.detail))
    history.progress(run.id, 10, 100)
    during = history.get(run.id)
    assert (during.state, during.step, during.done, during.total) == (RunState.RUNNING, "copy", 10, 100)
    assert (during.mode, during.reason, during.ended) == (Mode.FULL, "no-point", None)
    assert during.steps == (RunStep("prepare", started, copying), RunStep("copy", copying))
    ended = clock.after(60)
    assert history.finish(run.id, RunState.SUCCEEDED, RESULT)
    after = history.get(run.id)
    assert (after.state, after.started, after.ended) == (RunState.SUCCEEDED, started, ended)
    assert (after.vm_uuid, after.point, after.bytes_read) == (UUID, RESULT.point, RESULT.bytes_read)
    assert after.steps[-1] == RunStep("copy", copying, ended)


def test_a_run_that_failed_says_why_and_in_which_step(history: History) -> None:
    run = history.create(a_run())
    history.start(run.id)
    history.step_started(run.id, "copy")
    history.finish(run.id, RunState.FAILED, FAILURE)
    after = history.get(run.id)
    assert (after.state, after.step) == (RunState.FAILED, "copy")
    assert (after.error, after.error_code, after.hint) == (FAILURE.error, FAILURE.error_code, FAILURE.hint)


def test_a_run_that_waits_begins_its_next_attempt_without_the_old_error(history: History, clock: Clock) -> None:
    run = history.create(a_run())
    first = clock.now
    history.start(run.id)
    history.progress(run.id, 10, 100)
    retry_at = MOMENT + timedelta(minutes=10)
    assert history.wait(run.id, retry_at, FAILURE)
    waiting = history.get(run.id)
    assert (waiting.state, waiting.retry_at, waiting.error) == (RunState.WAITING, retry_at, FAILURE.error)
    clock.after(600)
    assert history.start(run.id)
    again = history.get(run.id)
    assert (again.state, again.attempt, again.started) == (RunState.RUNNING, 2, first)
    assert (again.retry_at, again.error, again.error_code, again.hint) == (None, None, None, None)
    assert (again.done, again.total, again.step) == (0, 0, None)


def test_who_starts_second_does_not_start(history: History) -> None:
    history.create(a_run())
    assert history.start("a1b2c3d4e5")
    assert not history.start("a1b2c3d4e5")


@pytest.mark.parametrize("state", [state for state in RunState if state.final])
def test_nothing_moves_or_changes_a_run_that_has_ended(history: History, state: RunState) -> None:
    run = history.create(a_run())
    history.start(run.id)
    history.finish(run.id, state, RESULT)
    before = history.get(run.id)
    assert not history.start(run.id)
    assert not history.wait(run.id, MOMENT, FAILURE)
    assert not history.finish(run.id, RunState.FAILED, FAILURE)
    assert history.request_cancel(run.id) is state
    history.step_started(run.id, "copy")
    history.progress(run.id, 1, 2)
    history.decided(run.id, FAILURE)
    history.identified(run.id, "x", UUID)
    assert history.get(run.id) == before


def test_a_run_that_never_ran_cannot_have_succeeded(history: History) -> None:
    run = history.create(a_run())
    assert not history.finish(run.id, RunState.SUCCEEDED, RESULT)
    assert history.get(run.id) == run


@pytest.mark.parametrize("waiting", [False, True])
def test_a_run_that_does_not_run_is_cancelled_at_once_and_never_begins(history: History, waiting: bool) -> None:
    run = history.create(a_run())
    if waiting:
        history.start(run.id)
        history.wait(run.id, MOMENT, FAILURE)
    assert history.request_cancel(run.id) is RunState.CANCELLED
    assert not history.start(run.id)
    held = history.get(run.id)
    assert held.ended == MOMENT
    told = (FAILURE.error, FAILURE.error_code) if waiting else ("the run was cancelled before it began", "cancelled")
    assert (held.error, held.error_code) == told


def test_a_run_that_runs_is_asked_to_end(history: History) -> None:
    run = history.create(a_run())
    history.start(run.id)
    assert not history.cancel_requested(run.id)
    assert history.request_cancel(run.id) is RunState.RUNNING
    assert history.cancel_requested(run.id)


def test_cancelling_what_is_not_there_is_an_error(history: History) -> None:
    with pytest.raises(RunNotFoundError):
        history.request_cancel("nosuch")


def test_a_run_is_found_by_a_beginning_that_only_it_has(history: History) -> None:
    for id_ in ("abc1", "abc2", "abd", "Abd", "schedule:x:2026-11-22T02:00:00"):
        history.create(a_run(id_))
    assert history.get("abc1").id == "abc1"
    assert history.get("abd").id == "abd"
    assert history.get("A").id == "Abd"
    assert history.get("sch").id.startswith("schedule:")
    with pytest.raises(RunNotFoundError, match=r"abc1, abc2$"):
        history.get("abc")
    with pytest.raises(RunNotFoundError, match=r"abc1, abc2, abd$"):
        history.get("ab")


def test_a_whole_id_is_meant_though_another_begins_with_it(history: History) -> None:
    history.create(a_run("abc"))
    history.create(a_run("abcd"))
    assert history.get("abc").id == "abc"


@pytest.mark.parametrize("reference", ["", "x", "%", "_", "a%", "\0", "\udcff", "a1b2\U0010ffff", "x" * 5000])
def test_what_matches_no_run_is_an_error(history: History, reference: str) -> None:
    history.create(a_run())
    with pytest.raises(RunNotFoundError, match="there is no run"):
        history.get(reference)


def test_runs_are_listed_newest_first_by_vm_state_schedule_and_time(history: History) -> None:
    for number in range(6):
        history.create(
            a_run(
                f"r{number}",
                vm_name=f"vm{number % 2}",
                vm_uuid=UUID if number % 2 else None,
                schedule_id=f"s{number % 3}",
                created=MOMENT + timedelta(hours=number),
            )
        )
    history.start("r4")

    def ids(*, limit: int = 50, **which: Any) -> list[str]:
        return [run.id for run in history.newest(RunFilter(**which), limit=limit)]

    assert ids() == ["r5", "r4", "r3", "r2", "r1", "r0"]
    assert ids(limit=2) == ["r5", "r4"]
    assert ids(vm="vm1") == ["r5", "r3", "r1"]
    assert ids(vm=UUID) == ["r5", "r3", "r1"]
    assert ids(state=RunState.RUNNING) == ["r4"]
    assert ids(schedule_id="s2") == ["r5", "r2"]
    assert ids(since=MOMENT + timedelta(hours=4)) == ["r5", "r4"]
    assert ids(vm="vm0", state=RunState.QUEUED, since=MOMENT + timedelta(hours=1)) == ["r2"]
    assert ids(vm="VM0") == []


def test_what_has_not_ended_on_a_host_is_known(history: History) -> None:
    for number, host in enumerate(["alpha", "alpha", "alpha", "beta"]):
        history.create(a_run(f"r{number}", host=host, created=MOMENT + timedelta(hours=number)))
    history.start("r1")
    history.wait("r1", MOMENT, FAILURE)
    history.start("r2")
    history.finish("r2", RunState.SUCCEEDED, RESULT)
    assert [run.id for run in history.unfinished_of("alpha")] == ["r0", "r1"]


def test_the_newest_run_of_each_schedule_and_vm_is_known(history: History, clock: Clock) -> None:
    clock.after(86400)
    for number in range(1200):
        history.create(
            a_run(
                f"r{number:04}",
                schedule_id=f"s{number % 600}",
                vm_name=f"vm{number % 2}",
                created=MOMENT + timedelta(minutes=number),
            )
        )
    last = history.last_of_schedules([f"s{number}" for number in range(700)])
    assert {key: run.id for key, run in last.items()} == {
        f"s{number}": f"r{number + 600:04}" for number in range(600)
    }
    assert {key: run.id for key, run in history.last_of_vms(["vm0", "vm1", "no"]).items()} == {
        "vm0": "r1198",
        "vm1": "r1199",
    }


def test_the_last_batch_of_a_schedule_counts_its_runs_by_state_and_no_earlier_ones(
    history: History, clock: Clock
) -> None:
    clock.after(86400)
    for number in range(6):
        created = MOMENT + timedelta(days=number // 3)
        history.create(a_run(f"r{number}", schedule_id="nightly", created=created, vm_name=f"vm{number % 3}"))
    history.create(a_run("other", schedule_id="hourly", created=MOMENT))
    for number in (0, 3, 4):
        history.start(f"r{number}")
    history.finish("r0", RunState.FAILED, RESULT)
    history.finish("r3", RunState.SUCCEEDED, RESULT)
    history.finish("r4", RunState.SUCCEEDED, RESULT)
    last = history.last_batches(["nightly", "hourly", "never"])
    assert set(last) == {"nightly", "hourly"}
    assert last["nightly"] == Batch(
        MOMENT + timedelta(days=1),
        {RunState.SUCCEEDED: 2, RunState.QUEUED: 1},
        {RunState.SUCCEEDED: "r3", RunState.QUEUED: "r5"},
    )
    assert last["hourly"].counts == {RunState.QUEUED: 1}


def test_after_a_clock_was_set_back_what_it_dated_ahead_is_listed_and_yet_not_the_newest_of_anything(
    history: History, clock: Clock
) -> None:
    ahead = MOMENT + timedelta(days=365)
    clock.now = ahead
    history.create(a_run("ahead", schedule_id="nightly", created=ahead))
    history.start("ahead")
    history.finish("ahead", RunState.FAILED, FAILURE)
    clock.now = MOMENT + timedelta(minutes=10)
    assert history.last_of_vms(["web"]) == history.last_of_schedules(["nightly"]) == {}
    assert history.last_batches(["nightly"]) == {}
    # A host whose clock is a little ahead is none that was set back.
    history.create(a_run("now", schedule_id="nightly", created=MOMENT + timedelta(minutes=14)))
    history.start("now")
    history.finish("now", RunState.SUCCEEDED, RESULT)
    assert history.last_of_vms(["web"])["web"].id == history.last_of_schedules(["nightly"])["nightly"].id == "now"
    assert history.last_batches(["nightly"])["nightly"].counts == {RunState.SUCCEEDED: 1}
    assert [run.id for run in history.ended_since("alpha", MOMENT)] == ["now"]
    assert [run.id for run in history.newest()] == ["ahead", "now"]


def test_old_runs_that_have_ended_are_forgotten_with_their_steps(history: History, database: Database) -> None:
    for number in range(3):
        history.create(a_run(f"r{number}", created=MOMENT + timedelta(days=number)))
        history.start(f"r{number}")
        history.step_started(f"r{number}", "copy")
    history.finish("r0", RunState.SUCCEEDED, RESULT)
    history.finish("r2", RunState.SUCCEEDED, RESULT)
    assert history.delete_older_than(MOMENT + timedelta(days=2)) == 1
    assert [run.id for run in history.newest()] == ["r2", "r1"]
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM run_steps")).scalar_one() == 2


_RACE = """
import sys
from datetime import UTC, datetime
from sqlalchemy import make_url
from kvm_backup.database.engine import Database
from kvm_backup.database.history import History
url = make_url(sys.stdin.readline().strip())
sys.stdin.readline()
history = History(Database.open(url), lambda: datetime.now(UTC))
from tests.contract.test_history import a_run
won = 0
for number in range(40):
    history.create(a_run(f"r{number}"))
    won += history.start(f"r{number}")
    history.step_started(f"r{number}", "copy")
print(won)
"""


def test_processes_that_open_a_new_database_at_once_make_it_once_and_start_each_run_once(url: URL) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(url.render_as_string(hide_password=False) + "\n")
        process.stdin.flush()
    ended = [process.communicate("go\n", timeout=120) for process in processes]
    assert [error for _, error in ended] == [""] * 4
    assert sum(int(output) for output, _ in ended) == 40


def plan_of(database: Database, sql: str) -> str:
    prefix = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.transaction() as connection:
        return "\n".join(str(row[-1]) for row in connection.execute(text(prefix + sql)))


@pytest.fixture
def full_history(database: Database, history: History) -> Database:
    """20,000 runs of 50 VMs, and statistics about them."""
    history.create(a_run("first", state=RunState.RUNNING, schedule_id="s"))
    cells = "SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000"
    columns = "vm_uuid, kind, trigger, host, repository, requested_mode, late, attempt, done, total, bytes_read"
    columns += ", bytes_stored, cancel_requested"
    minute = "datetime(created, '+' || n || ' minutes')"
    if database.engine.dialect.name == "postgresql":
        minute = "created + n * interval '1 minute'"
    with database.transaction(write=True) as connection:
        connection.execute(
            text(
                f"WITH RECURSIVE numbers AS ({cells}) INSERT INTO runs (id, vm_name, state, schedule_id, created,"
                f" {columns})"
                f" SELECT 'r' || n, 'vm' || (n % 50), 'succeeded', 's' || (n % 50), {minute}, {columns}"
                " FROM runs, numbers WHERE id = 'first'"
            )
        )
        connection.execute(text("ANALYZE"))
    return database


@pytest.mark.parametrize(
    "where",
    [
        "",
        "WHERE vm_name = 'vm7'",
        "WHERE state = 'running'",
        "WHERE schedule_id = 's7'",
        "WHERE created >= '2026-11-30 00:00:00+00:00'",
    ],
)
def test_a_list_out_of_many_runs_reads_an_index_and_sorts_nothing(full_history: Database, where: str) -> None:
    plan = plan_of(full_history, f"SELECT * FROM runs {where} ORDER BY created DESC, id DESC LIMIT 50")
    assert "USING INDEX" in plan or "Index Scan Backward" in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert "Seq Scan" not in plan, plan


def test_a_beginning_of_an_id_is_looked_up_in_the_index_of_the_key(full_history: Database) -> None:
    plan = plan_of(full_history, "SELECT id FROM runs WHERE id >= 'r77' AND id < 'r78' ORDER BY id LIMIT 4")
    assert "USING COVERING INDEX" in plan or "Index Only Scan" in plan, plan
    assert "TEMP B-TREE" not in plan, plan


def test_an_error_within_a_transaction_leaves_nothing(history: History, database: Database) -> None:
    broken: Callable[[], Any] = lambda: history.create(a_run(late=None))  # noqa: E731
    with pytest.raises(DatabaseError, match="cannot be used"):
        broken()
    assert history.newest() == []


def test_steps_are_in_their_order_though_the_clock_went_back(history: History, clock: Clock) -> None:
    run = history.create(a_run())
    history.start(run.id)
    for name in ("prepare", "begin", "copy", "publish", "advance"):
        history.step_started(run.id, name)
        clock.after(-10)
    names = [step.name for step in history.get(run.id).steps]
    assert names == ["prepare", "begin", "copy", "publish", "advance"]
    starts = [step.started for step in history.get(run.id).steps]
    assert all(earlier > later for earlier, later in pairwise(starts))


# The pulse


def test_the_pulse_tells_what_goes_on_and_changes_with_every_move(history: History, clock: Clock) -> None:
    mark = history.pulse().mark

    def moved() -> bool:
        nonlocal mark
        before, mark = mark, history.pulse().mark
        return mark != before

    history.create(a_run("first"))
    assert moved()
    history.create(a_run("second", created=clock.after(1)))
    assert moved()
    history.start("first")
    assert moved()
    assert [run.id for run in history.pulse().running] == ["first"]
    history.step_started("first", "copy")
    assert moved()
    history.decided("first", RunResult(mode=Mode.FULL))
    assert moved()
    history.request_cancel("first")
    assert moved()
    history.wait("first", clock.after(60), RunResult(error="x"))
    assert moved()
    assert history.pulse().running == ()
    history.request_cancel("second")
    assert moved()
    history.finish("first", RunState.FAILED, RunResult(error="x"))
    assert moved()


def test_the_pulse_stands_still_while_a_run_only_comes_on(history: History) -> None:
    history.create(a_run("first"))
    history.start("first")
    before = history.pulse()
    history.progress("first", 5, 10)
    after = history.pulse()
    assert after.mark == before.mark
    assert (after.running[0].done, after.running[0].total) == (5, 10)


@pytest.mark.parametrize("others", [0, 7], ids=["few", "many"])
def test_the_newest_runs_of_some_vms_are_found_by_name_or_uuid_each_once(history: History, others: int) -> None:
    for number in range(6):
        created = MOMENT + timedelta(minutes=number)
        history.create(a_run(f"named-{number}", vm_name="web", created=created))
        history.create(a_run(f"both-{number}", vm_name="web", vm_uuid=UUID, created=created))
        history.create(a_run(f"renamed-{number}", vm_name="www", vm_uuid=UUID, created=created))
        history.create(a_run(f"other-{number}", vm_name="db", created=created))
    wanted = RunFilter(vms=("web", UUID, *(f"nobody-{number}" for number in range(others))))
    shown = [run.id for run in history.newest(wanted, limit=7)]
    assert shown == [f"{kind}-{n}" for n in (5, 4, 3) for kind in ("renamed", "named", "both")][:7]
    last = history.get(shown[-1])
    rest = [run.id for run in history.newest(wanted, limit=50, older_than=(last.created, last.id))]
    assert (len(rest), len({*shown, *rest})) == (11, 18)
    assert history.newest(RunFilter(vms=())) == []
