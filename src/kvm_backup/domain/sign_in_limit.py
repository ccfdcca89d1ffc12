"""How many wrong passwords are taken, and how long to wait then. Each wait is twice the one before."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

_FIRST_WAIT = timedelta(seconds=15)
_LONGEST_WAIT = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=24)
"""Failures count no more when there was none for so long."""
KNOWN_FOR = timedelta(days=30)
"""How long an address counts as the user's own after a sign-in."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failures cost no wait."""

    free: int

    def wait(self, failures: int, last: datetime, now: datetime) -> int:
        """Seconds until the next attempt may be made, 0 when that is now; 900 at most, whatever the clock does."""
        if failures < self.free:
            return 0
        doublings = min(failures - self.free, 10)
        length = min(_FIRST_WAIT * (1 << doublings), _LONGEST_WAIT)
        left = min(last + length - now, length)
        return max(0, ceil(left.total_seconds()))


PER_ACCOUNT = Limit(free=5)
PER_ADDRESS = Limit(free=20)
"""Many people may share an address: a company's, or that of a proxy."""
