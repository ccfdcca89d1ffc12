"""The part of the service that looks and alarms, in a thread of its own: a libvirtd or a file system that hangs must
not keep the tick from its work.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.runtime.memory import give_back_memory
from kvm_backup.services.alerts import AlertService
from kvm_backup.services.survey.survey import Survey

_LOOK_SECONDS = 2.0
"""A run that ended shows on the pages after that."""
_EVALUATED_EVERY = timedelta(minutes=1)
_JOIN_SECONDS = 5.0


@dataclass(slots=True)
class Observer:
    """Looks every two seconds, which costs two small queries when nothing happened. `say` is told what fails."""

    survey: Survey
    alerts: AlertService
    say: Callable[[str], None]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _begun: bool = False
    _evaluated: datetime | None = None
    _problem: str | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look meanwhile."""
        thread = threading.Thread(target=self._run, name="observer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            # One that hangs in a call of libvirt dies with the process; it holds nothing that must be given back.
            thread.join(_JOIN_SECONDS)

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
        while not self._ending.is_set():
            try:
                self.step()
            except KvmBackupError as error:
                self._tell(f"observer: {error.message}. {error.hint}")
            except Exception as error:  # noqa: BLE001 - the pages would show old facts for ever
                self._tell(f"observer: unexpected {type(error).__name__}: {error}")
            else:
                self._problem = None
            self._ending.wait(_LOOK_SECONDS)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self.say(problem)
