"""How fast a transfer may be, by the time of day."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Self

from kvm_backup.domain.sizes import parse_size

LEAST_RATE = 1024
"""Bytes per second; rsync counts in KiB, and takes 0 for no limit."""
UNLIMITED = "unlimited"
_HOURS = re.compile(r"\s*([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})\s+(\S.*)")


def parse_rate(text: object) -> int | None:
    """Bytes per second from 1048576, "512KiB" or "20 MiB"; None from "unlimited". Raises ValueError."""
    if isinstance(text, str) and text.strip() == UNLIMITED:
        return None
    rate = parse_size(text)
    if rate < LEAST_RATE:
        raise ValueError(f'must be at least 1KiB (bytes per second), or "{UNLIMITED}"')
    return rate


@dataclass(frozen=True, slots=True)
class Hours:
    """A limit in bytes per second (None: none) from `start` until just before `end`, on the clock on the wall.

    A window whose end is not later than its start goes past midnight; equal ones mean the whole day.
    """

    start: time
    end: time
    limit: int | None

    @classmethod
    def parse(cls, text: object) -> Self:
        """From "08:00-18:30 2MiB" or "22:00-06:00 unlimited". Raises ValueError."""
        found = _HOURS.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError('must be hours and a rate, such as "08:00-18:30 2MiB" or "22:00-06:00 unlimited"')
        start_hour, start_minute, end_hour, end_minute = (int(digits) for digits in found.groups()[:4])
        # Midnight at the end of a day is written both ways.
        end = (0, 0) if (end_hour, end_minute) == (24, 0) else (end_hour, end_minute)
        try:
            window = time(start_hour, start_minute), time(*end)
        except ValueError:
            raise ValueError("has an hour beyond 24:00 or a minute beyond 59") from None
        return cls(*window, parse_rate(found[5]))

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
