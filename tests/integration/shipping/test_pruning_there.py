"""`prune` of a remote: by its own rule, through the account that may remove, explained for each point."""

import shutil
from datetime import UTC, datetime

import pytest

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.point import Manifest
from kvm_backup.services import events
from kvm_backup.services.prune import Pruned
from tests.integration.shipping.conftest import House
from tests.unit.builders import Shelf

KEEP_ONE = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}


def three_full_points(house: House) -> list[Manifest]:
    """Shipped while everything is kept; from now on the remote's rule keeps the newest alone."""
    points = [house.shelf.add(seed=seed) for seed in range(3)]
    house.ship()
    house.remote["retention"] = KEEP_ONE
    house.restart()
    return points


def prune(house: House) -> tuple[Pruned | None, str | None]:
    """As a run; what it did, and the code of its error."""
    house.told.clear()
    request = house.application.requests.prune_folder(house.points.folder.name, "nas")
    _, error = house.application.work.start(request, listener=house.told.append, stop_requested=lambda: False)
    done = [event.pruned for event in house.told if isinstance(event, events.VmPruned)]
    return (done[0] if done else None), error.code if error else None


def test_a_dry_run_tells_what_would_go_and_why_the_rest_stays_and_asks_nobody(house: House) -> None:
    points = three_full_points(house)
    house.server.stop()
    pruner = house.application.work.pruner("nas", house.told.append, lambda: False)
    pruned = pruner.run(house.points, dry_run=True)
    assert [(point.id, point.kept) for point in pruned.points] == [
        (points[0].id, False),
        (points[1].id, False),
        (points[2].id, True),
    ]
    assert [point.explanation for point in pruned.points][:2] == ["goes", "goes"]
    assert pruned.points[2].reasons == ("last", "good")
    assert pruned.bytes_freed == points[0].bytes_stored + points[1].bytes_stored
    assert [path.is_dir() for path in (house.server.store / point.id for point in points)] == [True] * 3


@pytest.mark.parametrize("url", ["shell", "rrsync"])
def test_what_the_rule_there_does_not_keep_goes_there_and_stays_here(house: House, url: str) -> None:
    points = three_full_points(house)
    house.use(url)
    pruned, error = prune(house)
    assert error is None
    assert pruned is not None
    assert (pruned.repository, pruned.dry_run) == ("nas", False)
    assert house.there.stamps(house.there.folders()[0]) == [points[2].stamp]
    assert house.shelf.repository.stamps(house.points.folder) == [point.stamp for point in points]
    known = house.application.store("nas").view
    assert [point.id for point in known.all_points()] == [points[2].id]
    # What was removed by the rule there does not wait to be sent there again.
    assert house.waiting() == []


def test_the_key_that_only_adds_removes_nothing_and_the_other_one_does(house: House) -> None:
    house.remote["url"] = str(house.server.address("keeper"))
    house.restart()
    points = three_full_points(house)
    _, error = prune(house)
    assert error == "remote-access"
    assert len(house.there.stamps(house.there.folders()[0])) == 3
    house.remote["prune_url"] = str(house.server.address("rrsync"))
    house.restart()
    assert prune(house)[1] is None
    assert house.there.stamps(house.there.folders()[0]) == [points[2].stamp]


def test_what_a_kept_point_builds_on_stays_there(house: House) -> None:
    full = house.shelf.add()
    child = house.shelf.add(full, seed=2)
    house.ship()
    house.remote["retention"] = KEEP_ONE
    house.restart()
    pruned, error = prune(house)
    assert error is None
    assert pruned is not None
    assert [(point.id, point.kept, point.consolidated) for point in pruned.points] == [
        (full.id, True, False),
        (child.id, True, False),
    ]
    assert pruned.points[0].reasons == ("needed",)


def test_what_another_host_ships_is_pruned_only_by_a_rule_that_was_given_for_it_and_as_it_is_there_now(
    house: House,
) -> None:
    points = three_full_points(house)
    house.remote |= {"of": None, "retention": {}}
    house.restart()
    with pytest.raises(BadArgumentError, match="what shall stay in repository nas is not said"):
        house.application.work.pruner("nas", house.told.append, lambda: False)
    # Since it was read the other host has shipped one more, which the rule keeps in the place of the newest known.
    newer = house.shelf.add(seed=9)
    shutil.copytree(house.shelf.repository.path_of(newer.id), house.server.store / newer.id)
    house.remote["retention"] = KEEP_ONE
    house.restart()
    pruned, error = prune(house)
    assert error is None
    assert pruned is not None
    assert [point.kept for point in pruned.points] == [False, False, False, True]
    assert house.there.stamps(house.there.folders()[0]) == [newer.stamp]
    assert [house.server.store / point.id for point in points if (house.server.store / point.id).exists()] == []


def test_points_that_were_named_after_one_of_a_wrong_clock_count_by_when_they_were_made(house: House) -> None:
    wrong = house.shelf.add(created=datetime(2099, 1, 1, tzinfo=UTC), finished=datetime(2099, 1, 1, tzinfo=UTC))
    later = Shelf(house.shelf.root, _next=datetime(2099, 1, 2, tzinfo=UTC))
    right = [later.add(seed=seed) for seed in range(3)]
    house.ship()
    house.remote["retention"] = KEEP_ONE
    house.restart()
    pruned, error = prune(house)
    assert error is None
    assert pruned is not None
    assert [(point.id, point.kept) for point in pruned.points] == [
        (wrong.id, True),
        *[(point.id, False) for point in right[:2]],
        (right[2].id, True),
    ]
    assert pruned.points[0].reasons == ("future",)


def test_a_parent_that_something_builds_on_there_though_not_here_stays(house: House) -> None:
    full = house.shelf.add()
    child = house.shelf.add(full, seed=2)
    house.ship()
    house.settings["retention"] = KEEP_ONE
    house.restart()
    app = house.application
    app.work.prune_service(app.repository("shelf"), house.told.append, lambda: False).run(house.points)
    # The child is a full one here now, and waits; there it is the incremental one yet.
    assert house.waiting() == [child.id]
    pruned, error = prune(house)
    assert error is None
    assert pruned is not None
    oldest = pruned.points[0]
    assert (oldest.id, oldest.kept, oldest.reasons) == (full.id, True, ("needed",))
    assert house.there.chain(house.there.load(child.id))[0].id == full.id
