"""A lock that another process, or another open file, has: waited for, and given up in time."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_backup.repository.patient_lock import locked_within


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """One file, opened twice."""
    file = tmp_path / "lock"
    file.touch()
    opened = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_a_lock_that_nobody_has_is_taken_without_patience_and_is_not_to_be_had_twice(two: tuple[int, int]) -> None:
    first, second = two
    assert locked_within(first, 0.0)
    assert not locked_within(second, 0.0)


def test_a_lock_that_comes_free_meanwhile_is_taken(two: tuple[int, int]) -> None:
    first, second = two
    assert locked_within(first, 0.0)
    assert locked_within(second, 60.0, poll=0.001, meanwhile=lambda: fcntl.flock(first, fcntl.LOCK_UN))


def test_who_waits_can_give_up(two: tuple[int, int]) -> None:
    first, second = two
    assert locked_within(first, 0.0)

    def stop() -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        locked_within(second, 60.0, meanwhile=stop)
