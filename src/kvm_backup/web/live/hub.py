"""One poller for all pages that are open, and a queue of events for each of them."""

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import TypeVar

from anyio import to_thread

from kvm_backup.database.history import Pulse
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.run import Run
from kvm_backup.language import LANGUAGES
from kvm_backup.web.language import in_language
from kvm_backup.web.live import wire
from kvm_backup.web.live.progress import Progress, Rates

_T = TypeVar("_T")
_POLL_SECONDS = 1.0
_LOOKS_BETWEEN_SIGNALS = 1.9
"""The same signal is given in every second look at most."""
_TURNS_EACH_LOOK = 1
_TURNS_SAVED = 10
"""Each signal makes a page fetch something: so many pages are told in a look, and after a quiet time so many at once.
The others follow in their turn, so that many pages which stay open take no more of the host than a few."""
_QUEUE_LENGTH = 32
PER_USER = 64
IN_ALL = 512

OVERVIEW = "overview"
RUNS = "runs"
BADGE = "badge"


class TooManyConnectionsError(Exception):
    """This user, or all together, have as many pages open as this server wants to serve."""


@dataclass(eq=False, slots=True)
class Connection:
    """One open page. Its queue holds chunks of events; None ends it. `due` are signals that wait for its turn."""

    user: str
    language: str
    due: set[str] = field(default_factory=set)
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_QUEUE_LENGTH))

    def put(self, chunk: bytes) -> bool:
        """False when the page does not read: it must connect anew, and gets then what it missed."""
        try:
            self.queue.put_nowait(chunk)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Let the stream end as soon as it is asked for the next chunk."""
        while self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where changes are seen.

    `pulse` gives the runs that go on; `marks` gives for each signal a value that differs once something changed;
    `alerts` counts what is open. `show_run` and `show_badge` render, in the current language. All are called in a
    thread of their own, and may raise KvmBackupError.
    """

    pulse: Callable[[], Pulse]
    marks: Mapping[str, Callable[[], Hashable]]
    alerts: Callable[[], int]
    show_run: Callable[[Run, Progress], str]
    show_badge: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class News:
    """What a look has found: signals, and by language the markup that goes to every page at once."""

    changed: Sequence[str]
    markup: Mapping[str, bytes]


class Hub:
    """Looks each `every` seconds while a page is open.

    `connect`, `leave` and `close` belong to the server's event loop.
    """

    def __init__(self, sources: Sources, every: float = _POLL_SECONDS) -> None:
        self._sources = sources
        self._every = every
        self._boot = token_hex(4)
        self._number = 1
        self._signals: dict[str, int] = {}
        self._marks: dict[str, Hashable] = {}
        self._due: set[str] = set()
        self._given: dict[str, float] = {}
        self._spacing = every * _LOOKS_BETWEEN_SIGNALS
        self._shown: dict[str, dict[str, str]] = {}
        self._rates = Rates()
        self._turns = _TURNS_SAVED
        self._connections: dict[Connection, None] = {}
        """Who was given signals last comes last."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: asyncio.Event | None = None
        self._closed = False

    @property
    def version(self) -> str:
        """How far the news are. A page that was rendered now and connects later gets what came in between."""
        return f"{self._boot}-{self._number}"

    @property
    def pages(self) -> int:
        """How many pages are connected."""
        return len(self._connections)

    def progress(self, run: Run) -> Progress:
        """How a run comes on."""
        return self._rates.progress(run, datetime.now(UTC))

    def connect(self, user: str, language: str, since: str) -> Connection:
        """A new page, which knows the news up to `since`. Raises TooManyConnectionsError."""
        mine = sum(1 for other in self._connections if other.user == user)
        if self._closed or mine >= PER_USER or len(self._connections) >= IN_ALL:
            raise TooManyConnectionsError
        connection = Connection(user, language)
        connection.put(wire.RETRY + self._missed(since, language))
        self._connections[connection] = None
        if self._wanted is not None:
            self._wanted.set()
        return connection

    def leave(self, connection: Connection) -> None:
        """A page was closed."""
        self._connections.pop(connection, None)

    def close(self) -> None:
        """End every stream now, and take no more."""
        self._closed = True
        for connection in self._connections:
            connection.end()
        if self._wanted is not None:
            self._wanted.set()

    def close_soon(self) -> None:
        """`close`, from another thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and all streams with it
                self._loop.call_soon_threadsafe(self.close)

    async def run(self) -> None:
        """Look and tell, until `close`."""
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        while not self._closed:
            if not self._connections:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            began = time.monotonic()
            self._tell(await to_thread.run_sync(self._look))
            # However slow the database is, most of the time is left to others.
            passed = time.monotonic() - began
            await asyncio.sleep(max(self._every - passed, passed / 2, 0.01))

    def _tell(self, news: News) -> None:
        for connection in tuple(self._connections):
            connection.due.update(news.changed)
            if markup := news.markup[connection.language]:
                self._put(connection, markup)
        self._turns = min(_TURNS_SAVED, self._turns + _TURNS_EACH_LOOK)
        for connection in [one for one in self._connections if one.due][: self._turns]:
            self._turns -= 1
            # Only signals have a number: a page that connects again gets all markup, and the signals it was not told.
            self._put(connection, b"".join(wire.event(name, "", self.version) for name in sorted(connection.due)))
            connection.due.clear()
            if connection in self._connections:
                del self._connections[connection]
                self._connections[connection] = None

    def _put(self, connection: Connection, chunk: bytes) -> None:
        if not connection.put(chunk):
            self.leave(connection)
            connection.end()

    def _missed(self, since: str, language: str) -> bytes:
        boot, _dash, number = since.partition("-")
        known = int(number) if boot == self._boot and number.isascii() and number.isdigit() else 0
        names = [name for name, changed in self._signals.items() if changed > known]
        fragments = self._shown.get(language, {})
        return b"".join(
            [
                *(wire.event(name, html) for name, html in fragments.items()),
                *(wire.event(name, "", self.version) for name in names),
            ]
        )

    def _look(self) -> News:
        pulse, changed = self._changes()
        fragments = {code: self._render(code, pulse) for code in LANGUAGES}
        before, self._shown = self._shown, fragments
        if changed:
            self._number += 1
            self._signals |= dict.fromkeys(changed, self._number)
        markup = {
            code: b"".join(
                wire.event(name, html) for name, html in shown.items() if before.get(code, {}).get(name) != html
            )
            for code, shown in fragments.items()
        }
        return News(changed, markup)

    def _changes(self) -> tuple[Pulse | None, list[str]]:
        pulse = _quietly(self._sources.pulse)
        marks: dict[str, Hashable] = {
            name: mark for name, look in self._sources.marks.items() if (mark := _quietly(look)) is not None
        }
        if pulse is not None:
            self._rates.note(pulse.running)
            marks[RUNS] = pulse.mark
        for name, mark in marks.items():
            if self._marks.get(name) != mark:
                self._marks[name] = mark
                self._due.update((name, OVERVIEW))
        # A signal that was just given waits for its turn: each makes every page fetch something.
        now = time.monotonic()
        changed = sorted(name for name in self._due if now - self._given.get(name, -math.inf) >= self._spacing)
        self._due.difference_update(changed)
        self._given |= dict.fromkeys(changed, now)
        return pulse, changed

    def _render(self, code: str, pulse: Pulse | None) -> dict[str, str]:
        before = self._shown.get(code, {})
        with in_language(code):
            count = _quietly(self._sources.alerts)
            shown = {BADGE: before.get(BADGE, "") if count is None else self._sources.show_badge(count)}
            for run in pulse.running if pulse is not None else ():
                shown[wire.run_event(run.id)] = self._sources.show_run(run, self.progress(run))
        return shown


def _quietly(look: Callable[[], _T]) -> _T | None:
    """What was seen; None while the database or a file is away, which other parts tell of."""
    try:
        return look()
    except (KvmBackupError, OSError):
        return None
