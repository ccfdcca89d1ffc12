"""A time limit for talking to a server while somebody waits for the answer."""

import time
from collections.abc import Callable

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.domain.phrase import phrase


class Deadline:
    """A watch on transfers that ends them after `seconds`; `hint` says what to do then."""

    def __init__(self, seconds: float, hint: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hint = hint
        self._seconds = seconds
        self._monotonic = monotonic
        self._end = monotonic() + seconds

    def reached(self, total: int) -> None:
        """How far it is does not matter."""

    def check(self) -> None:
        """Raises RemoteUnreachableError once the time is over."""
        if self._monotonic() > self._end:
            raise RemoteUnreachableError(
                phrase("the server took longer than {seconds} seconds to answer", seconds=round(self._seconds)),
                hint=self._hint,
            )
