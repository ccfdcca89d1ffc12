"""Where the parts of a plot are, in the units of its viewBox; the macros of chart.html draw them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from math import ceil, floor, log2, log10
from zoneinfo import ZoneInfo

_TOP, _BOTTOM, _LEFT = 8, 22, 58
_LINES = 4
_TICKS_MAX = 12
_MARK_GAP = 5.0
_DAYS_MAX = 8
_TICK_ROOM = 22

Place = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle; `series` counts from 0."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True, slots=True)
class BarPlot:
    """`lines` are (y, text), `ticks` are (x, text)."""

    width: int
    height: int
    left: int
    lines: Sequence[Place]
    ticks: Sequence[Place]
    bars: Sequence[Bar]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Curve:
    """SVG path data of a line, and of what is below it."""

    path: str
    area: str


@dataclass(frozen=True, slots=True)
class LinePlot:
    width: int
    height: int
    left: int
    lines: Sequence[Place]
    ticks: Sequence[Place]
    curves: Sequence[Curve]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of time; `kind` is a mode, `foreign` for a point of nobody here, or `problem`."""

    x: float
    radius: float
    kind: str
    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    width: int
    height: int
    rail: int
    ticks: Sequence[Place]
    marks: Sequence[Mark]


def bar_plot(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    show: Callable[[float], str],
    *,
    width: int = 640,
    height: int = 180,
    binary: bool = True,
) -> BarPlot:
    """One group of bars for each label, side by side by series. `show` writes a value; `binary` says that values are
    bytes, whose round numbers are powers of 1024."""
    top = _round_up(max((value for _name, values in series for value in values), default=0), binary=binary)
    inner = height - _TOP - _BOTTOM
    slot = (width - _LEFT) / max(1, len(labels))
    bar = slot * 0.72 / max(1, len(series))
    bars = [
        Bar(
            _r(_LEFT + at * slot + slot * 0.14 + number * bar),
            _r(_TOP + inner * (1 - value / top)),
            _r(max(bar - 1, 1)),
            _r(inner * value / top),
            number,
            f"{labels[at]} · {name}: {show(value)}",
        )
        for number, (name, values) in enumerate(series)
        for at, value in enumerate(values)
        if value > 0
    ]
    centres = [_r(_LEFT + (at + 0.5) * slot) for at in range(len(labels))]
    names = [name for name, _values in series]
    return BarPlot(width, height, _LEFT, _lines(top, inner, show), _thinned(centres, labels), bars, names)


def line_plot(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    show: Callable[[float], str],
    *,
    width: int = 640,
    height: int = 180,
    binary: bool = True,
) -> LinePlot:
    """One curve for each series, a value for each label."""
    top = _round_up(max((value for _name, values in series for value in values), default=0), binary=binary)
    inner = height - _TOP - _BOTTOM
    step = (width - _LEFT) / max(1, len(labels) - 1)
    places = [_r(_LEFT + at * step) for at in range(len(labels))]
    curves = []
    for _name, values in series:
        points = [f"{x} {_r(_TOP + inner * (1 - value / top))}" for x, value in zip(places, values, strict=True)]
        path = "M" + "L".join(points) if points else ""
        base = _TOP + inner
        curves.append(Curve(path, f"{path}L{places[-1]} {base}L{places[0]} {base}Z" if points else ""))
    names = [name for name, _values in series]
    return LinePlot(width, height, _LEFT, _lines(top, inner, show), _thinned(places, labels, inset=20), curves, names)


def timeline(
    moments: Sequence[tuple[datetime, str, str, str]],
    start: datetime,
    end: datetime,
    zone: ZoneInfo,
    show: Callable[[date], str],
    *,
    width: int = 960,
) -> Timeline:
    """`moments` are (time, kind, url, title). Marks that would lie on each other are moved apart a little.

    A tick is where a day of the zone begins; between two of them there are always as many days.
    """
    rail, height = 22, 56
    span = max((end - start).total_seconds(), 1.0)
    marks: list[Mark] = []
    last = -_MARK_GAP

    def place(moment: datetime) -> float:
        return 10 + (width - 20) * min(max((moment - start).total_seconds() / span, 0), 1)

    for moment, kind, url, title in sorted(moments):
        x = place(moment)
        x = min(max(x, last + _MARK_GAP), width - 6.0)
        last = x
        marks.append(Mark(_r(x), 7 if kind == "full" else 5.5, kind, url, title))
    ticks = [(_r(place(midnight)), show(midnight.date())) for midnight in _midnights(start, end, zone)]
    # A label in the middle of its tick needs room on both sides.
    ticks = [(x, text) for x, text in ticks if _TICK_ROOM <= x <= width - _TICK_ROOM]
    return Timeline(width, height, rail, ticks, marks)


def _midnights(start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """The beginnings of days, as many days apart as leave few enough of them."""
    first, last = start.astimezone(zone).date(), end.astimezone(zone).date()
    every = max(1, ceil((last - first).days / _DAYS_MAX))
    days = range((last - first).days, 0, -every)
    return [datetime.combine(first + timedelta(days=day), time(), zone) for day in reversed(days)]


def _round_up(value: float, *, binary: bool) -> float:
    """The smallest round number from there on, so that lines across have round numbers, too."""
    if value <= 0:
        return 1.0
    if binary:
        return float(2 ** ceil(log2(value)))
    unit = 10 ** floor(log10(value))
    return float(next(unit * factor for factor in (1, 2, 4, 5, 8, 10) if unit * factor >= value))


def _lines(top: float, inner: int, show: Callable[[float], str]) -> list[Place]:
    return [(_r(_TOP + inner * (1 - part / _LINES)), show(top * part / _LINES)) for part in range(_LINES + 1)]


def _thinned(places: Sequence[float], labels: Sequence[str], inset: float = 0) -> list[Place]:
    """At most so many labels that they do not touch."""
    every = max(1, ceil(len(labels) / _TICKS_MAX))
    return [
        (x - inset if at == len(labels) - 1 else x, label)
        for at, (x, label) in enumerate(zip(places, labels, strict=True))
        if at % every == 0
    ]


def _r(value: float) -> float:
    return round(value, 1)
