"""Locks that several processes share."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an flock on `path` (made when missing); waits until it is free."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Take part in a group where many work side by side, but whoever is `alone` has nobody beside.

    Everyone passes a gate first, and who waits to be alone keeps the gate closed: otherwise an endless line of
    others could pass in front.
    """
    gate, room = folder / "gate.lock", folder / "room.lock"
    if alone:
        with file_lock(gate), file_lock(room):
            yield
        return
    with file_lock(gate):
        entered = file_lock(room, shared=True)
        entered.__enter__()
    try:
        yield
    finally:
        entered.__exit__(None, None, None)
