"""Settings that follow their file while the service runs.

Much is built when the service starts, so that only what is asked for again and again can follow: repositories,
retention, and what is special about VMs.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.config.settings import Settings, load, settings_file
from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.phrase import phrase

FOLLOWED = ("default_repository", "ssh_config", "repository", "retention", "vm")
"""Settings whose changes count at once. All others count from the next start."""
_EVERY = 1.0
"""Seconds between two looks at the file, and without a change before it is taken."""


@dataclass(frozen=True, slots=True)
class _State:
    """What differs once the settings file is another one. `path` is None without one, `error` is why it cannot be
    looked at."""

    path: Path | None = None
    identity: tuple[int, int, int] | None = None
    changed: float = 0.0
    error: str = ""


class LiveSettings:
    """`current` may be asked by any thread. `say` is told, once each, of changes and of a file that cannot be used.

    What cannot be used changes nothing: the last good settings stay, and `problem` tells what is wrong.
    """

    def __init__(
        self,
        start: Settings,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`start` are the settings as they were just read; the clocks give seconds."""
        self.problem: SettingsError | None = None
        self.say: Callable[[str], None] = lambda _text: None
        self._start = start
        self._current = start
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._looked = clock()
        self._taken = self._seen = _state_of_file()
        self._had_file = settings_file(may_make=True) is not None

    def current(self) -> Settings:
        """The settings, with what changed in the file since."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= _EVERY:
                self._looked = now
                self._look()
            return self._current

    def take(self) -> None:
        """Read the file now: this program has just written it. Raises SettingsError."""
        with self._lock:
            self._read(_state_of_file())
            if self.problem is not None:
                raise self.problem

    def require_file(self) -> None:
        """Raises SettingsError when the file that was there at the start is gone: a new one would lack it all."""
        if self._had_file and settings_file() is None:
            raise SettingsError(
                phrase("the settings file is gone"),
                hint=phrase("Put it back, or restart the service to go on without one."),
            )

    def _look(self) -> None:
        found = _state_of_file()
        # An editor may still be writing: an empty file would mean the defaults, and points might go.
        settled = found == self._seen or (found.path and self._wall_clock() - found.changed >= _EVERY)
        self._seen = found
        if settled and found != self._taken:
            self._read(found)

    def _read(self, found: _State) -> None:
        self._taken = self._seen = found
        try:
            self.require_file()
            read = load()
        except SettingsError as error:
            if self.problem is None or self.problem.message != error.message:
                self.say(f"settings: {error.message}. {error.hint} Until then those that were read before hold.")
            self.problem = error
            return
        self.problem = None
        now = self._start.model_copy(update={key: getattr(read, key) for key in FOLLOWED})
        changed = [key for key in FOLLOWED if getattr(now, key) != getattr(self._current, key)]
        waiting = [key for key in Settings.model_fields if getattr(now, key) != getattr(read, key)]
        self._current = now
        self.say(
            f"settings: read anew; changed: {', '.join(changed) or 'nothing'}"
            + (f"; after a restart also: {', '.join(waiting)}" if waiting else "")
        )


def _state_of_file() -> _State:
    try:
        path = settings_file()
        if path is None:
            return _State()
        status = path.stat()
    except (SettingsError, OSError) as error:
        return _State(error=str(error))
    return _State(path, (status.st_mtime_ns, status.st_size, status.st_ino), status.st_ctime)
