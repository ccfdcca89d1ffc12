"""What stops a copy, on a real file system of a few MiB where the test may mount one."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CancelledError, NoSpaceError, StorageError, VmStateChangedError
from kvm_backup.services.control import RunControl, SpaceWatch

MIB = 1024 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock; a test sets the time."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def leave(folder: Path, free: int) -> None:
    """Fill the file system but for `free` bytes."""
    status = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - free))


def running() -> bool:
    return False


def test_enough_room_is_no_error(small: Path) -> None:
    SpaceWatch("points", small, 4 * MIB).check()


def test_less_than_the_reserve_is_no_space_and_says_where(small: Path) -> None:
    leave(small, 64 * 1024)
    with pytest.raises(NoSpaceError, match="points") as caught:
        SpaceWatch("points", small, 128 * 1024).check()
    assert str(small) in caught.value.message


def test_a_small_file_system_needs_a_twentieth_of_itself_whatever_the_reserve(small: Path) -> None:
    leave(small, 260 * 1024)
    watch = SpaceWatch("points", small, 1024 * MIB)
    watch.check()
    with (small / "more").open("wb") as file:
        file.write(bytes(100 * 1024))
    with pytest.raises(NoSpaceError):
        watch.check()


def test_without_reserve_a_full_file_system_is_left_to_the_writer(small: Path) -> None:
    leave(small, 0)
    SpaceWatch("points", small, 0).check()


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone"):
        SpaceWatch("points", tmp_path / "gone", 0).check()


def test_a_wish_to_stop_is_heeded_at_the_next_check() -> None:
    stop = False
    watched = RunControl(stop_requested=lambda: stop)
    watched.check()
    stop = True
    with pytest.raises(CancelledError):
        watched.check()


def test_a_wish_to_stop_comes_before_every_other_reason(small: Path) -> None:
    leave(small, 0)
    with pytest.raises(CancelledError):
        RunControl(stop_requested=lambda: True, watches=(SpaceWatch("points", small, MIB),)).check()


def test_space_is_looked_at_again_after_a_tenth_of_a_second(small: Path, clock: list[float]) -> None:
    watched = RunControl(stop_requested=running, watches=(SpaceWatch("points", small, MIB),))
    watched.check()
    leave(small, 0)
    clock[0] += 0.05
    watched.check()
    clock[0] += 0.06
    with pytest.raises(NoSpaceError):
        watched.check()


def test_libvirt_is_asked_twice_a_second_and_its_verdict_ends_the_copy(clock: list[float]) -> None:
    asked: list[float] = []

    def still_there() -> None:
        asked.append(clock[0])
        if len(asked) == 3:
            raise VmStateChangedError("gone", hint="again")

    watched = RunControl(stop_requested=running, still_there=still_there)

    def copy() -> None:
        while clock[0] < 1010:
            watched.check()
            clock[0] += 0.1

    with pytest.raises(VmStateChangedError):
        copy()
    assert [round(moment - 1000, 1) for moment in asked] == [0.0, 0.5, 1.0]


def test_progress_is_told_ten_times_a_second_and_the_last_figure_always(clock: list[float]) -> None:
    told: list[tuple[int, int]] = []
    watched = RunControl(stop_requested=running, on_progress=lambda done, of: told.append((done, of)), total=10)
    for _ in range(10):
        watched.advance(1)
        clock[0] += 0.03
    assert told == [(1, 10), (5, 10), (9, 10)]
    watched.finish()
    assert told[-1] == (10, 10)
