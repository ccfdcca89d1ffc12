"""Images go from here only when the server has just shown that it holds them, and nothing is lost in silence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.services import events
from tests.integration.ship.servers import ADD_ONLY
from tests.integration.shipping.conftest import House
from tests.integration.shipping.keys import KEY
from tests.unit.builders import flip_bit


def keep(house: House, what: str) -> None:
    house.remote["keep_local"] = what
    house.restart()


def notices(house: House) -> list[str]:
    return [event.message for event in house.told if isinstance(event, events.Notice)]


def here(house: House, points: list[Manifest]) -> list[bool]:
    return [house.shelf.path(point).exists() for point in points]


def chain(house: House, length: int) -> list[Manifest]:
    made: list[Manifest] = []
    for seed in range(length):
        made.append(house.shelf.add(made[-1] if made else None, seed=seed))
    return made


def age(house: House, point: Manifest) -> Path:
    return house.server.store / point.id / "vda.qcow2.age"


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder", "keeper"])
def test_a_server_that_was_put_back_to_an_older_state_makes_nothing_go_and_gets_it_again(
    house: House, account: str, tmp_path: Path
) -> None:
    house.remote["url"] = str(house.server.address(account))
    keep(house, "newest-chain")
    shutil.copytree(house.server.store, tmp_path / "old")
    points = chain(house, 2)
    house.ship()
    shutil.rmtree(house.server.store)
    shutil.copytree(tmp_path / "old", house.server.store)
    newest = house.shelf.add(seed=9)
    assert house.ship() == [newest.id]
    assert here(house, points) == [True, True]
    assert [notice.split(" ")[0] for notice in notices(house)] == [point.id for point in reversed(points)]
    assert house.waiting() == [point.id for point in points]
    house.ship()
    assert here(house, [*points, newest]) == [False, False, True]
    assert not [notice for notice in notices(house) if "stays here" in notice]
    for point in points:
        assert (house.server.store / point.id / "vda.qcow2").is_file()


def flip(file: Path) -> None:
    flip_bit(file, file.stat().st_size // 2)


@pytest.mark.parametrize("account", ["shell", "rrsync"])
@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flipped", "missing"])
def test_an_image_that_is_damaged_there_stays_here_with_what_builds_on_it_and_is_mended(
    house: House, harm: Callable[[Path], None], account: str
) -> None:
    house.use(account)
    points = chain(house, 3)
    house.ship()
    image = house.server.store / points[1].id / "vda.qcow2"
    whole = image.read_bytes()
    harm(image)
    keep(house, "nothing")
    house.rescan()
    house.ship()
    assert here(house, points) == [True, True, True]
    assert notices(house) == [
        f"{points[1].id} stays here and will be sent again: at nas these files are missing or damaged: vda.qcow2"
    ]
    assert house.ship() == [points[1].id]
    assert image.read_bytes() == whole
    assert here(house, points) == [False, False, False]


def test_what_is_damaged_here_does_not_go_where_only_a_comparison_with_it_could_tell(house: House) -> None:
    house.use("rrsync")
    points = chain(house, 1)
    house.ship()
    flip(house.shelf.path(points[0]))
    keep(house, "nothing")
    house.ship()
    assert here(house, points) == [True]
    assert "cannot be told" in notices(house)[0]
    assert house.waiting() == []


def test_nothing_goes_while_the_server_is_away_or_its_disk_is_not_mounted(house: House, tmp_path: Path) -> None:
    points = chain(house, 2)
    house.ship()
    keep(house, "nothing")
    house.server.stop()
    house.ship()
    assert "could not be asked" in notices(house)[0]
    house.server.start()
    house.server.store.rename(tmp_path / "unmounted")
    house.server.store.mkdir()
    house.ship()
    assert "could not be asked" in notices(house)[0]
    assert here(house, points) == [True, True]
    house.server.store.rmdir()
    (tmp_path / "unmounted").rename(house.server.store)
    assert house.waiting() == []
    house.ship()
    assert here(house, points) == [False, False]


def test_points_that_are_only_there_and_vanish_are_lost_and_told_though_newer_ones_come(house: House) -> None:
    keep(house, "nothing")
    points = chain(house, 2)
    house.ship()
    shutil.rmtree(house.server.store / points[0].folder)
    house.rescan()
    newest = house.shelf.add(seed=9)
    house.ship()
    repository = house.shelf.repository
    assert list(repository.all_points()) == [*points, newest]
    assert [repository.elsewhere(point.id) for point in points] == [(), ()]
    assert [notice for notice in notices(house) if "is lost" in notice] == [
        f"{point.id} is lost: no repository holds its images any more" for point in points
    ]


def test_points_that_the_rule_removed_there_leave_no_trace_here(house: House) -> None:
    keep(house, "nothing")
    old = chain(house, 1)
    house.ship()
    house.remote |= {
        "prune_url": str(house.server.address()),
        "retention": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0},
    }
    house.restart()
    new = house.shelf.add(seed=9)
    house.ship()
    assert list(house.shelf.repository.all_points()) == [new]
    assert notices(house) == []
    assert old[0] not in list(house.there.all_points())


@pytest.mark.parametrize("account", ["shell", "keeper"])
def test_encrypted_images_go_when_the_server_computes_the_digests_that_they_were_sent_with(
    sealed: House, account: str
) -> None:
    sealed.remote |= {"url": str(sealed.server.address(account)), "prune_url": str(sealed.server.address("rrsync"))}
    sealed.restart()
    points = chain(sealed, 2)
    sealed.ship()
    flip(age(sealed, points[0]))
    keep(sealed, "nothing")
    sealed.ship()
    assert here(sealed, points) == [True, True]
    assert "these files are missing or damaged: vda.qcow2.age" in notices(sealed)[0]
    assert sealed.ship() == [points[0].id]
    assert here(sealed, points) == [False, False]


def test_encrypted_images_stay_where_the_script_of_the_adding_key_is_older_and_tells_no_digests(
    sealed: House, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    older.write_text(
        f"#!/bin/sh\ncase $SSH_ORIGINAL_COMMAND in *digests*) exit 1;; esac\nexec {ADD_ONLY} {sealed.server.store}\n"
    )
    older.chmod(0o755)
    sealed.server.add_account("older", f'command="{older}",restrict ')
    sealed.remote["url"] = "ssh://older/"
    keep(sealed, "nothing")
    points = chain(sealed, 2)
    sealed.ship()
    assert here(sealed, points) == [True, True]
    assert "keep_local is without effect" in notices(sealed)[0]


@pytest.mark.parametrize("prune", [None, "rrsync"])
def test_encrypted_images_stay_where_nobody_can_compute_digests_and_that_is_told_once(
    sealed: House, prune: str | None
) -> None:
    sealed.remote["url"] = str(sealed.server.address("adder"))
    if prune:
        sealed.remote["prune_url"] = str(sealed.server.address(prune))
    keep(sealed, "nothing")
    points = chain(sealed, 3)
    sealed.ship()
    assert here(sealed, points) == [True, True, True]
    [told] = notices(sealed)
    assert "no account there has a shell" in told
    assert "keep_local is without effect" in told


def test_encrypted_images_go_when_the_account_that_prunes_computes_digests(sealed: House) -> None:
    sealed.remote["url"] = str(sealed.server.address("adder"))
    sealed.remote["prune_url"] = str(sealed.server.address("shell"))
    keep(sealed, "nothing")
    points = chain(sealed, 2)
    sealed.ship()
    assert here(sealed, points) == [False, False]
    assert notices(sealed) == []


def test_images_stay_when_no_key_of_today_opens_what_is_there_with_what_builds_on_them(sealed: House) -> None:
    """The private key of the recipient before is lost, perhaps: nobody needs it to change the settings."""
    old = chain(sealed, 2)
    sealed.ship()
    new = Identities.new()
    sealed.application.proved_recipients.prove(new.recipients[0], new)
    sealed.remote["recipients"] = list(new.recipients)
    keep(sealed, "nothing")
    on_them = sealed.shelf.add(old[-1], seed=7)
    full = sealed.shelf.add(seed=9)
    assert sealed.ship() == [on_them.id, full.id]
    assert here(sealed, [*old, on_them, full]) == [True, True, True, False]
    [told] = notices(sealed)
    assert told.startswith("images stay here: at nas none of today's recipients is known to open")
    assert all(point.id in told for point in old)
    assert on_them.id not in told


def test_images_go_once_one_of_several_recipients_of_then_is_one_of_today(sealed: House) -> None:
    points = chain(sealed, 2)
    sealed.ship()
    new = Identities.new()
    sealed.application.proved_recipients.prove(new.recipients[0], new)
    sealed.remote["recipients"] = [*KEY.recipients, *new.recipients]
    keep(sealed, "nothing")
    sealed.ship()
    assert here(sealed, points) == [False, False]
    assert notices(sealed) == []
