"""The service: one process that ticks on the minute, does what is queued, and ends in order."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError, ServiceRunningError
from kvm_backup.domain.request import RunRequest
from kvm_backup.runtime.heartbeat import Heartbeat, ServiceLock, only_service, write_heartbeat
from kvm_backup.runtime.memory import share_memory_among_threads
from kvm_backup.runtime.notify import notify
from kvm_backup.runtime.queue import DurableQueue, StepRunner, Suspended

_BEAT_SECONDS = 5.0
"""How often it shows that it lives; also the longest time until it notices that the clock jumped."""
_STOP_POLL_SECONDS = 0.1
_HOUSEKEEPING_SECONDS = 600.0
"""Also the longest time until a run is told as lost that the queue knows nothing of any more."""
_QUEUE_MEMORY = timedelta(days=60)
"""How long a due time that was run is remembered, should the clock be set back."""


class OnStop(StrEnum):
    """What happens to copies that go on when the service is told to end."""

    CANCEL = "cancel"
    """They end at once, what they wrote is removed, and they are run again after the next start."""
    FINISH = "finish"


@dataclass(slots=True)
class Activity:
    """What the threads of one service share: that it ends, and how many runs go on."""

    on_stop: OnStop
    ending: threading.Event = field(default_factory=threading.Event)
    _runs: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stopping(self) -> bool:
        """Whether runs that go on have to leave."""
        return self.ending.is_set() and self.on_stop is OnStop.CANCEL

    def pause(self, seconds: float) -> None:
        """Wait, less when the service ends."""
        self.ending.wait(seconds)

    @property
    def runs(self) -> int:
        return self._runs

    def counted(self, work: Callable[[RunRequest, StepRunner], None]) -> Callable[[RunRequest, StepRunner], None]:
        """The same work, counted while it goes on."""

        def count(request: RunRequest, step: StepRunner) -> None:
            with self._lock:
                if self.ending.is_set():
                    raise Suspended  # the queue handed it out just before it was closed
                self._runs += 1
            try:
                work(request, step)
            finally:
                with self._lock:
                    self._runs -= 1

        return count


@dataclass(slots=True)
class Daemon:
    """`tick` and `housekeeping` are called on the main thread; what they raise is said, and the service goes on."""

    state_dir: Path
    host: str
    activity: Activity
    make_queue: Callable[[], DurableQueue]
    make_tick: Callable[[DurableQueue], Callable[[], object]]
    housekeeping: Callable[[DurableQueue, datetime], None]
    say: Callable[[str], None]
    beside: Callable[[], AbstractContextManager[None]] = nullcontext
    """What goes on meanwhile: entered once this is the only service, and before anything begins; left at the end."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that pass whatever is done to the clock."""
    _problems: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Serve until `activity.ending` is set.

        Raises ServiceRunningError, also when another service took a state folder that was replaced meanwhile,
        DatabaseError, StorageError, and what `beside` raises.
        """
        share_memory_among_threads()
        with ExitStack() as open_things:
            lock = open_things.enter_context(only_service(self.state_dir))
            started = self.clock().isoformat()
            # Else the last word of the service before this one would count as ours.
            self._beat(lock, started, None)
            open_things.enter_context(self.beside())
            queue = self.make_queue()
            queue.start()
            open_things.callback(queue.stop)
            tick = self.make_tick(queue)
            notify("READY=1", f"STATUS={self._status()}")
            self.say(f"serving {self.host}, process {os.getpid()}; 'kvm-backup run list' shows what was done")
            try:
                self._serve(queue, tick, lock, started)
            except ServiceRunningError:
                self.activity.ending.set()
                self._end()
                raise
            self._end()

    def _serve(self, queue: DurableQueue, tick: Callable[[], object], lock: ServiceLock, started: str) -> None:
        minute: int | None = None
        next_tick = next_housekeeping = self.monotonic()
        ticked: str | None = None
        while not self.activity.ending.is_set():
            now = self.clock()
            this_minute = int(now.timestamp() // 60)
            # On the minute by the clock, and each 60 seconds whatever the clock does.
            if this_minute != minute or self.monotonic() >= next_tick:
                minute, next_tick = this_minute, self.monotonic() + 60
                if self._guarded("tick", lambda: tick()):
                    ticked = self.clock().isoformat()
                self._guarded("queue", queue.take_up_orphans)
            if self.monotonic() >= next_housekeeping:
                next_housekeeping = self.monotonic() + _HOUSEKEEPING_SECONDS
                self._guarded("housekeeping", lambda: self.housekeeping(queue, self.clock()))
            self._beat(lock, started, ticked)
            notify("WATCHDOG=1", f"STATUS={self._status()}")
            to_the_minute = 60 - self.clock().timestamp() % 60
            self.activity.pause(min(_BEAT_SECONDS, to_the_minute + 0.01))

    def _beat(self, lock: ServiceLock, started: str, ticked: str | None) -> None:
        def beat() -> None:
            lock.keep()
            now = self.clock().isoformat()
            write_heartbeat(self.state_dir, Heartbeat(os.getpid(), self.host, started, now, ticked))

        self._guarded("heartbeat", beat)

    def _end(self) -> None:
        """Wait until the runs that go on have left or, as chosen, finished."""
        how = "cancelled, and done again after the next start" if self.activity.stopping() else "finished first"
        if self.activity.runs:
            self.say(f"ending; {_count(self.activity.runs)} {how}")
        notify("STOPPING=1")
        status = f"STATUS=Ending; {_count(self.activity.runs)} {how}"
        next_word = 0.0
        while self.activity.runs:
            if time.monotonic() >= next_word:
                next_word = time.monotonic() + _BEAT_SECONDS
                # systemd would kill us after its time limit, unless it hears that we need longer.
                notify("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", status)
            time.sleep(_STOP_POLL_SECONDS)
        self.say("ended")

    def _status(self) -> str:
        going_on = f"{_count(self.activity.runs)} going on" if self.activity.runs else "no run going on"
        return f"Serving {self.host}; {going_on}"

    def _guarded(self, what: str, action: Callable[[], object]) -> bool:
        """Do something that may fail without ending the service; the same failure is said once."""
        try:
            action()
        except ServiceRunningError:
            raise
        except KvmBackupError as error:
            problem = f"{what}: {error.message}. {error.hint}"
        except Exception as error:  # noqa: BLE001 - a service that dies at 3 in the morning protects nobody
            problem = f"{what}: unexpected {type(error).__name__}: {error}"
        else:
            self._problems.pop(what, None)
            return True
        if problem != self._problems.get(what):
            self._problems[what] = problem
            self.say(problem)
        return False


def _count(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"


def oldest_remembered(now: datetime) -> datetime:
    """Queue entries that were made before this may be forgotten."""
    return now - _QUEUE_MEMORY
