"""How far a shipment of several points is, and what ends it early."""

from collections.abc import Callable

from kvm_backup.services.control import refuse_when_stopped


class EndingWatch:
    """Ends what goes on when `check` raises, and counts nothing."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def reached(self, total: int) -> None:
        """Nothing to do."""


class ShipWatch:
    """The eye and hand of a run on rsync: adds up what several transfers reach, in bytes.

    `told` gets how much is done, and of how much; the latter grows when more is found to be shipped.
    """

    def __init__(self, stop_requested: Callable[[], bool], told: Callable[[int, int], None]) -> None:
        self._stop_requested = stop_requested
        self._told = told
        self._total = 0
        self._before = 0
        self._size = 0
        self._reached = 0

    def expect(self, size: int) -> None:
        """So much is still to come, all in all."""
        self._before += self._size
        self._size = 0
        self._total = self._before + size

    def begin(self, size: int) -> None:
        """The next point begins."""
        self._before += self._size
        self._size = size
        self._advance_to(self._before)

    def reached(self, total: int) -> None:
        """rsync's word on the transfer that goes on; a second one of the same point does not count back."""
        self._advance_to(self._before + min(total, self._size))

    def check(self) -> None:
        """Raises CancelledError."""
        refuse_when_stopped(self._stop_requested)

    def finish(self) -> None:
        self._advance_to(self._before + self._size)

    def tell(self) -> None:
        """Tell again how far it is."""
        self._told(self._reached, max(self._reached, self._total))

    def _advance_to(self, position: int) -> None:
        if position > self._reached:
            self._reached = position
            self.tell()
