"""A point that has the id of another one there does not take its place: others may build on that."""

import pytest

from kvm_backup.domain.errors import RepositoryFormatError
from tests.integration.shipping.conftest import House


@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_a_point_of_a_repository_that_was_set_back_replaces_none_there(house: House, account: str) -> None:
    house.use(account)
    full = house.shelf.add()
    moment = house.shelf._next
    old = house.shelf.add(full, seed=2)
    child = house.shelf.add(old, seed=3)
    house.ship()
    before = {path: path.read_bytes() for path in house.server.store.rglob("*") if path.is_file()}
    for point in (child, old):
        house.shelf.repository.withdraw(point.id)
    house.shelf._next = moment
    new = house.shelf.add(full, seed=4)
    assert (new.id, new.uuid != old.uuid) == (old.id, True)
    with pytest.raises(RepositoryFormatError, match=f"holds another point as {new.id}"):
        house.ship()
    assert {path: path.read_bytes() for path in house.server.store.rglob("*") if path.is_file()} == before
