"""What stops a copy: a cancel, a disk that fills up, a VM that went away. Also counts progress."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import CancelledError, NoSpaceError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.durable import storage_error

_SPACE_INTERVAL = 0.1
_ALIVE_INTERVAL = 0.5
_PROGRESS_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class SpaceWatch:
    """A file system that must keep some room. `reserve` is in bytes; at most 5 % of a small file system is asked."""

    what: str
    path: Path
    reserve: int

    def check(self, needed: int = 0) -> None:
        """Raises NoSpaceError when less than the reserve is free, or would be after `needed` bytes more."""
        try:
            status = os.statvfs(self.path)
        except OSError as error:
            raise storage_error(error, self.path) from error
        free = status.f_bavail * status.f_frsize
        wanted = min(self.reserve, status.f_blocks * status.f_frsize // 20)
        if free < wanted + needed:
            asked = phrase("{needed} are needed and {wanted}", needed=show_size(needed), wanted=show_size(wanted))
            raise NoSpaceError(
                phrase(
                    "only {free} left for {what} on the file system of {path}, {asked} must stay free",
                    free=show_size(free),
                    what=self.what,
                    path=self.path,
                    asked=asked if needed else show_size(wanted),
                ),
                hint=phrase("Free space there, or lower backup.space_reserve in the settings."),
            )


def refuse_when_stopped(stop_requested: Callable[[], bool]) -> None:
    """Raises CancelledError when the user or a signal wants the run to end."""
    if stop_requested():
        raise CancelledError(
            phrase("the run was cancelled"), hint=phrase("Nothing is left behind; start it again when you like.")
        )


class RunControl:
    """Stops a copy early and reports how far it is; one for each run.

    `stop_requested` is asked often and must be cheap; `still_there` may ask libvirt and raises when the VM or its
    backup job is gone.
    """

    def __init__(
        self,
        *,
        stop_requested: Callable[[], bool],
        watches: tuple[SpaceWatch, ...] = (),
        still_there: Callable[[], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        total: int = 0,
    ) -> None:
        self._stop_requested = stop_requested
        self._watches = watches
        self._still_there = still_there
        self._on_progress = on_progress
        self._total = total
        self._done = 0
        self._next_space = self._next_alive = self._next_progress = 0.0

    def advance(self, done: int) -> None:
        """Count `done` more bytes of the plan."""
        self._done += done
        now = time.monotonic()
        if self._on_progress and now >= self._next_progress:
            self._next_progress = now + _PROGRESS_INTERVAL
            self._on_progress(self._done, self._total)

    def finish(self) -> None:
        """Report the last figure, whatever the interval."""
        if self._on_progress:
            self._on_progress(self._done, self._total)

    def check(self) -> None:
        """Raises CancelledError, NoSpaceError, or what `still_there` raises."""
        refuse_when_stopped(self._stop_requested)
        now = time.monotonic()
        if now >= self._next_space:
            self._next_space = now + _SPACE_INTERVAL
            for watch in self._watches:
                watch.check()
        if self._still_there and now >= self._next_alive:
            self._next_alive = now + _ALIVE_INTERVAL
            self._still_there()
