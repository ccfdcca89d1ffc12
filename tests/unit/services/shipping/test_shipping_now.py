"""What a button to ship now does: it asks once, and lets what waits for its next try begin at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kvm_backup.domain.errors import PointNotFoundError, RepositoryNotFoundError
from kvm_backup.domain.run import RunKind, RunState, Trigger
from kvm_backup.domain.task import ShipTask
from kvm_backup.runtime.queue import DurableQueue, QueueClient
from kvm_backup.services.prune import points_in
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.services.shipping.conftest import Harbour, failed


@pytest.fixture(autouse=True)
def queue(harbour: Harbour) -> None:
    """A queue that a service has made, which does not run now."""
    made = DurableQueue(
        database_url=harbour.application.queue.url, host="none", parallel=1, execute=lambda *_: None, say=print
    )
    made.start()
    made.stop()


def folder(harbour: Harbour) -> str:
    return harbour.shelf.repository.folders()[0].name


def test_what_nobody_ships_yet_is_queued_once(harbour: Harbour) -> None:
    harbour.shelf.add()
    harbour.facts.look_through()
    app = harbour.application
    [run] = app.queue.ship("nas", folder(harbour), who="anne")
    assert (run.kind, run.state, run.trigger, run.repository) == (
        RunKind.SHIP,
        RunState.QUEUED,
        Trigger.WEB,
        "nas",
    )
    assert (run.task, run.vm_uuid) == (ShipTask(folder(harbour)), VM_UUID)
    assert [one.id for one in app.queue.ship("nas", folder(harbour))] == [run.id]
    assert [one.id for one in app.queue.ship("nas")] == [run.id]
    assert len(app.history.unfinished_of("alpha")) == 1


def test_a_run_that_waits_until_later_begins_now_and_stays_the_same_run(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    harbour.facts.look_through()
    app = harbour.application
    [queued] = app.queue.ship("nas", folder(harbour))
    client = QueueClient(database_url=app.queue.url)
    [request] = client.live("alpha")
    client.enqueue(request.again(), delay=1800)
    app.history.start(queued.id)
    app.history.wait(queued.id, datetime.now(UTC) + timedelta(minutes=30), failed("remote-unreachable"))
    [run] = app.queue.ship("nas", point.id.partition("/")[0])
    assert (run.id, run.state) == (queued.id, RunState.WAITING)
    assert run.retry_at is not None
    assert run.retry_at <= datetime.now(UTC)
    assert client.delayed_beyond("alpha", datetime.now(UTC).timestamp() + 1) == {}
    client.close()


def test_everything_that_waits_for_a_remote_is_asked_for_and_nothing_for_another(harbour: Harbour) -> None:
    harbour.shelf.add()
    Shelf(harbour.shelf.root, "db", "1a2b3c4e-0000-4000-8000-000000000002").add()
    harbour.facts.look_through()
    runs = harbour.application.queue.ship("away")
    assert sorted((run.vm_name, run.repository) for run in runs) == [("db", "away"), ("web", "away")]


def test_what_does_not_wait_is_refused_with_a_word(harbour: Harbour) -> None:
    harbour.facts.look_through()
    with pytest.raises(PointNotFoundError, match="nothing waits to be shipped to nas"):
        harbour.application.queue.ship("nas", "web--1a2b3c4d")
    with pytest.raises(RepositoryNotFoundError):
        harbour.application.queue.ship("shelf")
    assert harbour.application.history.unfinished_of("alpha") == []


@pytest.mark.parametrize(("code", "follows"), [("remote-unreachable", True), ("remote-access", False)])
def test_once_a_server_takes_something_again_what_waited_for_it_follows_at_once(
    harbour: Harbour, code: str, follows: bool
) -> None:
    point = harbour.shelf.add()
    Shelf(harbour.shelf.root, "db", "1a2b3c4e-0000-4000-8000-000000000002").add()
    harbour.facts.look_through()
    app = harbour.application
    later = datetime.now(UTC) + timedelta(minutes=30)
    for run in (*app.queue.ship("nas"), *app.queue.ship("away")):
        app.history.start(run.id)
        app.history.wait(run.id, later, failed(code))
    arrived = harbour.ship_run("nas", point)
    points = points_in(harbour.shelf.repository, point.folder)
    request = replace(app.shipping.departures.request("nas", points), run_id=arrived.id)
    app.queue.asking.follow(request)
    hastened = {run.repository for run in app.history.unfinished_of("alpha") if run.retry_at != later}
    assert hastened == ({"nas"} if follows else set())
