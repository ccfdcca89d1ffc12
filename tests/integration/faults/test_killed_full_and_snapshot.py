"""SIGKILL in a full backup, where there is no chain yet, and around a snapshot."""

import pytest

from lab import Lab
from tests.integration.backup.witness import same_disks
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def victim(module_lab: Lab) -> Victim:
    """One VM for all tests of snapshots, with a chain."""
    made = make_victim(module_lab, "snapped", mib=4, settings="[snapshot]\nkeep = 2\n")
    made.product.backup(made.vm.name)
    return made


@pytest.mark.parametrize(
    ("instant", "with_guard"), [("begun", True), ("progress:copy", False), ("manifest-written", True)]
)
def test_killed_first_backup_leaves_no_point_and_the_next_is_full(lab: Lab, instant: str, with_guard: bool) -> None:
    victim = make_victim(lab, "first", mib=8)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        if instant != "progress:copy":
            victim.write()
        run.kill_with_guard() if with_guard else run.kill()
    victim.is_well()
    assert "unfinished-point" in victim.leftovers()
    assert victim.product.points() == []
    victim.recovers(expected="full")
    assert victim.checkpoints() == [victim.product.point(victim.product.points()[0]["id"])["checkpoint"]]


def test_a_first_backup_killed_while_it_makes_the_repository_stands_in_nobodys_way(lab: Lab) -> None:
    victim = make_victim(lab, "very-first", mib=1)
    with stopped_at(victim.product, "repository-written", *victim.backup_words()) as run:
        run.kill()
    victim.recovers(expected="full")


def test_an_empty_folder_where_the_repository_was_is_not_taken_for_a_new_one(lab: Lab) -> None:
    victim = make_victim(lab, "unmounted", mib=1)
    victim.product.repository.mkdir()
    victim.product.run(*victim.backup_words()).failed(4)
    assert list(victim.product.repository.iterdir()) == []


@pytest.mark.parametrize("with_guard", [False, True], ids=["alone", "with-guard"])
def test_a_full_backup_killed_in_a_chain_keeps_the_chain(victim: Victim, with_guard: bool) -> None:
    victim.write(4)
    with stopped_at(victim.product, "progress:copy", *victim.backup_words("full")) as run:
        run.kill_with_guard() if with_guard else run.kill()
    victim.is_well()
    assert victim.leftovers() != []
    victim.recovers(expected="incremental")


@pytest.mark.parametrize(
    ("instant", "with_guard"), [("before-snapshot", False), ("snapshot-made", True), ("manifest-written", False)]
)
def test_a_snapshot_killed_before_its_point_is_visible_is_merged_by_the_next_run(
    victim: Victim, instant: str, with_guard: bool
) -> None:
    points = victim.product.points()
    snapshots = snapshots_of(victim)
    victim.write()
    with stopped_at(victim.product, instant, *victim.backup_words("snapshot")) as run:
        run.kill_with_guard() if with_guard else run.kill()
    victim.is_well()
    assert victim.product.points() == points
    made = ["snapshot"] if instant != "before-snapshot" else []
    assert sorted(victim.leftovers()) == [*made, "unfinished-point"]
    assert len(snapshots_of(victim)) == len(snapshots) + len(made)
    victim.recovers()
    assert snapshots_of(victim) == snapshots


def test_a_snapshot_killed_once_its_point_is_visible_is_kept(victim: Victim) -> None:
    victim.write()
    reference = victim.witness.copy(victim.vm)
    with stopped_at(victim.product, "renamed", *victim.backup_words("snapshot")) as run:
        victim.write()
        run.kill_with_guard()
    victim.is_well()
    made = victim.product.points(victim.vm.name)[-1]
    assert made["mode"] == "snapshot"
    same_disks(victim.witness.restored(made["id"], "qcow2"), reference)
    victim.recovers()
    same_disks(victim.witness.restored(made["id"], "qcow2"), reference)


def test_a_run_killed_while_it_drops_an_old_snapshot_leaves_no_point_that_lies(victim: Victim) -> None:
    seen = {}
    while len(snapshots_of(victim)) < 2:
        victim.write()
        reference = victim.witness.copy(victim.vm)
        seen[victim.product.backup(victim.vm.name, "snapshot")["point"]] = reference
    victim.write()
    with stopped_at(victim.product, "point-withdrawn", *victim.backup_words("snapshot")) as run:
        run.kill_with_guard()
    victim.is_well()
    assert "snapshot" in victim.leftovers()
    for point in victim.product.points(victim.vm.name):
        if point["id"] in seen:
            same_disks(victim.witness.restored(point["id"], "qcow2"), seen[point["id"]])
    victim.recovers()
    assert len(snapshots_of(victim)) == 2
    for point in victim.product.points(victim.vm.name):
        if point["id"] in seen:
            same_disks(victim.witness.restored(point["id"], "qcow2"), seen[point["id"]])


def snapshots_of(victim: Victim) -> list[str]:
    return sorted(str(one.getName()) for one in victim.vm.domain.listAllSnapshots())
