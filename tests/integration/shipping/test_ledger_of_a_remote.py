"""What this host noted of its own shipments stays known, whatever is read anew."""

import pytest

from tests.integration.shipping.conftest import House


@pytest.mark.parametrize("house_of", ["house", "sealed"])
def test_what_was_shipped_and_removed_is_still_known_once_the_remote_was_read_anew(
    house_of: str, request: pytest.FixtureRequest, key_file: object
) -> None:
    house: House = request.getfixturevalue(house_of)
    if house_of == "sealed":
        house.remote["identity_file"] = str(key_file)
    points = [house.shelf.add(seed=seed) for seed in range(2)]
    house.restart()
    house.ship()
    house.remote["retention"] = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}
    house.remote["prune_url"] = str(house.server.address("shell"))
    house.restart()
    newest = house.shelf.add(seed=7)
    house.ship()
    house.rescan()
    mirror = house.application.shipping.mirror("nas")
    assert mirror.shipped_by_us() == {newest.id}
    assert mirror.removed_by_rule() == {point.id for point in points}


def test_a_mirror_that_does_not_say_whose_it_is_is_read_anew_and_keeps_what_was_noted(house: House) -> None:
    point = house.shelf.add()
    house.ship()
    (house.application.shipping.mirror("nas").root / "kvm-backup.json").write_bytes(b"")
    house.rescan()
    mirror = house.application.shipping.mirror("nas")
    assert [known.id for known in mirror.repository.all_points()] == [point.id]
    assert mirror.shipped_by_us() == {point.id}
