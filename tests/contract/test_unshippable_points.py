"""What cannot be shipped, on each database."""

import pytest
from sqlalchemy import URL

from kvm_backup.database.engine import Database
from kvm_backup.database.unshippable_points import UnshippablePoints
from kvm_backup.domain.waiting import Unshippable, UnshippableSum

UUID = "1a2b3c4d-0000-4000-8000-000000000001"


def line(name: str, remote: str = "nas", *, points: int = 1, next_full: bool = True) -> Unshippable:
    folder = f"{name}--1a2b3c4d"
    ids = tuple(f"{folder}/2026112{day}T020000Z" for day in range(points))
    return Unshippable(remote, folder, name, UUID, ids, next_full=next_full, unsure=not next_full)


@pytest.fixture
def store(url: URL) -> UnshippablePoints:
    return UnshippablePoints(Database.open(url), "alpha")


def test_a_page_is_in_the_order_of_names_and_can_be_searched(store: UnshippablePoints) -> None:
    store.save([line("web", "away"), line("web"), line("db")])
    assert store.page() == [line("db"), line("web", "away"), line("web")]
    assert store.page(remote="nas", search="WE") == [line("web")]
    assert (store.page(limit=1), store.count(), store.count(search="%")) == ([line("db")], 3, 0)


def test_a_line_is_replaced_by_a_newer_one_and_goes_when_it_is_so_no_longer(store: UnshippablePoints) -> None:
    store.save([line("web"), line("db")])
    newer = line("web", points=3, next_full=False)
    store.save([newer], [line("db").place])
    assert store.load() == {newer.place: newer}
    assert store.of_vm(UUID) == [newer]


def test_more_lines_than_one_statement_takes_are_written_and_forgotten(store: UnshippablePoints) -> None:
    lines = [line(f"vm{number:04}") for number in range(1000)]
    store.save(lines)
    store.save(lines)
    assert store.count() == 1000
    store.save([], [one.place for one in lines[1:]])
    assert store.page() == lines[:1]


def test_sums_tell_apart_what_makes_the_next_backup_a_full_one(store: UnshippablePoints) -> None:
    store.save([line("web", points=2), line("db", points=3, next_full=False), line("web", "away")])
    assert store.sums() == {"nas": UnshippableSum(2, 5, 1, 2, ("web",)), "away": UnshippableSum(1, 1, 1, 1, ("web",))}


def test_sums_name_the_first_five_vms(store: UnshippablePoints) -> None:
    store.save([line(name) for name in "gfedcba"])
    assert store.sums()["nas"].names == tuple("abcde")


def test_each_host_has_its_own(url: URL, store: UnshippablePoints) -> None:
    store.save([line("web")])
    other = UnshippablePoints(Database.open(url), "beta")
    assert (other.page(), other.sums(), other.load(), other.of_vm(UUID)) == ([], {}, {}, [])
