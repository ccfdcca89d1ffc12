"""The part of the service that finds what waits to be shipped and nobody asked for: points that a command made, that
are older than the repository on the other server, or whose shipping was cancelled.

It has a thread of its own: to look through many points takes its time, and the tick must not wait.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.runtime.service_thread import ServiceThread

_FIRST_SECONDS = 5.0
_EVERY_SECONDS = 3600.0
_AGAIN_SECONDS = 60.0
"""After a look that failed."""
_LOOK_SECONDS = 2.0
"""Between two looks whether something else is to be shipped."""


@dataclass(slots=True)
class Shipper:
    """`ask` puts runs into the queue for what waits and has none, at once when `revision` gives another value than
    before; `say` is told what fails.
    """

    ask: Callable[[], object]
    revision: Callable[[], object]
    say: Callable[[str], None]
    first_seconds: float = _FIRST_SECONDS
    every_seconds: float = _EVERY_SECONDS
    _known: object = None
    _thread: ServiceThread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = ServiceThread("shipping", self.say)

    def watching(self) -> AbstractContextManager[None]:
        """Look meanwhile."""
        return self._thread.at_work(self._run)

    def _run(self) -> None:
        pause = self.first_seconds
        while not self._ended_within(pause):
            pause = self.every_seconds if self._thread.tried(self._look) else _AGAIN_SECONDS

    def _look(self) -> None:
        self._known = self.revision()
        self.ask()

    def _ended_within(self, pause: float) -> bool:
        """Whether the service ends before the time has come, or there is a reason to look before it."""
        deadline = time.monotonic() + pause
        while (left := deadline - time.monotonic()) > 0:
            if self._thread.ends_within(min(left, _LOOK_SECONDS)):
                return True
            with suppress(KvmBackupError):
                if self._known is not None and self.revision() != self._known:
                    return False
        return self._thread.ends_within(0)
