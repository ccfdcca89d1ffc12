"""How fast a repository grows, and when its disk is full, from samples of the space used. Pure; sizes in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(days=30)
"""Older samples say little about how it goes on."""
_SPAN_MIN = timedelta(days=3)
_SAMPLES_MIN = 4
_FORETOLD_MAX = 3650.0


@dataclass(frozen=True, slots=True)
class SpaceSample:
    """The space of one repository at one time: what its points take, what its file system has free and in all."""

    at: datetime
    used: int
    free: int
    total: int


def growth_per_day(samples: Iterable[SpaceSample]) -> float | None:
    """Bytes a day by which the points grow: the slope of the straight line that fits the last 30 days best.

    None when the samples are fewer than four or lie within less than three days: a guess would be worse than none.
    """
    known = sorted(samples, key=lambda sample: sample.at)
    known = [sample for sample in known if sample.at >= known[-1].at - WINDOW]
    if len(known) < _SAMPLES_MIN or known[-1].at - known[0].at < _SPAN_MIN:
        return None
    days = [(sample.at - known[0].at) / timedelta(days=1) for sample in known]
    middle = sum(days) / len(days)
    mean = sum(sample.used for sample in known) / len(known)
    spread = sum((day - middle) ** 2 for day in days)
    return sum((day - middle) * (sample.used - mean) for day, sample in zip(days, known, strict=True)) / spread


def full_in_days(free: int, growth: float | None) -> float | None:
    """In how many days nothing is free at this growth; None when it does not grow, that is not known, or it is more
    than ten years away."""
    if growth is None or growth <= 0:
        return None
    days = free / growth
    return days if days <= _FORETOLD_MAX else None
