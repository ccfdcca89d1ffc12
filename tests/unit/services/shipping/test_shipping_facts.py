"""What pages and alerts know of what waits, and when they know it."""

import shutil
from dataclasses import replace
from datetime import timedelta

from kvm_backup.domain.alert import AlertKind, Severity, Situation, conditions
from kvm_backup.domain.run import RunKind, RunState
from kvm_backup.domain.task import PruneTask
from kvm_backup.domain.waiting import WaitingSum
from tests.unit.builders import Shelf
from tests.unit.services.shipping.conftest import Harbour, failed


def test_a_look_at_everything_finds_what_waits_and_what_remotes_hold(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.shelf.add(first)
    harbour.arrive("nas", first)
    assert len(harbour.facts.look_through()) == 2
    assert harbour.waiting() == {("nas", "web"): 1, ("away", "web"): 2}
    nas = harbour.facts.store.remotes()["nas"]
    assert (nas.points, nas.bytes, nas.vms, nas.shipped_at) == (1, first.bytes_stored, 1, None)


def test_what_a_run_shipped_waits_no_longer_once_it_has_ended(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.facts.look_through()
    before = harbour.facts.revision
    harbour.arrive("nas", first)
    run = harbour.ship_run("nas", first)
    harbour.facts.look_at([run])
    harbour.facts.note_arrivals([run])
    assert harbour.waiting() == {("away", "web"): 1}
    assert harbour.facts.store.remotes()["nas"].shipped_at == run.ended
    assert harbour.facts.revision > before


def test_a_backup_and_a_prune_show_what_waits_because_of_them(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    run = replace(harbour.ship_run("nas", first), kind=RunKind.BACKUP, repository="shelf", task=None, point=first.id)
    harbour.facts.look_at([run])
    assert harbour.waiting() == {("nas", "web"): 1, ("away", "web"): 1}
    shutil.rmtree(harbour.shelf.repository.path_of(first.id).parent)
    pruned = replace(run, kind=RunKind.PRUNE, point=None, task=PruneTask(first.id.partition("/")[0]))
    harbour.facts.look_at([pruned])
    assert harbour.waiting() == {}


def test_a_point_waits_since_it_was_first_seen_to_also_after_a_restart(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.facts.look_through()
    seen = harbour.now
    harbour.now += timedelta(hours=30)
    harbour.restart()
    harbour.shelf.add(first)
    harbour.facts.look_through()
    sums = harbour.facts.store.sums()
    assert (sums["nas"].points, sums["nas"].since) == (2, seen)
    # Once the first one is there the other has not waited for long.
    harbour.arrive("nas", first)
    harbour.facts.look_through()
    assert harbour.facts.store.sums()["nas"].since == harbour.now


def test_of_a_repository_that_is_away_what_was_known_stays(harbour: Harbour) -> None:
    harbour.shelf.add()
    harbour.facts.look_through()
    known = harbour.waiting()
    harbour.shelf.root.rename(harbour.shelf.root.with_name("unmounted"))
    harbour.facts.look_through()
    assert harbour.waiting() == known


def test_what_waited_for_a_remote_that_is_no_longer_named_is_forgotten(harbour: Harbour) -> None:
    harbour.shelf.add()
    harbour.facts.look_through()
    local = {"name": "shelf", "path": str(harbour.folder / "local")}
    harbour.settings = {"repository": [local, {"name": "nas", "url": "ssh://backup@nas.example/srv", "of": "shelf"}]}
    harbour.restart().facts.look_through()
    assert harbour.waiting() == {("nas", "web"): 1}
    assert "away" not in harbour.facts.store.remotes()


def test_two_vms_are_told_apart(harbour: Harbour) -> None:
    web = harbour.shelf.add()
    db = Shelf(harbour.shelf.root, "db", "1a2b3c4e-0000-4000-8000-000000000002").add()
    harbour.facts.look_through()
    stored = web.bytes_stored + db.bytes_stored
    assert harbour.facts.store.sums()["nas"] == WaitingSum(2, 2, stored, harbour.now)


def wrong(harbour: Harbour) -> list[tuple[AlertKind, Severity, str]]:
    found = conditions(Situation(remotes=harbour.facts.states()))
    return [(one.kind, one.severity, one.subject.name) for one in found]


def test_a_link_that_is_down_is_told_calmly_at_the_second_failure_and_loudly_after_a_day(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    harbour.facts.look_through()
    run = harbour.ship_run("nas", point, RunState.WAITING, failed("remote-unreachable"))
    assert wrong(harbour) == []
    harbour.application.history.start(run.id)
    harbour.application.history.wait(run.id, harbour.now, failed("remote-unreachable"))
    assert wrong(harbour) == [(AlertKind.SHIPPING_LATE, Severity.WARNING, "nas")]
    harbour.now += timedelta(hours=25)
    assert wrong(harbour) == [
        (AlertKind.SHIPPING_LATE, Severity.WARNING, "away"),
        (AlertKind.SHIPPING_LATE, Severity.CRITICAL, "nas"),
    ]


def test_a_key_that_is_refused_is_told_at_once_and_until_bytes_move(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    harbour.facts.look_through()
    run = harbour.ship_run("nas", point, RunState.WAITING, failed("remote-access"))
    refused = [(AlertKind.SHIPPING_REFUSED, Severity.CRITICAL, "nas")]
    assert wrong(harbour) == refused
    # While it is tried again nobody knows better.
    history = harbour.application.history
    history.start(run.id)
    assert wrong(harbour) == refused
    history.progress(run.id, 1, 2)
    assert wrong(harbour) == []


def test_what_needs_somebody_is_told_before_what_may_pass(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    for code in ("remote-unreachable", "remote-unreachable", "remote-setup", "host-key"):
        harbour.ship_run("nas", point, RunState.WAITING, failed(code))
    [state] = [state for state in harbour.facts.states() if state.name == "nas"]
    assert state.trouble is not None
    assert state.trouble.error_code == "host-key"


def test_what_a_command_removed_from_a_remote_is_seen_by_the_next_look_at_changes(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    second = harbour.shelf.add(first)
    harbour.arrive("nas", first, second)
    harbour.facts.look_through()
    harbour.facts.look_at_changes([])
    before = harbour.facts.revision
    harbour.application.shipping.mirror("nas").forget(second.id)
    harbour.facts.look_at_changes([])
    nas = harbour.facts.store.remotes()["nas"]
    assert (nas.points, nas.bytes) == (1, first.bytes_stored)
    assert harbour.waiting()["nas", "web"] == 1
    assert harbour.facts.revision > before


def test_what_a_command_removed_here_waits_no_longer(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.facts.look_through()
    folder = harbour.shelf.repository.path_of(first.id).parent
    shutil.rmtree(folder)
    harbour.facts.look_at_changes([("shelf", folder.name)])
    assert harbour.waiting() == {}


def test_what_hides_points_from_the_service_is_said_once_until_it_is_over(harbour: Harbour) -> None:
    harbour.shelf.add()
    shipments = harbour.application.shipments
    identity = harbour.application.shipping.mirror("nas").root / "kvm-backup.json"
    whole = identity.read_bytes()
    said: list[str] = []
    identity.write_bytes(b"")
    for _ in range(2):
        shipments.unasked(said.append)
    assert len(said) == 1
    assert said[0].startswith("shipping: ")
    identity.write_bytes(whole)
    shipments.unasked(said.append)
    assert len(said) == 1
    identity.write_bytes(b"")
    shipments.unasked(said.append)
    assert len(said) == 2
