"""The queue of what waits to be shipped, on each database."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import URL

from kvm_backup.database.engine import Database
from kvm_backup.database.history import History
from kvm_backup.database.waiting_points import WaitingPoints
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import ShipTask
from kvm_backup.domain.waiting import RemoteFacts, Waiting, WaitingSum

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
UUID = "1a2b3c4d-0000-4000-8000-000000000001"


def waiting(number: int, remote: str = "nas", *, hours: float = 1.0, points: int = 1) -> Waiting:
    folder = f"vm{number}--1a2b3c4d"
    ids = {f"{folder}/2026112{day}T020000Z": NOW - timedelta(hours=hours - day) for day in range(points)}
    return Waiting(remote, folder, f"vm{number}", UUID, 1000 * number, ids)


@pytest.fixture
def store(url: URL) -> WaitingPoints:
    return WaitingPoints(Database.open(url), "alpha")


def test_what_waits_longest_comes_first_behind_what_is_asked_for(store: WaitingPoints) -> None:
    lines = [waiting(number, hours=number) for number in range(1, 5)]
    store.save(lines)
    assert store.page() == lines[::-1]
    assert store.page(first=[lines[1].place], limit=2) == [lines[1], lines[3]]
    assert store.page(first=[lines[1].place], offset=2) == [lines[2], lines[0]]
    assert [one.vm_name for one in store.page(search="M3")] == ["vm3"]
    assert store.count(search="%") == 0


def test_a_line_is_replaced_by_a_newer_one_and_goes_when_nothing_waits_any_more(store: WaitingPoints) -> None:
    store.save([waiting(1), waiting(2), waiting(1, "away")])
    newer = waiting(1, points=3, hours=4)
    store.save([newer], [waiting(2).place])
    assert store.load() == {newer.place: newer, ("away", newer.folder): waiting(1, "away")}
    assert store.get("nas", newer.folder) == newer
    assert store.get("nas", waiting(2).folder) is None
    assert store.of_vm(UUID) == [waiting(1, "away"), newer]


def test_sums_tell_of_each_remote_since_when_the_first_point_waits(store: WaitingPoints) -> None:
    store.save([waiting(1, hours=2), waiting(2, hours=30, points=3), waiting(4, "away")])
    assert store.sums() == {
        "nas": WaitingSum(2, 4, 3000, NOW - timedelta(hours=30)),
        "away": WaitingSum(1, 1, 4000, NOW - timedelta(hours=1)),
    }


def test_each_host_has_a_queue_of_its_own(url: URL, store: WaitingPoints) -> None:
    other = WaitingPoints(Database.open(url), "beta")
    store.save([waiting(1)])
    store.note_remote(RemoteFacts("nas", 3, 4, 1, NOW))
    assert (other.page(), other.sums(), other.remotes()) == ([], {}, {})
    store.note_remote(RemoteFacts("nas", 5, 6, 2, NOW))
    assert store.remotes() == {"nas": RemoteFacts("nas", 5, 6, 2, NOW)}
    store.forget_remote("nas")
    assert store.remotes() == {}


def ship_run(history: History, number: int, remote: str, code: str | None, *, attempts: int = 1) -> Run:
    run = Run(
        id=f"{number:032x}",
        vm_name="web",
        kind=RunKind.SHIP,
        trigger=Trigger.SERVICE,
        host="alpha",
        repository=remote,
        requested_mode=None,
        state=RunState.QUEUED,
        created=NOW,
        task=ShipTask("web--1a2b3c4d"),
    )
    history.create(run)
    for attempt in range(attempts):
        history.start(run.id)
        if code is not None:
            told = RunResult(error=f"{code} {number}", error_code=code, hint="Mend it.")
            history.wait(run.id, NOW + timedelta(minutes=number + attempt), told)
    return history.get(run.id)


def test_troubles_are_told_by_remote_and_cause_and_not_of_a_service_that_was_stopped(url: URL) -> None:
    history = History(Database.open(url), lambda: NOW)
    ship_run(history, 1, "nas", "remote-unreachable", attempts=3)
    ship_run(history, 2, "nas", "remote-unreachable")
    ship_run(history, 3, "nas", "host-key")
    ship_run(history, 4, "away", "interrupted")
    ship_run(history, 5, "away", None)
    key, link = history.shipping_troubles("alpha")
    assert (key.remote, key.error_code, key.error, key.hint, key.runs) == (
        "nas",
        "host-key",
        "host-key 3",
        "Mend it.",
        1,
    )
    assert (link.runs, link.failures, link.next_try) == (2, 4, NOW + timedelta(minutes=2))
    assert history.shipping_troubles("beta") == []


def test_only_a_run_that_waits_is_hastened(url: URL) -> None:
    history = History(Database.open(url), lambda: NOW)
    assert history.hasten(ship_run(history, 1, "nas", "remote-unreachable").id)
    assert history.get(f"{1:032x}").retry_at == NOW
    assert not history.hasten(ship_run(history, 2, "nas", None).id)
    assert [run.id for run in history.running("alpha", RunKind.SHIP)] == [f"{2:032x}"]
    assert history.running("alpha", RunKind.BACKUP) == []
