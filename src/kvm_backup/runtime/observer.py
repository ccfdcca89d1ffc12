"""The part of the service that looks and alarms, in a thread of its own: a libvirtd or a file system that hangs must
not keep the tick from its work.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kvm_backup.runtime.memory import give_back_memory
from kvm_backup.runtime.service_thread import ServiceThread
from kvm_backup.services.alerts import AlertService
from kvm_backup.services.survey.survey import Survey

_LOOK_SECONDS = 2.0
"""A run that ended shows on the pages after that."""
_EVALUATED_EVERY = timedelta(minutes=1)


@dataclass(slots=True)
class Observer:
    """Looks every two seconds, which costs two small queries when nothing happened. `say` is told what fails."""

    survey: Survey
    alerts: AlertService
    say: Callable[[str], None]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _begun: bool = False
    _evaluated: datetime | None = None
    _thread: ServiceThread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = ServiceThread("observer", self.say)

    def watching(self) -> AbstractContextManager[None]:
        """Look meanwhile."""
        return self._thread.at_work(self._run)

    def step(self) -> None:
        """One look, and what follows from it. Raises KvmBackupError; the next one goes on."""
        now = self.clock()
        if not self._begun:
            self.survey.begin(now, self.alerts.known_damages())
            self._begun = True
        examined = self.survey.examined
        changed = self.survey.look(now)
        if self.survey.examined != examined:
            give_back_memory()
        turn = self._evaluated is None or not timedelta() <= now - self._evaluated < _EVALUATED_EVERY
        if changed or turn:
            self.alerts.evaluate(self.survey.situation())
            self._evaluated = now

    def _run(self) -> None:
        self._thread.tried(self.step)
        while not self._thread.ends_within(_LOOK_SECONDS):
            self._thread.tried(self.step)
