"""A button that is pressed twice asks once."""

import time
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

from fastapi import Request

from kvm_backup.domain.account import Account

_T = TypeVar("_T")
_SECONDS = 2.0
"""Whoever asks again after that means it."""


class Once:
    """Remembers for a few seconds what was asked for, and what came of it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._asked: dict[Hashable, _Asked] = {}

    def do(self, key: Hashable, action: Callable[[], _T]) -> _T:
        """What the action gives, or gave a moment ago. What it raises is not remembered."""
        with self._lock:
            now = self._monotonic()
            self._asked = {key: asked for key, asked in self._asked.items() if not asked.forgotten_by(now)}
            asked = self._asked.setdefault(key, _Asked())
            asked.waiting += 1
        try:
            with asked.lock:
                if asked.ended is None:
                    asked.given = action()
                    asked.ended = self._monotonic()
                given: _T = asked.given
                return given
        finally:
            with self._lock:
                asked.waiting -= 1


class _Asked:
    def __init__(self) -> None:
        self.lock = Lock()
        self.waiting = 0
        self.given: Any = None
        self.ended: float | None = None

    def forgotten_by(self, now: float) -> bool:
        return not self.waiting and (self.ended is None or now - self.ended > _SECONDS)


def asked_once(request: Request, user: Account, action: Callable[[], _T], *details: Hashable) -> _T:
    """Do what a form asks for, unless the same user sent the same a moment ago: a double click, or a page sent anew.

    `details` are the fields that make it another wish.
    """
    once: Once = request.app.state.once
    return once.do((user.name, request.url.path, *details), action)
