"""What long copies share: the hook that watches and stops them, and how many threads they use."""

import os
import time
from typing import Protocol

WAIT_SECONDS = 0.1
"""Longest wait for data, a buffer or a thread before the control is asked again."""


class CopyControl(Protocol):
    """The caller's eye and hand on a copy; all calls come from the thread that started it."""

    def advance(self, done: int) -> None:
        """Told how many bytes of the plan were dealt with since the last call."""

    def check(self) -> None:
        """Called several times a second, also while nothing arrives; raises to stop the copy."""


class NoControl:
    """Nobody watches."""

    def advance(self, done: int) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """Nothing to do."""


class Throttle:
    """Passes calls of `check` on at most every WAIT_SECONDS, so that inner loops can call it freely."""

    def __init__(self, control: CopyControl) -> None:
        self._control = control
        self._next = 0.0

    def check(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + WAIT_SECONDS
            self._control.check()


def worker_count() -> int:
    """Threads for compression: one per CPU that we may use, at most 8, which no storage has outrun yet."""
    return min(8, len(os.sched_getaffinity(0)))
