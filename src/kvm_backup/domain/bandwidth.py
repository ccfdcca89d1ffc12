"""How fast a transfer may be, by the time of day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time


@dataclass(frozen=True, slots=True)
class Hours:
    """A limit in bytes per second (None: none) from `start` until just before `end`, on the clock on the wall.

    A window whose end is not later than its start goes past midnight; equal ones mean the whole day.
    """

    start: time
    end: time
    limit: int | None

    def holds(self, moment: time) -> bool:
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end


@dataclass(frozen=True, slots=True)
class BandwidthPlan:
    """The first of `hours` that holds counts, else `limit`."""

    limit: int | None = None
    hours: Sequence[Hours] = ()

    def limit_at(self, moment: datetime) -> int | None:
        """Bytes per second, None without a limit; `moment` is in the zone that the hours are meant in."""
        for window in self.hours:
            if window.holds(moment.time()):
                return window.limit
        return self.limit
