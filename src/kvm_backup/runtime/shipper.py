"""The part of the service that finds what waits to be shipped and nobody asked for: points that a command made, that
are older than the repository on the other server, or whose shipping was cancelled.

It has a thread of its own: to look through many points takes its time, and the tick must not wait.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from kvm_backup.domain.errors import KvmBackupError

_FIRST_SECONDS = 5.0
_EVERY_SECONDS = 3600.0
_AGAIN_SECONDS = 60.0
"""After a look that failed."""
_LOOK_SECONDS = 2.0
"""Between two looks whether something else is to be shipped."""
_JOIN_SECONDS = 5.0


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
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look meanwhile."""
        thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        pause = self.first_seconds
        told = ""
        known: object = None
        while not self._ended_within(pause, known):
            pause, problem = self.every_seconds, ""
            try:
                known = self.revision()
                self.ask()
            except KvmBackupError as error:
                pause, problem = _AGAIN_SECONDS, f"shipping: {error.message}. {error.hint}"
            except Exception as error:  # noqa: BLE001 - what waits would wait for ever
                pause, problem = _AGAIN_SECONDS, f"shipping: unexpected {type(error).__name__}: {error}"
            if problem and problem != told:
                self.say(problem)
            told = problem

    def _ended_within(self, pause: float, known: object) -> bool:
        """Whether the service ends before the time has come, or there is a reason to look before it."""
        deadline = time.monotonic() + pause
        while (left := deadline - time.monotonic()) > 0:
            if self._ending.wait(min(left, _LOOK_SECONDS)):
                return True
            with suppress(KvmBackupError):
                if known is not None and self.revision() != known:
                    return False
        return self._ending.is_set()
