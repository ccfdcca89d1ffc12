"""The service's own loop, with a clock and a passing of time that tests make: no minute is really waited for."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from kvm_backup.domain.errors import DatabaseError, ServiceRunningError
from kvm_backup.runtime.daemon import Activity, Daemon, OnStop
from kvm_backup.runtime.heartbeat import only_service, read_heartbeat, service_runs
from kvm_backup.runtime.queue import DurableQueue

START = datetime(2026, 11, 22, 2, 0, 30, tzinfo=UTC)
AWAY = DatabaseError("the database is away", hint="Start it.")


@dataclass(slots=True)
class Time(Activity):
    """Time passes only where the loop waits. `jumps` are what is done to the clock, after so many seconds."""

    now: datetime = START
    passed: float = 0.0
    end: float = 300.0
    jumps: dict[float, timedelta] = field(default_factory=dict)
    runs_by_itself: bool = True

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.passed += seconds
        if self.runs_by_itself:
            self.now += timedelta(seconds=seconds)
        for moment in [moment for moment in self.jumps if moment <= self.passed]:
            self.now += self.jumps.pop(moment)
        if self.passed >= self.end:
            self.ending.set()


@dataclass
class Queue:
    """What the loop needs of the queue."""

    looks: int = 0
    error: Exception | None = None

    def start(self) -> None:
        """Nothing is done here."""

    def stop(self) -> None:
        """Nothing is done here."""

    def take_up_orphans(self) -> None:
        self.looks += 1
        if self.error is not None:
            raise self.error


@dataclass
class Loop:
    """A service on a folder. What `action` raises at a tick, the tick raises."""

    folder: Path
    time: Time
    queue: Queue = field(default_factory=Queue)
    action: Callable[[], object] = lambda: None
    ticks: list[datetime] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def run(self, **changes: Any) -> list[datetime]:
        """Serve until the time is over; when it ticked."""
        for name, value in changes.items():
            setattr(self.time, name, value)
        Daemon(
            state_dir=self.folder,
            host="alpha",
            activity=self.time,
            make_queue=lambda: cast(DurableQueue, self.queue),
            make_tick=lambda _: self._tick,
            housekeeping=lambda _queue, _now: self._keep(),
            say=self.said.append,
            clock=lambda: self.time.now,
            monotonic=lambda: self.time.passed,
        ).run()
        return self.ticks

    def _tick(self) -> None:
        self.ticks.append(self.time.now)
        self.action()

    def _keep(self) -> None:
        self.kept.append(self.time.passed)
        self.action()


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path, Time(OnStop.CANCEL))


def after_the_minute(ticks: list[datetime]) -> bool:
    return all(tick.second == 0 for tick in ticks)


def minutes(ticks: list[datetime]) -> list[str]:
    return [f"{tick:%H:%M}" for tick in ticks]


def test_it_ticks_when_it_starts_and_then_once_each_minute_as_it_begins(loop: Loop) -> None:
    ticks = loop.run()
    assert ticks[0] == START
    assert after_the_minute(ticks[1:])
    assert minutes(ticks) == ["02:00", "02:01", "02:02", "02:03", "02:04", "02:05"]
    assert loop.queue.looks == 6


def test_after_a_clock_that_jumps_forwards_it_ticks_within_seconds_and_then_on_the_minute(loop: Loop) -> None:
    ticks = loop.run(jumps={73.0: timedelta(hours=3)})
    assert minutes(ticks) == ["02:00", "02:01", "05:01", "05:02", "05:03", "05:04", "05:05"]
    jumped_to = START + timedelta(hours=3, seconds=73)
    assert timedelta(0) <= ticks[2] - jumped_to < timedelta(seconds=6)
    assert after_the_minute(ticks[3:])


def test_after_a_clock_that_is_set_back_it_ticks_within_seconds_and_then_on_the_minute(loop: Loop) -> None:
    ticks = loop.run(jumps={73.0: -timedelta(hours=3)})
    assert minutes(ticks) == ["02:00", "02:01", "23:01", "23:02", "23:03", "23:04", "23:05"]
    assert after_the_minute(ticks[3:])


def test_a_clock_that_is_set_back_within_the_minute_makes_it_tick_no_later_than_after_60_seconds(loop: Loop) -> None:
    ticks = loop.run(jumps={85.0: -timedelta(seconds=40)}, end=130.0)
    assert minutes(ticks) == ["02:00", "02:01", "02:01"]


def test_a_clock_that_stands_still_does_not_keep_it_from_ticking_each_60_seconds(loop: Loop) -> None:
    assert loop.run(runs_by_itself=False) == [START] * 5


def test_what_a_tick_raises_is_said_once_and_the_loop_goes_on(loop: Loop) -> None:
    def fail() -> None:
        if len(loop.ticks) in (2, 3):
            raise AWAY
        if len(loop.ticks) == 5:
            raise ValueError("no such thing")

    loop.action = fail
    assert len(loop.run()) == 6
    troubles = [line for line in loop.said if line.startswith("tick:")]
    assert troubles == ["tick: the database is away. Start it.", "tick: unexpected ValueError: no such thing"]


def test_a_failure_that_comes_again_after_it_was_gone_is_said_again(loop: Loop) -> None:
    def fail() -> None:
        if len(loop.ticks) % 2 == 0:
            raise AWAY

    loop.action = fail
    loop.run()
    assert len([line for line in loop.said if line.startswith("tick:")]) == 3


def test_two_that_fail_at_every_turn_are_said_once_each(loop: Loop) -> None:
    def fail() -> None:
        raise AWAY

    loop.action, loop.queue.error = fail, AWAY
    loop.run()
    troubles = sorted(line.partition(":")[0] for line in loop.said if "is away" in line)
    assert troubles == ["housekeeping", "queue", "tick"]


def test_the_heartbeat_tells_of_the_last_tick_that_succeeded_and_goes_on_after_one_that_fails(loop: Loop) -> None:
    def fail() -> None:
        if len(loop.ticks) > 3:
            raise AWAY

    loop.action = fail
    ticks = loop.run()
    beat = read_heartbeat(loop.folder)
    assert beat is not None
    assert beat.ticked == ticks[2].isoformat()
    assert datetime.fromisoformat(beat.beat) > ticks[-1] - timedelta(seconds=1)


def test_it_keeps_house_when_it_starts_and_each_ten_minutes_whatever_is_done_to_the_clock(loop: Loop) -> None:
    def fail() -> None:
        if len(loop.kept) == 2:
            raise AWAY

    loop.action = fail
    loop.run(end=3 * 600 + 300, jumps={100.0: timedelta(days=40), 1100.0: -timedelta(days=80)})
    assert len(loop.kept) == 4
    assert loop.kept[0] == 0
    assert all(0 <= moment - 600 * turn < 60 for turn, moment in enumerate(loop.kept))


def test_while_the_state_folder_is_away_it_goes_on_and_then_takes_the_new_one(loop: Loop, tmp_path: Path) -> None:
    loop.folder = tmp_path / "state"
    loop.folder.mkdir()

    def change() -> None:
        if len(loop.ticks) == 2:
            loop.folder.rename(tmp_path / "moved")
        if len(loop.ticks) == 4:
            loop.folder.mkdir()
        if len(loop.ticks) == 6:
            seen.append(service_runs(loop.folder))

    seen: list[bool] = []
    loop.action = change
    assert len(loop.run()) == 6
    assert seen == [True]
    [trouble] = [line for line in loop.said if line.startswith("heartbeat: ")]
    assert "unexpected" not in trouble
    assert str(loop.folder) in trouble
    assert read_heartbeat(loop.folder) is not None


def test_it_ends_once_another_service_has_the_state_folder(loop: Loop, tmp_path: Path) -> None:
    loop.folder = tmp_path / "state"
    loop.folder.mkdir()
    with ExitStack() as other:

        def replace_folder() -> None:
            if len(loop.ticks) == 2:
                loop.folder.rename(tmp_path / "moved")
                loop.folder.mkdir()
                other.enter_context(only_service(loop.folder))

        loop.action = replace_folder
        with pytest.raises(ServiceRunningError, match="runs already"):
            loop.run()
        assert len(loop.ticks) == 2
        assert loop.time.ending.is_set()
        assert service_runs(loop.folder)


def test_told_to_end_it_ticks_no_more(loop: Loop) -> None:
    loop.time.ending.set()
    assert loop.run() == []
    assert loop.said[-1] == "ended"
