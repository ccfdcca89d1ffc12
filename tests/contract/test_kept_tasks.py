"""What runs were asked to do, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import URL, text

from kvm_backup.database import engine
from kvm_backup.database.engine import Database
from kvm_backup.database.history import History, RunFilter
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.domain.task import (
    AsNewVm,
    BackupTask,
    InPlace,
    PruneTask,
    RestoreTask,
    Task,
    ToFolder,
    VerifyTask,
    kind_of,
)

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
POINT = "web--1a2b3c4d/20261122T020000Z"
TASKS: list[Task] = [
    VerifyTask("web--1a2b3c4d"),
    VerifyTask("web--1a2b3c4d", POINT, deep=True),
    PruneTask("web--1a2b3c4d"),
    RestoreTask(POINT, AsNewVm("wéb\0\udcff", "/srv/images", start=True)),
    RestoreTask(POINT, InPlace("/srv/images", stop=True)),
    RestoreTask(POINT, ToFolder("/srv/restored", "raw")),
]


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def history(database: Database) -> History:
    return History(database, lambda: MOMENT)


def a_run(task: Task, id_: str = "r1") -> Run:
    return Run(
        id_, "web", kind_of(task), Trigger.WEB, "alpha", "default",
        task.mode if isinstance(task, BackupTask) else None, RunState.QUEUED, MOMENT,
        task=None if isinstance(task, BackupTask) else task,
    )  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_what_a_run_was_asked_to_do_is_kept(history: History, task: Task) -> None:
    run = a_run(task)
    assert history.create(run) == run
    history.start("r1")
    assert history.get("r1").task == task
    assert (history.get("r1").requested_mode, history.get("r1").kind) == (None, kind_of(task))


def test_runs_are_listed_by_their_kind(history: History) -> None:
    history.create(a_run(BackupTask(Mode.FULL), "b"))
    for number, task in enumerate(TASKS):
        history.create(a_run(task, f"t{number}"))
    assert {run.id for run in history.newest(RunFilter(kind=RunKind.VERIFY))} == {"t0", "t1"}
    assert [run.requested_mode for run in history.newest(RunFilter(kind=RunKind.BACKUP))] == [Mode.FULL]


UNREADABLE = ["{", "[]", "null", '{"kind": "dance"}', '{"kind": "verify", "depth": 9}', "[" * 99999]


@pytest.mark.parametrize("held", UNREADABLE)
def test_a_task_that_this_version_cannot_read_hides_no_run(history: History, database: Database, held: str) -> None:
    history.create(a_run(PruneTask("web--1a2b3c4d")))
    with database.transaction(write=True) as connection:
        connection.execute(text("UPDATE runs SET task = :held"), {"held": held})
    assert [(run.id, run.task) for run in history.newest()] == [("r1", None)]


def test_runs_of_a_database_of_the_version_before_are_backups_as_they_were(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(engine, "VERSION", "0003")
        before = Database.open(url)
        with before.transaction(write=True) as connection:
            columns = "id, vm_name, kind, trigger, host, repository, requested_mode, state, created, late, attempt"
            numbers = "done, total, bytes_read, bytes_stored, cancel_requested"
            connection.execute(
                text(
                    f"INSERT INTO runs ({columns}, {numbers}) VALUES ('r1', 'web', 'backup', 'command', 'alpha',"
                    " 'default', 'full', 'succeeded', :created, false, 1, 0, 0, 0, 0, false)"
                ),
                {"created": MOMENT.isoformat(" ")},
            )
        before.close()
    after = Database.open(url)
    [run] = History(after, lambda: MOMENT).newest()
    after.close()
    assert (run.id, run.requested_mode, run.task, run.state) == ("r1", Mode.FULL, None, RunState.SUCCEEDED)
