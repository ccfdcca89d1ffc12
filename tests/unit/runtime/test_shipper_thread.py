"""The thread that finds what nobody asked to ship: first soon, then when settings change, and after a failure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kvm_backup.domain.errors import DatabaseError
from kvm_backup.runtime.shipper import Shipper

PATIENCE = 30.0


@dataclass
class Service:
    """What it asks, and is told; `settings` is what it finds there."""

    settings: int = 0
    asked: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    away: bool = False

    def ask(self) -> None:
        self.asked.append(self.settings)
        if self.away:
            raise DatabaseError("the disk is full", hint="Free some.")

    def shipper(self) -> Shipper:
        return Shipper(self.ask, lambda: self.settings, self.said.append, first_seconds=0.01)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_waits_is_looked_for_at_once_when_settings_change_and_not_before() -> None:
    service = Service()
    with service.shipper().watching():
        until(lambda: service.asked == [0])
        service.settings = 1
        until(lambda: service.asked == [0, 1])
    assert service.asked == [0, 1]


def test_a_failure_is_told_once_and_ends_nothing() -> None:
    service = Service(away=True)
    with service.shipper().watching():
        until(lambda: len(service.asked) == 1)
        service.settings = 1
        until(lambda: len(service.asked) == 2)
        service.away = False
        service.settings = 2
        until(lambda: len(service.asked) == 3)
    assert service.said == ["shipping: the disk is full. Free some."]
