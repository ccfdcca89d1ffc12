"""Hashing passwords with argon2id. Never more than two at once: each takes 64 MiB and the better part of a core."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from kvm_backup.domain.errors import TooManyAttemptsError, WeakPasswordError
from kvm_backup.domain.password import LONGEST, normalised

_AT_ONCE = 2
_WAITING = 6
"""Who comes when so many wait is sent away, so that a flood of sign-ins leaves threads for pages."""
_COME_BACK_SECONDS = 5


class Passwords:
    """One for a process."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._places = threading.BoundedSemaphore(_AT_ONCE + _WAITING)
        self._at_work = threading.BoundedSemaphore(_AT_ONCE)
        self._nobodys = ""

    def hash(self, password: str) -> str:
        """What to keep of a password. Raises TooManyAttemptsError."""
        with self._turn():
            return self._hasher.hash(normalised(password))

    def verify(self, kept: str | None, password: str) -> bool:
        """Whether it is that password. With None, for a user who is not there, it is not, after the same effort.

        Raises TooManyAttemptsError.
        """
        try:
            wanted = normalised(password)[: LONGEST + 1]
        except WeakPasswordError:
            wanted = ""
        with self._turn():
            if not self._nobodys:
                self._nobodys = self._hasher.hash("a password that no user can have, for it is checked against none")
            try:
                matches = self._hasher.verify(kept or self._nobodys, wanted)
            except (VerificationError, InvalidHashError):
                return False
            return matches and kept is not None

    def outdated(self, kept: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(kept)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise TooManyAttemptsError(_COME_BACK_SECONDS)
        try:
            with self._at_work:
                yield
        finally:
            self._places.release()
