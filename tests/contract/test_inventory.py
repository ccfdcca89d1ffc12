"""The inventory keeps its word on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL

from kvm_backup.database.engine import Database
from kvm_backup.database.inventory import Inventory, VmFilter, VmSort
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.errors import VmNotFoundError
from kvm_backup.domain.inventory import HostFacts, PointFacts, ProtectionCounts, RunFacts, VmDisk, VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Newest, Promise, Protection
from kvm_backup.domain.run import RunState
from kvm_backup.domain.timing import parse_timing
from kvm_backup.domain.vm import VmState

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def inventory(database: Database) -> Inventory:
    return Inventory(database, "alpha")


def a_vm(number: int, name: str | None = None, **changes: Any) -> VmRecord:
    record = VmRecord(f"1a2b3c4d-0000-4000-8000-{number:012d}", name or f"vm-{number}", VmState.RUNNING)
    return replace(record, **changes)


WHOLE = a_vm(
    1,
    "web \U0001f600 'é",
    gone_since=MOMENT,
    disks=(VmDisk("vda", "qcow2", 2**40), VmDisk("sda", "raw", None, LeftOut.CDROM)),
    virtual_size=2**40,
    points=PointFacts(
        last_point="web--1a2b3c4d/20261122T020000Z",
        last_point_at=MOMENT,
        last_point_mode=Mode.INCREMENTAL,
        last_point_repository="/a path",
        last_snapshot_at=MOMENT - timedelta(hours=1),
        chain_length=7,
        points=30,
        bytes_stored=7 * 2**40,
        newest={"/a path": Newest(MOMENT, MOMENT), "far": Newest(None, MOMENT + timedelta(microseconds=1))},
    ),
    runs=RunFacts(
        last_run="r2",
        last_run_state=RunState.CANCELLED,
        last_run_at=MOMENT,
        last_run_error_code="cancelled",
        failed_run="r1",
        failed_at=MOMENT,
        failed_runs=3,
        error="no space\0",
        error_code="no-space",
        hint="Free some.",
        usual=timedelta(seconds=90),
    ),
    promises=(
        Promise("s1", parse_timing("weekly", "dimanche:03:00"), "far", snapshot=True, since=MOMENT),
        Promise("s2", parse_timing("cron", "30 2 * * 1-5"), "far", snapshot=False, since=MOMENT),
    ),
    protection=Protection.OVERDUE,
    overdue=True,
    promised=MOMENT,
    missed=MOMENT - timedelta(days=1),
    next_due=MOMENT + timedelta(days=1),
)


def test_everything_about_a_vm_is_kept(inventory: Inventory) -> None:
    inventory.save([WHOLE])
    kept = inventory.get(WHOLE.uuid)
    assert kept == replace(WHOLE, runs=replace(WHOLE.runs, error="no space\\x00"))
    assert inventory.load() == {WHOLE.uuid: kept}


def test_a_row_is_replaced_and_removed(inventory: Inventory) -> None:
    inventory.save([WHOLE, a_vm(2)])
    inventory.save([a_vm(1, "www")], removed=[a_vm(2).uuid])
    assert inventory.load() == {WHOLE.uuid: a_vm(1, "www")}
    with pytest.raises(VmNotFoundError):
        inventory.get(a_vm(2).uuid)


def test_another_hosts_vms_are_not_seen(database: Database, inventory: Inventory) -> None:
    inventory.save([a_vm(1)])
    beta = Inventory(database, "beta")
    beta.save([a_vm(1, "other"), a_vm(2)])
    assert [vm.name for vm in inventory.page()] == ["vm-1"]
    assert (inventory.count(), beta.count()) == (1, 2)
    beta.save([], removed=[a_vm(1).uuid])
    assert inventory.get(a_vm(1).uuid).name == "vm-1"


FLEET = [
    a_vm(1, "db", protection=Protection.PROTECTED, virtual_size=30),
    a_vm(2, "app", protection=Protection.OVERDUE, missed=MOMENT, state=VmState.STOPPED),
    a_vm(3, "web", protection=Protection.OVERDUE, missed=MOMENT - timedelta(days=2), virtual_size=20),
    a_vm(4, "mail", protection=Protection.NEVER),
    a_vm(5, "100%_sure", protection=Protection.LATE, points=PointFacts(last_point_at=MOMENT)),
    a_vm(6, "old", protection=Protection.UNSCHEDULED, gone_since=MOMENT, state=None),
    a_vm(7, "Test", protection=Protection.UNSCHEDULED),
    a_vm(8, "idle", protection=Protection.PENDING),
]


@pytest.fixture
def fleet(inventory: Inventory) -> Inventory:
    inventory.save(FLEET)
    return inventory


def names(vms: list[VmRecord]) -> list[str]:
    return [vm.name for vm in vms]


def test_the_worst_come_first_and_those_that_are_gone_last(fleet: Inventory) -> None:
    assert names(fleet.page()) == ["web", "app", "mail", "100%_sure", "Test", "db", "idle", "old"]


def test_a_list_is_cut_into_pages_without_losing_or_doubling_one(fleet: Inventory) -> None:
    for sort in VmSort:
        for descending in (False, True):
            pages = [
                vm.uuid
                for offset in range(0, 9, 3)
                for vm in fleet.page(sort=sort, descending=descending, offset=offset, limit=3)
            ]
            assert sorted(pages) == [vm.uuid for vm in FLEET], sort


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        (VmSort.SIZE, 0, 30),
        (VmSort.LAST_POINT, None, MOMENT),
    ],
)
def test_what_is_not_known_counts_as_the_least(fleet: Inventory, sort: VmSort, first: Any, last: Any) -> None:
    def value(vm: VmRecord) -> Any:
        return vm.virtual_size if sort is VmSort.SIZE else vm.points.last_point_at

    ascending, descending = (fleet.page(sort=sort, descending=down) for down in (False, True))
    assert (value(ascending[0]), value(ascending[-1])) == (first, last)
    assert (value(descending[0]), value(descending[-1])) == (last, first)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (VmFilter(search="es"), {"Test"}),
        (VmFilter(search="EB"), {"web"}),
        (VmFilter(search="%_"), {"100%_sure"}),
        (VmFilter(search="1A2B3C4D"), {vm.name for vm in FLEET}),
        (VmFilter(search="'; DROP TABLE vms; --"), set()),
        (VmFilter(search="\0"), set()),
        (VmFilter(protection=Protection.OVERDUE), {"web", "app"}),
        (VmFilter(protection=Protection.UNSCHEDULED), {"Test"}),
        (VmFilter(state=VmState.STOPPED), {"app"}),
        (VmFilter(gone=True), {"old"}),
        (VmFilter(gone=False, search="o"), set()),
    ],
)
def test_a_filter_finds_what_it_says_and_counts_the_same(
    fleet: Inventory, which: VmFilter, expected: set[str]
) -> None:
    assert set(names(fleet.page(which))) == expected
    assert fleet.count(which) == len(expected)


def test_vms_are_counted_by_how_well_they_are_protected(fleet: Inventory) -> None:
    counts = fleet.counts()
    assert counts == ProtectionCounts(protected=1, late=1, overdue=2, never=1, unscheduled=1, pending=1, gone=1)
    assert counts.total == 7


def test_an_empty_inventory_counts_nothing(inventory: Inventory) -> None:
    assert inventory.counts() == ProtectionCounts()
    assert (inventory.page(), inventory.count()) == ([], 0)


def test_of_two_vms_of_a_name_the_one_that_libvirt_has_is_found(fleet: Inventory) -> None:
    fleet.save([a_vm(8, "web", gone_since=MOMENT)])
    assert fleet.find("web").uuid == a_vm(3).uuid
    assert fleet.find(a_vm(8).uuid).gone
    assert set(fleet.some([a_vm(1).uuid, "nothing"])) == {a_vm(1).uuid}
    assert set(fleet.named(["web", a_vm(2).uuid, "old", "nothing"])) == {"web", a_vm(2).uuid}
    with pytest.raises(VmNotFoundError, match="'nothing'"):
        fleet.find("nothing")


def test_when_the_host_was_looked_at_is_kept(inventory: Inventory) -> None:
    assert inventory.host_facts() == HostFacts()
    away = HostFacts(listed=MOMENT, away_since=MOMENT, away_error="no answer", examined=MOMENT)
    inventory.note_host(away)
    assert inventory.host_facts() == away
    inventory.note_host(HostFacts(listed=MOMENT))
    assert inventory.host_facts() == HostFacts(listed=MOMENT)
