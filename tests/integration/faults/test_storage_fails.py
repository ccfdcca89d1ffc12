"""The repository's disk full, gone or read-only, and the scratch disk full, in mid-copy."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.disks import MIB
from lab.programs import run as run_program
from tests.integration.faults.small_file_systems import tmpfs
from tests.integration.faults.stopped_run import stopped_at
from tests.integration.faults.victim import Victim, make_victim

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def place(module_lab: Lab) -> Iterator[Path]:
    """A small file system for a repository."""
    with tmpfs(module_lab.folder / "small", "64m") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def victim(module_lab: Lab, place: Path) -> Victim:
    """A VM with a chain in a repository on that file system."""
    settings = f'default_repository = "small"\n[[repository]]\nname = "small"\npath = "{place}/repository"\n'
    made = make_victim(module_lab, "storage", mib=16, settings=settings)
    made.product.run("repository", "init", place / "repository").succeeded()
    made.product.backup(made.vm.name)
    return made


def fill(place: Path, leave: int) -> Path:
    """A file that leaves `leave` bytes of the file system free."""
    status = os.statvfs(place)
    path = place / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return path


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def failed_with(ended_status: int, error_code: str | None, *, wanted: str) -> None:
    assert (ended_status, error_code) == (1, wanted)


@pytest.mark.parametrize(
    ("leave", "reserve"),
    [(4 * MIB, "1G"), (MIB, "0"), (0, "0")],
    ids=["within-the-reserve", "to-the-brim", "at-once"],
)
def test_a_full_target_disk_fails_the_run_and_nothing_else(
    victim: Victim, place: Path, leave: int, reserve: str
) -> None:
    victim.product.environment["KVM_BACKUP_BACKUP__SPACE_RESERVE"] = reserve
    points = victim.product.points()
    with stopped_at(victim.product, "progress:copy", *victim.backup_words("full")) as run:
        filler = fill(place, leave)
        ended = run.finish()
    failed_with(ended.status, ended.finished["error_code"], wanted="no-space")
    filler.unlink()
    victim.is_well()
    assert victim.leftovers() == []
    assert not victim.has_job()
    assert victim.product.points() == points
    victim.recovers()


def test_a_disk_that_is_full_when_the_manifest_is_written_leaves_no_point(victim: Victim, place: Path) -> None:
    points = victim.product.points()
    victim.write()
    with stopped_at(victim.product, "step:publish", *victim.backup_words()) as run:
        filler = fill(place, 0)
        ended = run.finish()
    failed_with(ended.status, ended.finished["error_code"], wanted="no-space")
    assert victim.product.points() == points
    filler.unlink()
    victim.is_well()
    assert victim.leftovers() == []
    victim.recovers()


def test_a_disk_that_is_nearly_full_before_the_run_is_refused_before_the_guest_is_touched(
    victim: Victim, place: Path
) -> None:
    victim.product.environment["KVM_BACKUP_BACKUP__SPACE_RESERVE"] = "1G"
    filler = fill(place, MIB)
    ended = victim.product.run(*victim.backup_words()).failed(1)
    filler.unlink()
    assert ended.finished["error_code"] == "no-space"
    assert "begin" not in [event.get("step") for event in ended.events]
    victim.recovers()


@pytest.mark.parametrize("instant", ["progress:copy", "step:publish"])
def test_a_repository_that_is_unmounted_in_mid_copy_fails_the_run(victim: Victim, place: Path, instant: str) -> None:
    points = victim.product.points()
    victim.write()
    elsewhere = place.with_name("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    with stopped_at(victim.product, instant, *victim.backup_words()) as run:
        run_program(["mount", "--bind", place, elsewhere])
        run_program(["umount", "--lazy", place])
        ended = run.finish()
    assert ended.status == 1
    assert ended.finished["error_code"] == "storage", ended
    assert list(place.iterdir()) == []
    assert not victim.has_job()
    assert victim.product.run(*victim.backup_words()).failed(4).stdout == ""
    assert list(place.iterdir()) == []
    run_program(["mount", "--bind", elsewhere, place])
    run_program(["umount", "--lazy", elsewhere])
    victim.is_well()
    assert victim.product.points() == points
    victim.recovers()


def test_a_repository_whose_folder_is_removed_in_mid_copy_fails_the_run_and_becomes_full_again(
    lab: Lab,
) -> None:
    victim = make_victim(lab, "removed", mib=4)
    victim.product.backup(victim.vm.name)
    (folder,) = [path for path in victim.product.repository.iterdir() if path.is_dir()]
    victim.write()
    with stopped_at(victim.product, "progress:copy", *victim.backup_words()) as run:
        folder.rename(folder.with_name("put-away"))
        ended = run.finish()
    assert ended.status == 1
    assert not victim.has_job()
    victim.is_well()
    victim.recovers(expected="full")


def test_a_read_only_repository_is_refused_before_the_guest_is_touched(victim: Victim, place: Path) -> None:
    points = victim.product.points()
    run_program(["mount", "-o", "remount,ro", place])
    try:
        ended = victim.product.run(*victim.backup_words()).failed(1)
    finally:
        run_program(["mount", "-o", "remount,rw", place])
    assert ended.finished["error_code"] == "storage"
    assert "begin" not in [event.get("step") for event in ended.events]
    assert victim.leftovers() == []
    assert victim.product.points() == points
    victim.is_well()
    victim.recovers()


@pytest.mark.parametrize("who", ["run", "guard"])
def test_a_full_scratch_disk_ends_the_job_before_the_guest_gets_an_error(lab: Lab, who: str) -> None:
    with tmpfs(lab.folder / "scratch", "16m") as scratch:
        victim = make_victim(lab, "scratch", mib=24, KVM_BACKUP_SCRATCH_DIR=str(scratch))
        victim.product.backup(victim.vm.name)
        victim.write(4)
        # The run looks after the space while it copies, the guard also when the run stands still.
        with stopped_at(victim.product, "begun", *victim.backup_words("full")) as run:
            if who == "guard":
                victim.write(4)
                filler = fill(scratch, 256 * 1024)
                wait_until(lambda: not victim.has_job())
                filler.unlink()
                victim.write(4)
                ended = run.finish().succeeded()
            else:
                filler = fill(scratch, 512 * 1024)
                ended = run.finish()
                filler.unlink()
                failed_with(ended.status, ended.finished["error_code"], wanted="no-space")
        assert ended.finished["vm"] == victim.vm.name
        assert victim.vm.state == "running"
        victim.vm.write_blocks("vda", 32 * MIB, MIB, 0x44)
        victim.is_well()
        assert victim.leftovers() == []
        victim.recovers()
