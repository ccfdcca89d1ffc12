"""Waiting for a lock that another process has: flock(2), which ends with whoever has the file open."""

import fcntl
import time
from collections.abc import Callable
from contextlib import suppress


def locked_within(
    descriptor: int, seconds: float, *, poll: float = 0.1, meanwhile: Callable[[], None] = lambda: None
) -> bool:
    """Take the lock of an open file or folder; False when somebody else still has it after so many seconds.

    It is tried at once, and then every `poll` seconds; `meanwhile` is called in between, and may raise to give up.
    Raises OSError.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        meanwhile()
        time.sleep(poll)
