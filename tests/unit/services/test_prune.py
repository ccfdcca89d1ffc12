"""Prune on real files: what stays reads the same, what goes frees space, and a kill at any step does no harm."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import CancelledError, NoSpaceError, PointNotFoundError, StorageError, VmBusyError
from kvm_backup.domain.point import DiskMode, Manifest, Mode, StoredDisk, serialize
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE
from kvm_backup.engine.restore import restore_chain
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository import durable, exchange
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.encryption.staging import Staging
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services import events
from kvm_backup.services.links import disk_links
from kvm_backup.services.prune import Pruned, PruneService, vms_with_points
from kvm_backup.services.verify import verify_points
from kvm_backup.services.vm_lock import hold_vm
from tests.unit.builders import MOMENT, VM_UUID, Shelf, a_disk, flip_bit
from tests.unit.killing import steps

NEWEST = RetentionRule(last=2, daily=0, weekly=0, monthly=0, yearly=0)
TARGETS = ("vda", "vdb")


def _no_host() -> Hypervisor:
    """No point here is a snapshot, so that nobody asks libvirt."""
    raise AssertionError("libvirt was asked")


class Bench:
    """A repository, and what prunes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf(folder / "repository")
        self.catalogue = Catalogue.open(folder / "catalogue.db")
        self.told: list[events.Event] = []
        self.stop = False

    @property
    def repository(self) -> LocalRepository:
        return self.shelf.repository

    def chain(self, length: int, **changes: Any) -> list[Manifest]:
        """A full point and incrementals, two disks each."""
        points = [self.shelf.add(targets=TARGETS, **changes)]
        while len(points) < length:
            points.append(self.shelf.add(points[-1], targets=TARGETS, seed=len(points), **changes))
        return points

    def prune(self, rule: RetentionRule = NEWEST, *, dry_run: bool = False, name: str | None = None) -> Pruned:
        service = PruneService(
            repository=self.repository,
            catalogue=self.catalogue,
            locks=self.folder / "locks",
            rule_for=lambda _name, _uuid: rule,
            zone=ZoneInfo("Europe/Paris"),
            lock_wait=0.0,
            space_reserve=0,
            level=1,
            listener=self.told.append,
            stop_requested=lambda: self.stop,
            remotes=(),
        )
        return service.run(vms_with_points(self.repository, name)[0], dry_run=dry_run)

    def points(self) -> list[str]:
        return [point.id for point in self.repository.all_points()]

    def content(self, point_id: str, target: str = "vda") -> bytes:
        """What a restore of a disk gives."""
        chain = self.repository.chain(self.repository.load(point_id))
        paths = [link.path for link in disk_links(self.repository, chain, target)]
        restored = self.folder / "restored"
        restore_chain(paths, restored, target_format="raw", control=NoControl())
        try:
            return restored.read_bytes()
        finally:
            restored.unlink()

    def findings(self) -> list[str]:
        points = list(self.repository.all_points())
        verdicts = verify_points(self.repository, points, hypervisor=_no_host, deep=True, control=NoControl())
        return [finding.message for verdict in verdicts for finding in verdict.findings]

    def hidden(self) -> list[str]:
        return sorted(path.name for path in (self.repository.root).glob("*/.*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_oldest_kept_point_becomes_full_and_all_that_stays_reads_the_same(bench: Bench, tmp_path: Path) -> None:
    points = bench.chain(5)
    before = {(point.id, target): bench.content(point.id, target) for point in points[3:] for target in TARGETS}
    pruned = bench.prune()
    assert bench.points() == [point.id for point in points[3:]]
    assert {(point, target): bench.content(point, target) for point, target in before} == before
    assert bench.findings() == []
    assert bench.hidden() == []
    changed, same = bench.repository.load(points[3].id), bench.repository.load(points[4].id)
    assert same == points[4]
    kept = {"id", "uuid", "checkpoint", "created", "requested_mode", "files", "consistency"}
    assert {key: getattr(changed, key) for key in kept} == {key: getattr(points[3], key) for key in kept}
    assert (changed.mode, changed.parent, changed.parent_uuid) == (Mode.FULL, None, None)
    assert {disk.mode for disk in changed.disks} == {DiskMode.FULL}
    assert [verdict.consolidated for verdict in pruned.points] == [False, False, False, True, False]
    assert [verdict.kept for verdict in pruned.points] == [False, False, False, True, True]
    assert 0 < pruned.bytes_freed == pruned.bytes_before - pruned.bytes_after


def test_qemu_reads_the_child_of_a_consolidated_point_by_itself(bench: Bench, tmp_path: Path) -> None:
    points = bench.chain(4)
    expected = bench.content(points[3].id)
    bench.prune()
    image = bench.shelf.path(points[3])
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, tmp_path / "raw"], check=True)
    assert (tmp_path / "raw").read_bytes() == expected


def test_what_waited_encrypted_for_a_remote_goes_with_its_point_and_stays_with_one_that_stays(bench: Bench) -> None:
    points = bench.chain(3)
    stagings = [Staging.of(bench.repository.path_of(point.id), "nas") for point in points]
    for staging in stagings:
        staging.folder.mkdir()
    bench.prune()
    assert bench.hidden() == [staging.folder.name for staging in stagings[1:]]


def test_a_dry_run_tells_the_same_and_changes_nothing(bench: Bench) -> None:
    bench.chain(5)
    files = {path: path.stat().st_mtime_ns for path in bench.repository.root.rglob("*")}
    told = bench.prune(dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in bench.repository.root.rglob("*")} == files
    assert [verdict.explanation.split(":")[0] for verdict in told.points] == ["goes"] * 3 + ["kept"] * 2
    assert "becomes a full point" in told.points[3].explanation
    done = bench.prune()
    assert [(verdict.id, verdict.kept, verdict.consolidated) for verdict in told.points] == [
        (verdict.id, verdict.kept, verdict.consolidated) for verdict in done.points
    ]
    assert abs(told.bytes_after - done.bytes_after) < 8 * CLUSTER_SIZE
    assert done.points[0].explanation == "removed"


def test_pruning_again_changes_nothing(bench: Bench) -> None:
    bench.chain(5)
    bench.prune()
    points = bench.points()
    again = bench.prune()
    assert bench.points() == points
    assert again.bytes_freed == 0
    assert all(verdict.kept and not verdict.consolidated for verdict in again.points)


def test_incremental_for_ever_stays_bounded_and_keeps_what_it_needs(bench: Bench) -> None:
    newest = bench.shelf.add(targets=TARGETS)
    sizes = []
    for number in range(9):
        newest = bench.shelf.add(bench.repository.load(newest.id), targets=TARGETS, seed=number)
        expected = bench.content(newest.id)
        sizes.append(bench.prune().bytes_after)
        assert len(bench.repository.chain(bench.repository.load(newest.id))) <= 2
        assert bench.content(newest.id) == expected
    assert bench.findings() == []
    assert max(sizes[2:]) <= sizes[2] + 4 * CLUSTER_SIZE


def test_the_words_say_why(bench: Bench) -> None:
    points = bench.chain(4)
    rule = RetentionRule(last=1, daily=1, weekly=1, monthly=0, yearly=1, chain=2)
    told = {verdict.id: verdict for verdict in bench.prune(rule, dry_run=True).points}
    assert told[points[3].id].reasons == ("last", "daily", "weekly", "yearly", "good")
    assert told[points[3].id].explanation == (
        "kept: one of the newest, daily 2026-11-22, weekly 2026-W47, yearly 2026, one of the newest good ones;"
        " becomes a full point, so that nothing below it is needed"
    )
    flip = bench.shelf.path(points[3])
    flip.write_bytes(flip.read_bytes()[:-512])
    told = {verdict.id: verdict for verdict in bench.prune(rule, dry_run=True).points}
    assert told[points[2].id].explanation.startswith("kept: one of the newest, daily")
    assert "damaged, but no newer point is good" in told[points[3].id].explanation
    assert told[points[1].id].explanation == "goes"
    (bench.shelf.path(points[2], "manifest.json")).write_text("{}")
    told = {verdict.id: verdict for verdict in bench.prune(rule, dry_run=True).points}
    assert "cannot be read, so it is left alone" in told[points[2].id].explanation
    assert told[points[1].id].explanation.startswith("kept: one of the newest")


def test_whole_disks_and_small_files_are_not_copied(bench: Bench) -> None:
    full = bench.shelf.add(targets=TARGETS)
    other = bench.shelf.add(targets=TARGETS)
    child = bench.shelf.add(full, targets=TARGETS)
    whole = StoredDisk(**{**dict(other.disks[1]), "mode": DiskMode.WHOLE})
    shutil.copy(bench.shelf.path(other, "vdb.qcow2"), bench.shelf.path(child, "vdb.qcow2"))
    child = Manifest(**{**dict(child), "disks": (child.disks[0], whole)})
    bench.shelf.replace_manifest(child, serialize(child))
    inodes = {name: bench.shelf.path(child, name).stat().st_ino for name in ("vdb.qcow2", "domain.xml", "vda.qcow2")}
    bench.prune(RetentionRule(last=1, daily=0, weekly=0, monthly=0))
    assert bench.points() == [child.id]
    made = bench.repository.load(child.id)
    assert made.disk("vdb") == whole
    after = {name: bench.shelf.path(child, name).stat().st_ino for name in inodes}
    assert {name for name in inodes if after[name] == inodes[name]} == {"vdb.qcow2", "domain.xml"}


def test_where_files_can_have_no_second_name_they_are_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    points = bench.chain(3)
    expected = bench.content(points[2].id)
    bench.prune()
    assert bench.content(points[2].id) == expected
    assert bench.findings() == []


def test_snapshots_are_left_to_the_backup(bench: Bench) -> None:
    snapshot = bench.shelf.add(
        mode=Mode.SNAPSHOT,
        snapshot="kvm-backup-s",
        disks=(a_disk(mode=DiskMode.HOST, file=None, image_sha256=None, host_path="/images/a"),),
    )
    points = bench.chain(4)
    pruned = bench.prune()
    assert snapshot.id not in [verdict.id for verdict in pruned.points]
    assert bench.points() == [snapshot.id, points[2].id, points[3].id]


def test_a_damaged_link_is_found_before_it_is_copied_and_all_that_needs_it_stays(bench: Bench) -> None:
    points = bench.chain(6)
    flip_bit(bench.shelf.path(points[2]), CLUSTER_SIZE + 100)
    pruned = bench.prune()
    # The newest good ones are those below the damage, however old.
    assert bench.points() == [point.id for point in points]
    assert not any(verdict.consolidated for verdict in pruned.points if verdict.id != points[0].id)
    assert any(points[2].id in notice and "not as it was written" in notice for notice in pruned.notices)


def test_points_that_cannot_be_read_and_what_they_may_need_stay(bench: Bench) -> None:
    old = bench.chain(3)
    bench.shelf.path(old[2], "manifest.json").write_text("{}")
    new = bench.chain(3)
    pruned = bench.prune()
    assert bench.points() == [point.id for point in (*old, new[1], new[2])]
    assert isinstance(bench.repository.examine(old[2].id), DamagedPoint)
    assert bench.shelf.path(old[2], "manifest.json").read_text() == "{}"
    assert any("is left alone" in notice for notice in pruned.notices)


def test_points_of_another_vm_in_the_folder_are_left_alone(bench: Bench) -> None:
    mine = bench.shelf.add()
    foreign = bench.shelf.add(vm_uuid=VM_UUID[:-1] + "9")
    new = bench.chain(3)
    pruned = bench.prune()
    assert bench.points() == [foreign.id, new[1].id, new[2].id]
    assert mine.id not in bench.points()
    assert any("belongs to another VM" in notice for notice in pruned.notices)


def test_without_room_the_chain_stays_as_it_is_and_other_points_still_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lonely = bench.shelf.add(targets=TARGETS)
    points = bench.chain(4)

    def full(*_: object, **__: object) -> Manifest:
        raise NoSpaceError("no space left", hint="Free some.")

    monkeypatch.setattr("kvm_backup.services.prune.consolidate_point", full)
    pruned = bench.prune()
    assert bench.points() == [point.id for point in points]
    assert lonely.id not in bench.points()
    assert any("no space left" in notice for notice in pruned.notices)
    assert bench.findings() == []


def test_a_stop_is_obeyed_and_leaves_whole_points(bench: Bench) -> None:
    points = bench.chain(4)
    bench.stop = True
    with pytest.raises(CancelledError):
        bench.prune()
    assert bench.points() == [point.id for point in points]
    assert bench.hidden() == []


def test_it_waits_for_no_other_run_longer_than_it_may(bench: Bench) -> None:
    bench.chain(2)
    with hold_vm(bench.folder / "locks", "web", VM_UUID, wait=0), pytest.raises(VmBusyError):
        bench.prune()
    with hold_vm(bench.folder / "locks", "web", VM_UUID, wait=0):
        assert bench.prune(dry_run=True).dry_run


def test_the_catalogue_knows_what_is_left(bench: Bench) -> None:
    points = bench.chain(4)
    bench.catalogue.refresh(bench.repository)
    bench.prune()
    known = bench.catalogue.points(bench.repository)
    assert [point.id for point in known] == [point.id for point in points[2:]]
    assert known[0].mode is Mode.FULL


def test_a_name_is_looked_up_and_a_folder_that_nobody_can_tell_the_owner_of_is_refused(bench: Bench) -> None:
    point = bench.shelf.add()
    for name in ("web", VM_UUID, point.folder):
        assert [found.vm_uuid for found in vms_with_points(bench.repository, name)] == [VM_UUID]
    with pytest.raises(PointNotFoundError, match="db"):
        vms_with_points(bench.repository, "db")
    bench.shelf.path(point, "manifest.json").write_text("{}")
    with pytest.raises(PointNotFoundError, match="not known whose"):
        bench.prune()


def test_an_unfinished_backup_is_not_its_business(bench: Bench) -> None:
    bench.chain(3)
    unfinished = bench.repository.begin_point("web", VM_UUID, MOMENT + timedelta(days=9))
    bench.prune()
    assert unfinished.is_dir()


def test_a_point_that_was_consolidated_while_it_was_verified_is_not_called_damaged(bench: Bench) -> None:
    points = bench.chain(3)
    bench.prune()
    # By the manifest that was read before.
    (verdict,) = verify_points(bench.repository, [points[1]], hypervisor=_no_host, deep=True, control=NoControl())
    assert verdict.good
    flip_bit(bench.shelf.path(points[1]), CLUSTER_SIZE + 9)
    (verdict,) = verify_points(bench.repository, [points[1]], hypervisor=_no_host, deep=True, control=NoControl())
    assert {finding.file for finding in verdict.findings} == {"vda.qcow2"}


# Where two folders cannot change places


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_one: Path, _other: Path) -> None:
        raise OSError(errno.EINVAL, "not on this file system")

    monkeypatch.setattr(exchange, "rename_exchange", refuse)


@pytest.mark.usefixtures("without_exchange")
def test_without_exchange_the_result_is_the_same(bench: Bench) -> None:
    points = bench.chain(4)
    expected = bench.content(points[3].id)
    bench.prune()
    assert bench.points() == [point.id for point in points[2:]]
    assert bench.content(points[3].id) == expected
    assert bench.findings() == []
    assert bench.hidden() == []


def test_other_failures_of_the_exchange_leave_the_point_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_one: Path, _other: Path) -> None:
        raise OSError(errno.EIO, "broken")

    points = bench.chain(4)
    with monkeypatch.context() as patched:
        patched.setattr(exchange, "rename_exchange", refuse)
        pruned = bench.prune()
    assert any("could not be consolidated" in notice for notice in pruned.notices)
    assert bench.points() == [point.id for point in points]
    assert bench.findings() == []
    bench.prune()
    assert bench.points() == [point.id for point in points[2:]]
    assert bench.hidden() == []


@pytest.mark.usefixtures("without_exchange")
def test_when_the_second_rename_fails_the_old_folder_is_put_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = bench.chain(3)
    real = durable.rename

    def fail_once(old: Path, new: Path) -> None:
        if old.name.startswith(exchange.CONSOLIDATE_PREFIX):
            raise StorageError("broken", hint="Look.")
        real(old, new)

    monkeypatch.setattr(durable, "rename", fail_once)
    bench.prune()
    assert bench.points() == [point.id for point in points]
    assert bench.findings() == []


def test_who_clears_up_unfinished_points_puts_a_lost_one_back_and_removes_what_is_left_of_one_that_is_there(
    bench: Bench,
) -> None:
    points = bench.chain(3)
    folder = bench.repository.root / points[0].folder
    (folder / points[1].stamp).rename(folder / f".partial-old-{points[1].stamp}")
    shutil.copytree(folder / points[2].stamp, folder / f".partial-old-{points[2].stamp}")
    for partial in bench.repository.partials(folder):
        bench.repository.discard(partial)
    assert bench.points() == [point.id for point in points]
    assert bench.findings() == []
    assert bench.hidden() == []


# Killed at every step


@contextlib.contextmanager
def copy_of(bench: Bench, folder: Path) -> Iterator[Bench]:
    shutil.copytree(bench.repository.root, folder / "repository", symlinks=True)
    try:
        yield Bench(folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("exchanging", [True, False], ids=["exchange", "two renames"])
def test_killed_at_any_step_nothing_is_lost_and_the_next_prune_finishes(
    bench: Bench, tmp_path: Path, exchanging: bool, request: pytest.FixtureRequest
) -> None:
    if not exchanging:
        request.getfixturevalue("without_exchange")
    points = bench.chain(4)
    expected = {(point.id, target): bench.content(point.id, target) for point in points[2:] for target in TARGETS}
    with copy_of(bench, tmp_path / "count") as whole:
        total = steps(whole.repository.root, whole.prune, None)
        assert whole.points() == [point.id for point in points[2:]]
    assert total > 25
    missing = 0
    for number in range(total):
        with copy_of(bench, tmp_path / "one") as killed:
            assert steps(killed.repository.root, killed.prune, number) == -1, number
            there = set(killed.points())
            if exchanging:
                assert killed.findings() == [], number
                assert {point for point, _ in expected} <= there, number
                assert {key: killed.content(*key) for key in expected} == expected, number
            elif not {point for point, _ in expected} <= there:
                missing += 1
            killed.prune()
            assert killed.points() == [point.id for point in points[2:]], number
            assert killed.hidden() == [], number
            assert {key: killed.content(*key) for key in expected} == expected, number
    assert missing <= (0 if exchanging else 3)
