"""How a run comes on: how fast, and how long it will take, from what was seen of it lately."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kvm_backup.domain.run import Run

_SMOOTHING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` and `total` in bytes, `rate` in bytes a second, `seconds_left`; None where nothing can be said."""

    done: int
    total: int
    rate: float | None = None
    seconds_left: float | None = None


@dataclass(slots=True)
class _Sample:
    done: int
    at: float
    rate: float | None = None


class Rates:
    """The rates of the runs that go on, from looking at them again and again."""

    def __init__(self) -> None:
        self._samples: dict[str, _Sample] = {}

    def note(self, runs: Iterable[Run], at: float | None = None) -> None:
        """What was seen just now; runs that are not among them are forgotten. `at` is a monotonic time in seconds."""
        moment = time.monotonic() if at is None else at
        seen: dict[str, _Sample] = {}
        for run in runs:
            before = self._samples.get(run.id)
            seen[run.id] = _Sample(run.done, moment) if before is None else _later(before, run.done, moment)
        self._samples = seen

    def progress(self, run: Run, now: datetime) -> Progress:
        """With the rate of the last seconds; where nobody looked, the mean since the run began."""
        sample = self._samples.get(run.id)
        rate = sample.rate if sample else None
        if rate is None and run.started is not None and run.done and not run.state.final:
            rate = run.done / max(1.0, (now - run.started).total_seconds())
        left = (run.total - run.done) / rate if rate and run.total > run.done else None
        return Progress(run.done, run.total, rate, left)


def _later(before: _Sample, done: int, moment: float) -> _Sample:
    passed = moment - before.at
    if done < before.done:  # the next attempt began
        return _Sample(done, moment)
    if (done == before.done and passed < _SMOOTHING_SECONDS) or passed <= 0:
        return before
    current = (done - before.done) / passed
    weight = min(1.0, passed / _SMOOTHING_SECONDS)
    rate = current if before.rate is None else before.rate + weight * (current - before.rate)
    return _Sample(done, moment, rate)
