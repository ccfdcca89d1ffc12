"""From a local repository to the remote: what waits, what is sent, and what must stay meanwhile."""

import shutil
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.retention import Keep
from kvm_backup.domain.run import RunState
from kvm_backup.services import events
from tests.integration.ship.servers import Server
from tests.integration.shipping.conftest import House
from tests.unit.builders import flip_bit


def chain(house: House, length: int) -> list[Manifest]:
    made: list[Manifest] = []
    for seed in range(length):
        made.append(house.shelf.add(made[-1] if made else None, seed=seed))
    return made


def ids(points: list[Manifest]) -> list[str]:
    return [point.id for point in points]


def test_a_chain_is_sent_parents_first_and_is_there_as_it_is_here(house: House) -> None:
    points = chain(house, 3)
    assert house.waiting() == ids(points)
    assert house.ship() == ids(points)
    assert house.waiting() == []
    assert list(house.there.points(house.there.folders()[0])) == points
    for point in points:
        assert (house.server.store / point.id / "vda.qcow2").read_bytes() == house.shelf.path(point).read_bytes()


def test_progress_reaches_all_bytes_and_nothing_is_sent_again(house: House) -> None:
    points = chain(house, 2)
    house.ship()
    progress = [event for event in house.told if isinstance(event, events.Progress)]
    total = sum(point.bytes_stored for point in points)
    assert (progress[-1].done, progress[-1].total) == (total, total)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert house.ship() == []
    assert house.told == []


def test_what_a_lost_mirror_does_not_know_is_found_there_and_not_sent_again(house: House) -> None:
    points = chain(house, 2)
    house.ship()
    shutil.rmtree(house.application.shipping.mirror("nas").root)
    assert house.waiting() == ids(points)
    assert house.ship() == []
    assert house.waiting() == []


def test_a_consolidated_point_waits_again_and_replaces_the_incremental_one(house: House) -> None:
    points = chain(house, 3)
    house.ship()
    house.settings = {"retention": {"last": 2, "daily": 0, "weekly": 0, "monthly": 0}}
    house.remote = {"retention": {"last": 10}}
    app = house.restart()
    app.work.prune_service(app.repository("shelf"), house.told.append, lambda: False).run(house.points)
    full = house.shelf.repository.load(points[1].id)
    assert full.mode is Mode.FULL
    assert house.waiting() == [points[1].id]
    assert house.ship() == [points[1].id]
    assert house.there.load(points[1].id) == full
    # What is gone here stays there by the rule there, with all that it needs.
    assert [point.id for point in house.there.chain(house.there.load(points[2].id))] == ids(points[1:])
    assert house.there.load(points[0].id) == points[0]


def test_points_that_wait_are_neither_removed_nor_consolidated(house: House) -> None:
    points = chain(house, 4)
    house.settings = {"retention": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}}
    house.remote = {"retention": {"last": 10}}
    app = house.restart()
    prune = app.work.prune_service(app.repository("shelf"), house.told.append, lambda: False)
    pruned = prune.run(house.points)
    assert [point.kept for point in pruned.points] == [True] * 4
    assert all(Keep.WAITING.value in point.reasons for point in pruned.points)
    assert list(house.shelf.repository.points(house.points.folder)) == points
    house.ship()
    prune.run(house.points)
    assert house.shelf.repository.stamps(house.points.folder) == [points[-1].stamp]
    # The full one that it became is as much the remote's as the incremental was.
    assert house.waiting() == [points[-1].id]


def test_the_rule_there_decides_what_is_sent_and_what_goes_there(house: House) -> None:
    keep_one = {
        "retention": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0},
        "prune_url": str(house.server.address()),
    }
    old = [house.shelf.add(seed=1), house.shelf.add(seed=2)]
    house.ship()
    new = house.shelf.add(seed=3)
    house.remote = keep_one
    house.restart()
    assert house.waiting() == [new.id]
    assert house.ship() == [new.id]
    assert house.there.stamps(house.there.folders()[0]) == [new.stamp]
    assert house.shelf.repository.stamps(house.points.folder) == [old[0].stamp, old[1].stamp, new.stamp]
    assert house.waiting() == []


def test_a_parent_there_stays_as_long_as_a_kept_point_needs_it(house: House) -> None:
    house.remote = {
        "retention": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0},
        "prune_url": str(house.server.address()),
    }
    house.restart()
    points = chain(house, 3)
    assert house.ship() == ids(points)
    assert len(house.there.chain(house.there.load(points[-1].id))) == 3


def test_while_the_server_is_away_points_wait_and_then_they_go(house: House) -> None:
    points = chain(house, 2)
    house.server.stop()
    with pytest.raises(RemoteUnreachableError):
        house.ship()
    assert house.waiting() == ids(points)
    house.server.start()
    assert house.ship() == ids(points)


def test_a_damaged_point_is_not_shipped_and_the_others_of_the_vm_before_it_are(house: House) -> None:
    points = chain(house, 3)
    flip_bit(house.shelf.path(points[1]), 70_000)
    with pytest.raises(Exception, match=points[1].id):
        house.ship()
    assert house.there.stamps(house.there.folders()[0]) == [points[0].stamp]
    assert house.waiting() == ids(points[1:])


def test_one_run_is_asked_for_each_vm_and_remote_however_often_it_is_looked(house: House) -> None:
    chain(house, 2)
    shipments = house.application.shipments
    first = shipments.unasked()
    assert [(one.repository, one.vm) for one in first] == [("nas", "web")]
    house.application.history.create(first[0].as_run())
    assert shipments.unasked() == []
    assert [one.run.id for one in shipments.everything_that_waits() if one.run] == [first[0].run_id]
    house.application.history.request_cancel(first[0].run_id)
    assert house.application.history.get(first[0].run_id).state is RunState.CANCELLED
    assert len(shipments.unasked()) == 1


def test_a_vm_that_settings_ship_nowhere_does_not_wait(house: House) -> None:
    chain(house, 1)
    house.settings = {"vm": {"web": {"ship_to": []}}}
    house.restart()
    assert house.waiting() == []


def test_a_server_whose_disk_is_not_mounted_gets_nothing(house: House) -> None:
    chain(house, 1)
    (house.server.store / "kvm-backup.json").unlink()
    with pytest.raises(Exception, match="repository"):
        house.ship()
    assert [entry.name for entry in house.server.store.iterdir()] == []
    assert len(house.waiting()) == 1


def test_images_go_once_shipped_where_nothing_shall_stay_and_the_next_incremental_is_shipped_on_them(
    house: House,
) -> None:
    house.remote = {"keep_local": "nothing"}
    house.restart()
    points = chain(house, 2)
    house.ship()
    assert [house.shelf.path(point).exists() for point in points] == [False, False]
    assert list(house.shelf.repository.points(house.points.folder)) == points
    assert house.waiting() == []
    house.shelf.add(points[-1], seed=9)
    newest = house.waiting()
    assert house.ship() == newest
    chained = house.there.chain(house.there.load(newest[0]))
    assert [point.id for point in chained] == [*ids(points), *newest]


def test_images_stay_as_long_as_one_of_two_servers_lacks_them(house: House, tmp_path: Path) -> None:
    with Server(tmp_path / "second") as second:
        config = tmp_path / "both"
        second_only = (
            second.config.read_text().replace("Host shell\n", "Host second\n").replace("Host *", "Host second")
        )
        config.write_text(second_only + house.server.config.read_text())
        url = str(second.address()).replace("ssh://shell", "ssh://second")
        house.settings = {
            "ssh_config": str(config),
            "repository": [
                {"name": "shelf", "path": str(house.shelf.root)},
                {"name": "nas", "url": str(house.server.address()), "of": "shelf", "keep_local": "nothing"},
                {"name": "far", "url": url, "of": "shelf", "keep_local": "newest-chain"},
            ],
        }
        app = house.restart()
        old, new = house.shelf.add(seed=1), house.shelf.add(seed=2)
        house.ship()
        assert [house.shelf.path(point).exists() for point in (old, new)] == [True, True]
        with app.shipping.connect("far") as remote:
            remote.found(house.shelf.root)
        app.shipping.service("far").run(house.points)
        assert [house.shelf.path(point).exists() for point in (old, new)] == [False, True]


def test_a_remote_is_read_anew_though_the_local_repository_is_lost(house: House) -> None:
    points = chain(house, 2)
    house.ship()
    shutil.rmtree(house.shelf.root)
    house.restart()
    count, damaged = house.application.remotes.rescan("nas")
    assert (count, damaged) == (len(points), [])
