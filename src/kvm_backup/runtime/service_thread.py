"""A thread of the service that works beside the tick, and tells what keeps it from its work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvm_backup.domain.errors import KvmBackupError

_JOIN_SECONDS = 5.0


@dataclass(slots=True)
class ServiceThread:
    """`name` is that of the thread, and of who speaks to `say`."""

    name: str
    say: Callable[[str], None]
    _told: str = ""
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_work(self, work: Callable[[], None]) -> Iterator[None]:
        """`work` goes on in the thread meanwhile; it ends soon after `ends_within` has said so."""
        thread = threading.Thread(target=work, name=self.name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            # One that hangs in a call of libvirt dies with the process; it holds nothing that must be given back.
            thread.join(_JOIN_SECONDS)

    def ends_within(self, seconds: float) -> bool:
        """Wait so long; whether the service ends meanwhile."""
        return self._ending.wait(seconds)

    def tried(self, action: Callable[[], object]) -> bool:
        """Do it, and whether it went well. The same failure again and again is told once."""
        problem = ""
        try:
            action()
        except KvmBackupError as error:
            problem = f"{self.name}: {error.message}. {error.hint}"
        except Exception as error:  # noqa: BLE001 - without the thread nobody would do its work
            problem = f"{self.name}: unexpected {type(error).__name__}: {error}"
        if problem and problem != self._told:
            self.say(problem)
        self._told = problem
        return not problem
