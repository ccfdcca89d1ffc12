"""Kills a process before its n-th operation on files: what is left must do no harm."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.repository import exchange


def steps(folder: Path, action: Callable[[], object], kill_at: int | None) -> int:
    """Run `action` in a process that kills itself before its n-th operation on files below `folder`.

    Returns how many operations there were, or -1 when it was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(folder, action, kill_at, writing)
    os.close(writing)
    with os.fdopen(reading) as counted:
        told = counted.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return -1
    assert status == 0, "the child failed"
    return int(told)


def _child(folder: Path, action: Callable[[], object], kill_at: int | None, told: int) -> None:
    count = 0
    inside = os.fsencode(folder)

    def step() -> None:
        nonlocal count
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def on_audit(event: str, arguments: tuple[object, ...]) -> None:
        if event not in {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "open"}:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and (
            event in {"os.remove", "os.rmdir"} or os.fsencode(path).startswith(inside)
        ):
            step()

    def fsync(descriptor: Any) -> None:
        step()
        real_fsync(descriptor)

    def swap(one: Path, other: Path) -> None:
        step()
        real_swap(one, other)
        step()

    real_fsync, real_swap = os.fsync, exchange.rename_exchange
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(exchange, "rename_exchange", swap)
    sys.addaudithook(on_audit)
    status = 1
    with contextlib.suppress(BaseException):
        action()
        os.write(told, str(count).encode())
        status = 0
    os._exit(status)
