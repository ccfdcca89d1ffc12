"""Reading from a remote: what is fetched, what is refused, and what is left behind."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvm_backup.domain.errors import BadArgumentError, KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.task import InPlace, RestoreTarget, ToFolder
from kvm_backup.services import events
from kvm_backup.services.vm_lock import hold_fetched
from tests.integration.shipping.conftest import House
from tests.unit.builders import flip_bit

SLOW = "100KiB"
"""A second; a point of a chain takes some seconds then, so that there is time to interrupt."""


def shipped(house: House, length: int, targets: tuple[str, ...] = ("vda",)) -> list[Manifest]:
    made: list[Manifest] = []
    for seed in range(length):
        made.append(house.shelf.add(made[-1] if made else None, seed=seed, targets=targets))
    house.ship()
    house.told.clear()
    return made


def restore(
    house: House,
    point: Manifest,
    target: RestoreTarget,
    *,
    at: Callable[[events.Event], None] = lambda _event: None,
    stop: Callable[[], bool] = lambda: False,
) -> KvmBackupError | None:
    """A restore from the remote; `at` is told each event, too."""

    def listen(event: events.Event) -> None:
        house.told.append(event)
        at(event)

    request = house.application.requests.restore(point.id, target, "nas")
    _, error = house.application.work.start(request, listener=listen, stop_requested=stop)
    return error


def verify(house: House, *, deep: bool = False, point: str | None = None) -> dict[str, list[str]]:
    """The files with findings, by point."""
    requests = house.application.requests
    request = (
        requests.verify_point(point, "nas", deep=deep)
        if point
        else requests.verify_folder(house.points.folder.name, "nas", deep=deep)
    )
    house.told.clear()
    _, error = house.application.work.start(request, listener=house.told.append, stop_requested=lambda: False)
    found = [event.verdict for event in house.told if isinstance(event, events.PointVerified)]
    assert error is None or error.code == "damaged-point", error
    assert (error is None) == all(verdict.good for verdict in found)
    return {verdict.point: sorted({finding.file for finding in verdict.findings}) for verdict in found}


def fetched(house: House) -> list[Path]:
    """What is left of what was fetched."""
    return sorted((house.folder / "state" / "scratch" / "fetched").glob("*/*/*/*.qcow2"))


def steps(house: House) -> list[str]:
    return [event.step.value for event in house.told if isinstance(event, events.StepStarted)]


def same_as_there(house: House, point: Manifest, restored: Path, target: str = "vda") -> None:
    """qemu-img reads the same in the restored disk as in the chain on the server."""
    there = house.server.store / point.id / f"{target}.qcow2"
    subprocess.run(["qemu-img", "compare", restored, there], check=True, capture_output=True)


def progress(house: House, step: events.Step) -> list[events.Progress]:
    return [event for event in house.told if isinstance(event, events.Progress) and event.step is step]


class Once:
    """Acts when more than `after` bytes were fetched, and not again."""

    def __init__(self, act: Callable[[], None], after: int = 0) -> None:
        self.act = act
        self.after = after
        self.done = False

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.step is events.Step.FETCH:
            now, self.done = event.done > self.after and not self.done, self.done or event.done > self.after
            if now:
                self.act()


def slow(house: House) -> None:
    house.remote["bandwidth"] = SLOW
    house.restart()


# Restore


@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_a_point_is_restored_from_there_when_nothing_is_left_here(house: House, tmp_path: Path, account: str) -> None:
    points = shipped(house, 3, ("vda", "vdb"))
    house.use(account)
    house.remote["of"] = None
    house.rescan()
    shutil.rmtree(house.shelf.root)
    assert restore(house, points[1], ToFolder(str(tmp_path / "out"))) is None
    for target in ("vda", "vdb"):
        same_as_there(house, points[1], tmp_path / "out" / f"{target}.qcow2", target)
    assert steps(house) == ["fetch", "verify", "restore"]
    told = progress(house, events.Step.FETCH)
    assert told[-1].done == told[-1].total >= sum(disk.bytes_stored for point in points[:2] for disk in point.disks)
    assert fetched(house) == []


def test_a_point_that_is_here_too_is_still_read_from_there(house: House, tmp_path: Path) -> None:
    [point] = shipped(house, 1)
    flip_bit(house.shelf.path(point), 70_000)
    assert restore(house, point, ToFolder(str(tmp_path / "out"))) is None
    same_as_there(house, point, tmp_path / "out" / "vda.qcow2")


def test_only_what_the_restore_reads_is_fetched(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2, ("vda", "vdb"))
    whole = house.shelf.add(points[1], targets=("vda",), seed=9)
    house.ship()
    (house.server.store / points[0].id / "vdb.qcow2").unlink()
    assert restore(house, whole, ToFolder(str(tmp_path / "out"))) is None
    same_as_there(house, whole, tmp_path / "out" / "vda.qcow2")


def test_a_damaged_file_there_is_named_with_its_server_and_nothing_is_written(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2)
    flip_bit(house.server.store / points[0].id / "vda.qcow2", 70_000)
    error = restore(house, points[1], ToFolder(str(tmp_path / "out")))
    assert error is not None
    assert error.code == "damaged-point"
    assert error.message == f"{points[0].id} is damaged at {house.server.address()}: vda.qcow2"
    assert "verify --repository nas" in error.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["folder", "link", "fifo"])
def test_what_is_no_file_there_is_damage_and_nothing_else_is_read_for_it(
    house: House, tmp_path: Path, what: str
) -> None:
    [point] = shipped(house, 1)
    image = house.server.store / point.id / "vda.qcow2"
    image.rename(tmp_path / "image")
    match what:
        case "folder":
            image.mkdir()
        case "link":
            image.symlink_to(tmp_path / "image")
        case _:
            os.mkfifo(image)
    for _ in range(2):
        error = restore(house, point, ToFolder(str(tmp_path / "out")))
        assert error is not None
        assert error.code == "damaged-point"
    assert list(verify(house, deep=True).values()) == [["vda.qcow2"]]


@pytest.mark.vm
def test_a_restore_in_place_asks_once_and_before_anything_is_fetched(house: House, tmp_path: Path) -> None:
    house.shelf.vm_name = f"nobody-{os.getpid()}"
    [point] = shipped(house, 1)
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    def in_place() -> str | None:
        request = house.application.requests.restore(point.id, InPlace(str(tmp_path)), "nas")
        finished, _ = house.application.work.start(
            request, listener=house.told.append, stop_requested=lambda: False, confirm=answer
        )
        return finished.error_code

    assert in_place() == "not-confirmed"
    assert (steps(house), len(asked)) == ([], 1)
    # The XML of these points is of no VM that could be made, which is seen behind the question.
    assert in_place() == "hypervisor-error"
    assert (steps(house), len(asked)) == (["fetch"], 2)


def test_a_point_that_was_replaced_there_since_it_was_read_asks_for_a_rescan(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2)
    other = house.shelf.add(seed=7)
    for name in ("manifest.json", "vda.qcow2"):
        shutil.copy(house.shelf.path(other, name), house.server.store / points[1].id / name)
    error = restore(house, points[1], ToFolder(str(tmp_path / "out")))
    assert error is not None
    assert (error.code, "repository rescan nas" in error.hint) == ("point-changed", True)


def test_what_was_fetched_before_the_link_was_cut_is_not_fetched_again(house: House, tmp_path: Path) -> None:
    points = shipped(house, 3)
    slow(house)
    second = Once(house.server.cut, after=points[0].bytes_stored + 10_000)
    error = restore(house, points[2], ToFolder(str(tmp_path / "out")), at=second)
    assert error is not None
    assert error.code == "remote-unreachable"
    [kept] = [event.message for event in house.told if isinstance(event, events.Notice)]
    assert "goes on from there" in kept
    house.remote.pop("bandwidth")
    house.restart()
    gone = house.server.store / points[0].id / "vda.qcow2"
    gone.rename(house.folder / "away")
    assert restore(house, points[2], ToFolder(str(tmp_path / "out"))) is None
    (house.folder / "away").rename(gone)
    same_as_there(house, points[2], tmp_path / "out" / "vda.qcow2")
    assert fetched(house) == []


def test_without_the_server_what_is_all_fetched_is_enough(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2)

    def full(event: events.Event) -> None:
        if isinstance(event, events.StepStarted) and event.step is events.Step.RESTORE:
            raise KvmBackupError("the target broke", hint="Nothing.")

    error = restore(house, points[1], ToFolder(str(tmp_path / "out")), at=full)
    assert error is not None
    assert len(fetched(house)) == 2
    house.server.stop()
    assert restore(house, points[1], ToFolder(str(tmp_path / "out"))) is None
    same_as_there(house, points[1], tmp_path / "out" / "vda.qcow2")


def test_what_was_kept_and_is_damaged_here_is_fetched_anew(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2)

    def full(event: events.Event) -> None:
        if isinstance(event, events.StepStarted) and event.step is events.Step.RESTORE:
            raise KvmBackupError("the target broke", hint="Nothing.")

    restore(house, points[1], ToFolder(str(tmp_path / "out")), at=full)
    for path in fetched(house):
        flip_bit(path, 70_000)
    with fetched(house)[1].open("ab") as file:
        file.truncate(1000)
    assert restore(house, points[1], ToFolder(str(tmp_path / "out"))) is None
    same_as_there(house, points[1], tmp_path / "out" / "vda.qcow2")


def test_a_cancelled_restore_leaves_nothing(house: House, tmp_path: Path) -> None:
    points = shipped(house, 2)
    slow(house)
    wish = Once(lambda: None)
    error = restore(house, points[1], ToFolder(str(tmp_path / "out")), at=wish, stop=lambda: wish.done)
    assert error is not None
    assert error.code == "cancelled"
    assert list((house.folder / "state" / "scratch" / "fetched").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_too_little_space_is_told_before_anything_is_fetched(house: House, tmp_path: Path) -> None:
    points = shipped(house, 1)
    house.settings["backup"] = {"space_reserve": "1000TiB", "lock_wait": 0}
    house.settings["scratch_dir"] = str(small_disk(tmp_path))
    house.restart()
    try:
        error = restore(house, points[0], ToFolder(str(tmp_path / "out")))
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)
    assert error is not None
    assert error.code == "no-space"
    assert progress(house, events.Step.FETCH) == []


def small_disk(folder: Path) -> Path:
    """A file system of 256 KiB."""
    mounted = folder / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mounted], check=True)
    return mounted


def test_a_folder_that_is_taken_is_told_before_anything_is_fetched(house: House, tmp_path: Path) -> None:
    [point] = shipped(house, 1)
    (tmp_path / "vda.qcow2").write_text("mine")
    error = restore(house, point, ToFolder(str(tmp_path)))
    assert error is not None
    assert (error.code, steps(house)) == ("target-exists", [])


def test_another_disk_that_is_mounted_there_is_not_taken_for_damage(house: House, tmp_path: Path) -> None:
    [point] = shipped(house, 1)
    (house.server.store / "kvm-backup.json").rename(tmp_path / "away")
    error = restore(house, point, ToFolder(str(tmp_path / "out")))
    assert error is not None
    assert error.code == "repository-not-found"


def test_what_nobody_came_back_for_goes_after_a_day_and_what_a_run_holds_stays(house: House) -> None:
    folders = house.application.shipping.fetched
    left, held = folders.root / "nas--12345678--web--1a2b3c4d", folders.root / "nas--12345678--db--1a2b3c4d"
    for folder in (left, held):
        (folder / "point").mkdir(parents=True)
        # rsync gives what it fetched the times that it has on the server.
        os.utime(folder, (0, 0))
    folders.forget_old()
    assert sorted(folders.root.iterdir()) == [held, left]
    two_days_on = replace(folders, now=lambda: time.time() + 2 * 86400)
    with hold_fetched(folders.locks, held.name, "db--1a2b3c4d", wait=0.0):
        two_days_on.forget_old()
    assert list(folders.root.iterdir()) == [held]


# Verify


@pytest.mark.parametrize("account", ["shell", "rrsync", "reader"])
@pytest.mark.parametrize("deep", [False, True])
def test_whole_points_there_are_found_whole_and_one_flipped_bit_is_found(
    house: House, account: str, deep: bool
) -> None:
    points = shipped(house, 3)
    house.use(account)
    shutil.rmtree(house.shelf.repository.path_of(points[0].id))
    assert verify(house, deep=deep) == {point.id: [] for point in points}
    assert fetched(house) == []
    flip_bit(house.server.store / points[1].id / "vda.qcow2", 70_000)
    flip_bit(house.server.store / points[2].id / "domain.xml", 3)
    assert verify(house, deep=deep) == {
        points[0].id: [],
        points[1].id: ["vda.qcow2"],
        points[2].id: ["domain.xml"],
    }


@pytest.mark.parametrize("account", ["shell", "rrsync", "reader"])
def test_of_one_point_that_and_what_it_builds_on_is_checked(house: House, account: str) -> None:
    points = shipped(house, 3)
    house.use(account)
    flip_bit(house.server.store / points[0].id / "vda.qcow2", 70_000)
    flip_bit(house.server.store / points[2].id / "vda.qcow2", 70_000)
    assert verify(house, point=points[1].id) == {points[0].id: ["vda.qcow2"], points[1].id: []}


@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_damage_is_told_with_the_servers_address_not_with_folders_here(house: House, account: str) -> None:
    [point] = shipped(house, 1)
    house.use(account)
    flip_bit(house.server.store / point.id / "vda.qcow2", 70_000)
    verify(house)
    [verdict] = [event.verdict for event in house.told if isinstance(event, events.PointVerified)]
    assert all(f"ssh://{account}" in finding.message for finding in verdict.findings)
    assert not any(str(house.folder / "state") in finding.message for finding in verdict.findings)


@pytest.mark.parametrize("account", ["shell", "rrsync"])
@pytest.mark.parametrize("damage", ["gone", "manifest", "image-gone"])
def test_what_is_gone_or_has_another_manifest_there_is_found(house: House, account: str, damage: str) -> None:
    points = shipped(house, 2)
    house.use(account)
    there = house.server.store / points[1].id
    match damage:
        case "gone":
            shutil.rmtree(there)
        case "manifest":
            flip_bit(there / "manifest.json", 40)
        case _:
            (there / "vda.qcow2").unlink()
    found = verify(house)
    assert found[points[0].id] == []
    assert found[points[1].id] != []
    if damage != "gone":
        assert found[points[1].id] == ["manifest.json" if damage == "manifest" else "vda.qcow2"]


def test_a_shallow_check_by_a_shell_fetches_no_image(house: House) -> None:
    shipped(house, 2)
    house.settings["scratch_dir"] = "/proc/none"
    house.restart()
    assert [found for found in verify(house).values() if found] == []


# Others


def test_a_backup_into_a_remote_is_refused_with_the_name_of_the_local_one(house: House) -> None:
    with pytest.raises(BadArgumentError) as refused:
        house.application.repository("nas")
    assert "on another server" in refused.value.message
    assert "Backups are written to repository shelf" in refused.value.hint


def test_what_is_known_of_a_remote_is_listed_also_when_the_local_repository_is_lost(house: House) -> None:
    points = shipped(house, 2)
    shutil.rmtree(house.shelf.root)
    house.server.stop()
    store = house.restart().store("nas")
    assert [point.id for point in store.view.all_points()] == [point.id for point in points]
    assert store.place_of(points[0].id) == f"{house.server.address()}/{points[0].id}"
