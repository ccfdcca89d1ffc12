"""Images that remotes hold go from here, and everything that reads points knows where they are."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import (
    KvmBackupError,
    PointElsewhereError,
    RemoteAccessError,
    RemoteUnreachableError,
    VmBusyError,
)
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.point_facts import facts_of
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.engine.chain import stored_clusters
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.restore import restore_chain
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE, mark_elsewhere, remove_images
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services import events
from kvm_backup.services.consolidate import links_to_merge
from kvm_backup.services.held_maps import disk_below, map_files
from kvm_backup.services.keep_local import Answer, KeepLocalService, LetGo
from kvm_backup.services.links import disk_links, seem_intact
from kvm_backup.services.prune import Pruned, PruneService, VmPoints
from kvm_backup.services.repository_check import check_repository
from kvm_backup.services.verify import Verdict, verify_points
from kvm_backup.services.vm_lock import hold_vm
from tests.unit.builders import MOMENT, VM_UUID, Shelf, flip_bit
from tests.unit.killing import steps

TARGETS = ("vda", "vdb")
EVERYTHING = RetentionRule(last=99, chain=99)


def _no_host() -> Hypervisor:
    raise AssertionError("libvirt was asked")


@dataclass
class Truthful:
    """A server that holds whole what it is known to hold."""

    mirror: Mirror
    asked: list[str]
    refusal: KvmBackupError | None = None

    def ask(self, points: Sequence[Manifest], check: Callable[[], None]) -> Iterator[Answer]:
        if self.refusal is not None:
            raise self.refusal
        for point in points:
            check()
            self.asked.append(point.id)
            yield Answer(point)


class House:
    """A local repository, and what two servers are known to hold of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf(folder / "repository")
        self.catalogue = Catalogue.open(folder / "catalogue.db")
        self.told: list[events.Event] = []
        self.asked: list[str] = []
        self.refusal: KvmBackupError | None = None
        self.mirrors = {
            name: Mirror.open(name, f"ssh://{name}/srv", folder / "state", self.repository.id)
            for name in ("nas", "far")
        }

    @property
    def repository(self) -> LocalRepository:
        return self.shelf.repository

    def chain(self, length: int) -> list[Manifest]:
        points = [self.shelf.add(targets=TARGETS)]
        while len(points) < length:
            created = MOMENT + timedelta(hours=len(points))
            points.append(self.shelf.add(points[-1], targets=TARGETS, seed=len(points), created=created))
        return points

    def ship(self, *points: Manifest, to: tuple[str, ...] = ("nas", "far")) -> None:
        for name in to:
            for point in points:
                self.mirrors[name].record(point.id, serialize(point))

    def let_go(self, keep: KeepLocal = KeepLocal.NOTHING) -> LetGo:
        service = KeepLocalService(
            self.repository, self.catalogue, self.folder / "locks", lock_wait=0.0, listener=self.told.append
        )
        witnesses = {name: Truthful(mirror, self.asked, self.refusal) for name, mirror in self.mirrors.items()}
        return service.apply(self.owner, witnesses, keep)

    @property
    def is_noted(self) -> bool:
        """Whether somebody is to try again."""
        return any(mirror.unsettled.holds(self.owner.folder.name) for mirror in self.mirrors.values())

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.told if isinstance(event, events.Notice)]

    @property
    def owner(self) -> VmPoints:
        (folder,) = self.repository.folders()
        return VmPoints(folder, "web", VM_UUID)

    def prune(self, rule: RetentionRule) -> Pruned:
        return PruneService(
            repository=self.repository,
            catalogue=self.catalogue,
            locks=self.folder / "locks",
            rule_for=lambda _name, _uuid: rule,
            zone=ZoneInfo("Europe/Paris"),
            lock_wait=0.0,
            space_reserve=0,
            level=1,
            listener=lambda _event: None,
            stop_requested=lambda: False,
            remotes={"nas", "far"},
        ).run(self.owner)

    def images(self) -> list[str]:
        """The images that are here, as STAMP/FILE."""
        return sorted(f"{path.parent.name}/{path.name}" for path in self.repository.root.rglob("*.qcow2"))

    def with_images(self) -> set[str]:
        return {f"{self.owner.folder.name}/{image.split('/')[0]}" for image in self.images()}

    def verdicts(self) -> list[Verdict]:
        points = list(self.repository.all_points())
        return list(verify_points(self.repository, points, hypervisor=_no_host, deep=True, control=NoControl()))

    def oddities(self) -> list[str]:
        return [f"{oddity.path.name} {oddity.problem}" for oddity in check_repository(self.repository)]

    def held(self, point: Manifest, target: str = "vda") -> set[int]:
        """The clusters that are known to hold data in a point and below it."""
        below = disk_below(self.repository, self.repository.chain(point), target)
        if below.held is None:
            images = [ImageFile.open(path) for path in below.images]
            return {stored.cluster for stored in stored_clusters(images)}
        held = below.held
        for path in below.images:
            with ImageFile.open(path) as image:
                held = held.under(image)
        return {cluster for cluster in range(held.clusters) if held.bits[cluster // 8] >> cluster % 8 & 1}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# What goes


def test_what_all_remotes_hold_goes_and_frees_its_space(house: House) -> None:
    points = house.chain(3)
    size = sum(path.stat().st_blocks * 512 for path in house.repository.root.rglob("*.qcow2"))
    house.ship(*points)
    done = house.let_go()
    assert set(done.points) == {point.id for point in points}
    assert done.bytes_freed == size > 0
    assert house.images() == []
    assert [house.repository.elsewhere(point.id) for point in points] == [("far", "nas")] * 3
    assert list(house.repository.all_points()) == points


def test_doing_it_again_does_nothing_and_needs_no_lock(house: House) -> None:
    house.ship(*house.chain(3))
    house.let_go()
    with hold_vm(house.folder / "locks", "web", VM_UUID, wait=0):
        assert house.let_go() == LetGo()


def test_what_one_remote_lacks_stays_with_all_that_it_builds_on(house: House) -> None:
    old, new = house.chain(2), house.chain(3)
    house.ship(*old, *new, to=("nas",))
    house.ship(*old, *new[:2], to=("far",))
    house.let_go()
    assert house.with_images() == {point.id for point in new}


def test_a_point_in_another_state_than_the_remote_has_it_stays(house: House) -> None:
    point = house.chain(1)[0]
    house.ship(point.model_copy(update={"notices": ("before it was consolidated",)}))
    assert house.let_go() == LetGo()
    assert house.with_images() == {point.id}


def test_only_the_newest_chain_stays_where_that_is_wanted(house: House) -> None:
    old, new = house.chain(2), house.chain(2)
    house.ship(*old, *new)
    house.let_go(KeepLocal.NEWEST_CHAIN)
    assert house.with_images() == {point.id for point in new}
    assert [verdict.good for verdict in house.verdicts()] == [True] * 4


def test_points_that_cannot_be_read_and_those_of_others_keep_what_they_may_build_on(house: House) -> None:
    first = house.chain(2)
    house.shelf.path(first[1], "manifest.json").write_text("{}")
    foreign = house.shelf.add(vm_uuid=VM_UUID[:-1] + "9")
    last = house.chain(1)
    house.ship(*first, foreign, *last)
    house.let_go()
    assert house.with_images() == {first[0].id, first[1].id, foreign.id}


def test_without_the_lock_nothing_goes(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    with hold_vm(house.folder / "locks", "web", VM_UUID, wait=0), pytest.raises(VmBusyError):
        house.let_go()
    assert house.with_images() == {point.id for point in points}
    assert house.repository.elsewhere(points[0].id) is None
    assert house.is_noted
    house.let_go()
    assert house.with_images() == set()
    assert not house.is_noted


@pytest.mark.parametrize("name", ["nas", "far"])
def test_a_note_that_nothing_is_left_to_do_for_goes_wherever_it_is(house: House, name: str) -> None:
    house.ship(*house.chain(1))
    house.mirrors[name].unsettled.note(house.owner.folder.name)
    house.let_go(KeepLocal.ALL)
    assert not house.is_noted


@pytest.mark.parametrize(("error", "again"), [(RemoteUnreachableError, True), (RemoteAccessError, False)])
def test_a_server_that_cannot_be_asked_now_is_asked_again_when_that_may_help(
    house: House, error: type[KvmBackupError], again: bool
) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.refusal = error("no", hint="Wait.")
    assert house.let_go() == LetGo()
    assert house.with_images() == {point.id for point in points}
    assert house.is_noted is again


# What is known of it


def test_the_map_of_the_newest_point_stands_for_its_chain_and_only_that_stays(house: House) -> None:
    points = house.chain(3)
    expected = {target: house.held(points[-1], target) for target in TARGETS}
    house.ship(*points)
    house.let_go()
    assert {target: house.held(points[-1], target) for target in TARGETS} == expected
    assert expected["vda"] != set()
    child = house.shelf.add(points[-1], targets=TARGETS)
    grown = house.held(child)
    house.ship(child)
    house.let_go()
    assert house.images() == []
    assert house.held(child) == grown
    kept = {path.parent.name for path in house.repository.root.rglob("*.held")}
    assert kept == {child.stamp}
    assert map_files(child) == {"vda.held", "vdb.held"}


def test_a_child_that_is_not_shipped_keeps_the_map_that_it_was_made_on(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    child = house.shelf.add(points[-1], targets=TARGETS)
    house.let_go()
    assert house.with_images() == {child.id}
    assert house.held(child) == house.held(points[-1]) | {0, 2, 4, 6}


def test_a_map_that_is_gone_is_told_and_no_guess_is_made(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    path = house.shelf.path(points[-1], "vda.held")
    flip_bit(path, path.stat().st_size - 1)
    with pytest.raises(Exception, match="map of disk vda"):
        house.held(points[-1])
    path.unlink()
    with pytest.raises(Exception, match=r"vda\.held is missing"):
        house.held(points[-1])


def test_an_image_that_is_damaged_here_goes_too_without_a_map(house: House) -> None:
    points = house.chain(1)
    house.ship(*points)
    house.shelf.path(points[0]).write_bytes(b"no image")
    house.let_go()
    assert house.images() == []
    assert not house.shelf.path(points[0], "vda.held").exists()


def test_who_reads_the_disks_is_told_where_they_are(house: House) -> None:
    points = house.chain(3)
    house.ship(*points)
    house.let_go()
    child = house.shelf.add(points[-1], targets=TARGETS)
    for point, named in ((points[0], f"the disks of {points[0].id} are not here"), (child, f"{child.id} builds on")):
        with pytest.raises(PointElsewhereError, match=named) as told:
            disk_links(house.repository, house.repository.chain(point), "vda")
        assert "far, nas" in told.value.message
        assert "--repository far" in told.value.hint
    with pytest.raises(PointElsewhereError):
        links_to_merge(house.repository, child)
    assert seem_intact(house.repository, house.repository.chain(child))


def test_verify_says_where_the_disks_are_and_checks_all_other_files(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    child = house.shelf.add(points[-1], targets=TARGETS)
    verdicts = house.verdicts()
    assert all(verdict.good for verdict in verdicts)
    assert [verdict.elsewhere for verdict in verdicts] == [("far", "nas"), ("far", "nas"), None]
    assert [verdict.chain_elsewhere for verdict in verdicts] == [None, None, ("far", "nas")]
    assert verdicts[0].bytes_checked < verdicts[2].bytes_checked == child.bytes_stored
    flip_bit(house.shelf.path(points[0], "domain.xml"), 3)
    flip_bit(house.shelf.path(child), 70000)
    damaged = {finding.file for verdict in house.verdicts() for finding in verdict.findings}
    assert damaged == {"domain.xml", "vda.qcow2"}


def test_a_check_of_the_repository_finds_nothing_odd_but_images_that_should_be_gone(house: House) -> None:
    points = house.chain(2)
    image = house.shelf.path(points[1]).read_bytes()
    house.ship(*points)
    house.let_go()
    assert house.oddities() == []
    house.shelf.path(points[1]).write_bytes(image)
    assert house.oddities() == ["vda.qcow2 is in another repository, and goes with the next shipment"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"format": 2, "repositories": ["nas"]}',
        '{"format": 1, "repositories": "nas"}',
        '{"format": 1, "repositories": ["a\\u001bb"]}',
        '{"format": 1, "repositories": [3]}',
        "[" * 60000,
    ],
)
def test_a_mark_that_cannot_be_read_is_none_so_that_missing_images_are_damage(house: House, content: str) -> None:
    points = house.chain(1)
    house.ship(*points)
    house.let_go()
    house.shelf.path(points[0], ELSEWHERE_FILE).write_text(content)
    assert house.repository.elsewhere(points[0].id) is None
    assert not house.verdicts()[0].good
    assert "elsewhere.json cannot be read, so that the images count as missing" in house.oddities()


def test_the_catalogue_counts_what_is_here_and_follows_each_change(house: House) -> None:
    points = house.chain(2)
    house.catalogue.refresh(house.repository)
    whole = house.catalogue.bytes_stored(house.repository.id)
    assert whole == sum(point.bytes_stored for point in points)
    house.ship(*points)
    house.let_go(KeepLocal.NEWEST_CHAIN)
    assert house.catalogue.bytes_stored(house.repository.id) == whole
    house.let_go()
    small = sum(stored.bytes for point in points for stored in point.files)
    assert house.catalogue.bytes_stored(house.repository.id) == small
    assert house.catalogue.elsewhere(house.repository) == {point.id: ("far", "nas") for point in points}
    assert house.catalogue.elsewhere(house.repository, VM_UUID[:-1] + "9") == {}


def facts(house: House) -> Any:
    house.catalogue.refresh(house.repository)
    return facts_of({"shelf": house.catalogue.summaries(house.repository.id, [VM_UUID])})


def test_a_vm_whose_points_are_elsewhere_counts_as_protected_and_one_whose_points_are_lost_does_not(
    house: House,
) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    assert (facts(house).last_point, facts(house).chain_length) == (points[1].id, 2)
    for mirror in house.mirrors.values():
        mirror.forget(points[1].id)
    house.let_go()
    assert facts(house).last_point == points[0].id


# What changes afterwards


def test_where_images_are_follows_what_each_remote_holds(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    house.mirrors["far"].forget(points[1].id)
    house.let_go()
    assert house.repository.elsewhere(points[1].id) == ("nas",)
    house.ship(points[1])
    house.let_go()
    assert house.repository.elsewhere(points[1].id) == ("far", "nas")


def test_a_remote_that_is_not_asked_keeps_its_name_on_the_mark(house: House) -> None:
    points = house.chain(1)
    house.ship(*points)
    house.let_go()
    del house.mirrors["far"]
    house.mirrors["nas"].forget(points[0].id)
    house.let_go()
    assert house.repository.elsewhere(points[0].id) == ("far",)


def test_points_that_every_remote_let_go_by_its_rule_are_forgotten_newest_first(house: House) -> None:
    old, new = house.chain(2), house.chain(1)
    house.ship(*old, *new)
    house.let_go()
    for mirror in house.mirrors.values():
        mirror.forget(old[1].id, by_rule=True)
        mirror.forget(old[0].id, by_rule=True)
    assert house.let_go().forgotten == (old[1].id, old[0].id)
    assert list(house.repository.all_points()) == new
    assert house.notices == []


def test_points_that_one_remote_let_go_by_its_rule_and_another_lost_stay_and_are_told(house: House) -> None:
    old, new = house.chain(1), house.chain(1)
    house.ship(*old, *new)
    house.let_go()
    house.mirrors["nas"].forget(old[0].id, by_rule=True)
    house.mirrors["far"].forget(old[0].id)
    assert house.let_go().forgotten == ()
    assert house.repository.elsewhere(old[0].id) == ()
    assert house.notices == [
        f"{old[0].id} is gone from far, and no rule removed it there",
        f"{old[0].id} is lost: no repository holds its images any more",
    ]


def test_points_that_a_remote_lost_stay_though_it_holds_newer_ones(house: House) -> None:
    old, new = house.chain(2), house.chain(1)
    house.ship(*old, *new)
    house.let_go()
    for mirror in house.mirrors.values():
        mirror.forget(old[1].id)
        mirror.forget(old[0].id)
    for _ in range(2):
        assert house.let_go().forgotten == ()
    assert [house.repository.elsewhere(point.id) for point in old] == [(), ()]
    assert [notice for notice in house.notices if "is lost" in notice] == [
        f"{point.id} is lost: no repository holds its images any more" for point in old
    ]


def test_a_remote_of_which_nothing_is_known_yet_has_lost_nothing(house: House, tmp_path: Path) -> None:
    points = house.chain(1)
    house.ship(*points)
    house.let_go()
    for name in house.mirrors:
        house.mirrors[name] = Mirror.open(name, f"ssh://{name}/moved", tmp_path / "state", house.repository.id)
    house.let_go()
    assert house.repository.elsewhere(points[0].id) == ("far", "nas")


def test_points_that_are_gone_from_all_remotes_together_with_all_newer_ones_are_lost_and_stay(house: House) -> None:
    points = house.chain(2)
    house.ship(*points)
    house.let_go()
    for mirror in house.mirrors.values():
        shutil.rmtree(mirror.root / points[0].folder)
    assert house.let_go().forgotten == ()
    assert [house.repository.elsewhere(point.id) for point in points] == [(), ()]
    assert not seem_intact(house.repository, points)
    assert {finding.kind for verdict in house.verdicts() for finding in verdict.findings} == {"images-lost"}
    with pytest.raises(PointElsewhereError, match="no longer hold"):
        disk_links(house.repository, points, "vda")
    house.ship(*points)
    house.let_go()
    assert all(verdict.good for verdict in house.verdicts())


def test_images_that_were_brought_back_stay_when_they_shall(house: House) -> None:
    points = house.chain(2)
    saved = {path: path.read_bytes() for path in house.repository.root.rglob("*.qcow2")}
    house.ship(*points)
    house.let_go()
    for path, content in saved.items():
        path.write_bytes(content)
    house.let_go(KeepLocal.ALL)
    assert [house.repository.elsewhere(point.id) for point in points] == [None, None]
    assert all(verdict.good and verdict.elsewhere is None for verdict in house.verdicts())


# Prune


def test_points_elsewhere_go_by_the_rule_but_never_what_a_kept_one_needs(house: House) -> None:
    old, new = house.chain(2), house.chain(3)
    house.ship(*old, *new)
    house.let_go()
    pruned = house.prune(RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0))
    assert list(house.repository.all_points()) == new
    assert {verdict.id for verdict in pruned.points if not verdict.kept} == {point.id for point in old}
    assert pruned.notices == ()


def test_the_newest_point_that_needs_no_remote_stays_though_newer_ones_are_elsewhere(house: House) -> None:
    old = house.chain(2)
    new = house.chain(3)
    house.ship(*new)
    for point in reversed(new):
        mark_elsewhere(house.repository.path_of(point.id), ["nas"])
        remove_images(house.repository.path_of(point.id), point)
    house.prune(RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0))
    assert old[1].id in {point.id for point in house.repository.all_points()}
    assert seem_intact(house.repository, house.repository.chain(house.repository.load(old[1].id)))


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named any more"])
def test_points_count_as_good_only_while_the_settings_name_one_of_the_remotes_that_hold_them(
    house: House, *, named: bool
) -> None:
    old, new = house.chain(2), house.chain(2)
    for point in reversed([*old, *new]):
        at = "nas" if point in old or named else "given-away"
        mark_elsewhere(house.repository.path_of(point.id), [at])
        remove_images(house.repository.path_of(point.id), point)
    pruned = house.prune(RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0))
    left = [point.id for point in house.repository.all_points()]
    assert left == [point.id for point in (new if named else [*old, *new])]
    assert len([notice for notice in pruned.notices if "given-away" in notice]) == (0 if named else 2)


def test_a_chain_that_is_partly_elsewhere_is_not_consolidated_and_stays_whole(house: House) -> None:
    points = house.chain(3)
    house.ship(*points)
    house.let_go()
    child = house.shelf.add(points[-1], targets=TARGETS)
    pruned = house.prune(RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0, chain=1))
    assert list(house.repository.all_points()) == [*points, child]
    assert not any(verdict.consolidated for verdict in pruned.points)


def test_a_full_point_that_follows_is_consolidated_as_ever(house: House) -> None:
    old = house.chain(2)
    house.ship(*old)
    house.let_go()
    new = house.chain(3)
    house.prune(RetentionRule(last=2, daily=0, weekly=0, monthly=0, yearly=0))
    assert [point.id for point in house.repository.all_points()] == [point.id for point in new[1:]]
    assert house.repository.load(new[1].id).parent is None


# Killed


def whole_or_marked(house: House, points: list[Manifest], before: dict[str, bytes]) -> None:
    for point in points:
        if house.repository.elsewhere(point.id) is None:
            chain = house.repository.chain(point)
            if all(house.repository.elsewhere(link.id) is None for link in chain):
                target = house.folder / "restored"
                paths = [link.path for link in disk_links(house.repository, chain, "vda")]
                restore_chain(paths, target, target_format="raw", control=NoControl())
                assert target.read_bytes() == before[point.id]
                target.unlink()
    assert all(verdict.good for verdict in house.verdicts())


def test_killed_at_any_step_each_point_is_whole_or_marked_and_the_next_pass_finishes(tmp_path: Path) -> None:
    house = House(tmp_path / "original")
    points = house.chain(3)
    house.ship(*points)
    before = {}
    for point in points:
        chain = house.repository.chain(point)
        paths = [link.path for link in disk_links(house.repository, chain, "vda")]
        restore_chain(paths, tmp_path / "raw", target_format="raw", control=NoControl())
        before[point.id] = (tmp_path / "raw").read_bytes()
        (tmp_path / "raw").unlink()
    expected = house.held(points[-1])

    def copied(name: str) -> House:
        shutil.copytree(house.folder, tmp_path / name, symlinks=True)
        return House(tmp_path / name)

    counted = copied("count")
    total = steps(counted.repository.root, counted.let_go, None)
    assert counted.images() == []
    assert total > 20
    for number in range(total):
        killed = copied(f"killed-{number}")
        assert steps(killed.repository.root, killed.let_go, number) == -1, number
        whole_or_marked(killed, points, before)
        killed.let_go()
        assert killed.images() == [], number
        assert killed.oddities() == [], number
        assert killed.held(points[-1]) == expected, number
        shutil.rmtree(killed.folder)


_PASS = """
import os, signal, sys
from pathlib import Path
from kvm_backup.repository import elsewhere
from tests.unit.services.test_keep_local_service import House

def die(folder, manifest):
    os.kill(os.getpid(), signal.SIGKILL)

import kvm_backup.services.keep_local as service
service.remove_images = die
House(Path(sys.argv[1])).let_go()
"""


def test_a_process_killed_between_the_mark_and_the_first_image_leaves_a_point_that_counts_as_elsewhere(
    house: House,
) -> None:
    points = house.chain(2)
    house.ship(*points)
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", _PASS, house.folder], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert house.with_images() == {point.id for point in points}
    assert [house.repository.elsewhere(point.id) for point in points] == [None, ("far", "nas")]
    with pytest.raises(PointElsewhereError):
        disk_links(house.repository, points, "vda")
    assert set(house.let_go().points) == {point.id for point in points}
    assert house.images() == []
