"""A clock that tests set, and a history on it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History


@dataclass
class Clock:
    """Shows `now` until it is moved."""

    now: datetime = datetime(2026, 11, 22, 2, 0, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **how_far: float) -> None:
        self.now += timedelta(**how_far)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> History:
    return History(Database.open(sqlite_url(tmp_path / "history.db")), clock)
