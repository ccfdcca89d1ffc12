"""Where the parts of a plot are: inside it, in proportion, and where nothing was measured, too."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kvm_backup.web.drawing import bar_plot, line_plot, timeline

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
VALUES = some.lists(some.floats(0, 1e15), min_size=1, max_size=90)


def show(value: float) -> str:
    return f"{value:.0f}"


@given(VALUES)
def test_bars_stay_inside_and_stand_on_the_lowest_line(values: list[float]) -> None:
    plot = bar_plot([str(at) for at in range(len(values))], [("read", values)], show)
    lowest = max(y for y, _text in plot.lines)
    assert len(plot.bars) == sum(value > 0 for value in values)
    for bar in plot.bars:
        assert plot.left <= bar.x
        assert bar.x + bar.width <= plot.width
        assert bar.y >= 0
        assert bar.y + bar.height == pytest.approx(lowest, abs=0.2)


def test_a_bar_is_as_high_as_its_share_of_the_highest_line() -> None:
    gib = 1024**3
    plot = bar_plot(["a", "b"], [("read", [64 * gib, 16 * gib]), ("stored", [32 * gib, 0])], show)
    lines = {text: y for y, text in plot.lines}
    assert set(lines) == {show(64 * gib * part / 4) for part in range(5)}
    tops = {(bar.series, bar.title.split(" ")[0]): bar.y for bar in plot.bars}
    assert tops[0, "a"] == pytest.approx(lines[show(64 * gib)], abs=0.2)
    assert tops[0, "b"] == pytest.approx(lines[show(16 * gib)], abs=0.2)
    assert tops[1, "a"] == pytest.approx(lines[show(32 * gib)], abs=0.2)


@given(VALUES)
def test_a_curve_has_a_point_for_each_value(values: list[float]) -> None:
    plot = line_plot([str(at) for at in range(len(values))], [("used", values)], show)
    [curve] = plot.curves
    points = [tuple(map(float, point.split())) for point in curve.path.removeprefix("M").split("L")]
    assert len(points) == len(values)
    assert all(plot.left <= x <= plot.width and 0 <= y <= plot.height for x, y in points)
    assert sorted(x for x, _y in points) == [x for x, _y in points]


def test_nothing_measured_is_an_empty_plot() -> None:
    assert bar_plot([], [("read", [])], show).bars == []
    assert line_plot([], [("used", [])], show).curves[0].path == ""
    assert bar_plot(["a"], [("read", [0])], show).bars == []


@pytest.mark.parametrize(("highest", "top"), [(1, 1), (7, 8), (11, 20), (39, 40), (41, 50), (900, 1000)])
def test_counts_have_round_lines(highest: float, top: float) -> None:
    assert bar_plot(["a"], [("runs", [highest])], show, binary=False).lines[-1][1] == show(top)


@given(some.lists(some.integers(-50, 5000), max_size=60))
def test_marks_of_a_time_line_are_in_order_and_can_be_told_apart(hours: list[int]) -> None:
    moments = [(NOW - timedelta(hours=hour), "full", "/", "point") for hour in hours]
    line = timeline(moments, NOW - timedelta(days=30), NOW, ZoneInfo("Europe/Paris"), lambda day: f"{day:%d}")
    places = [mark.x for mark in line.marks]
    assert places == sorted(places)
    assert all(0 <= x <= line.width for x in places)
    assert len(places) == len(hours)


@given(some.integers(2, 3000), some.integers(0, 47))
def test_labels_of_a_time_line_are_as_many_days_apart_and_inside(days: int, hours: int) -> None:
    start = NOW - timedelta(days=days, hours=hours)
    line = timeline([], start, NOW, ZoneInfo("Europe/Paris"), lambda day: str(day.toordinal()))
    labels = [int(text) for _x, text in line.ticks]
    assert labels
    assert len({after - before for before, after in pairwise(labels)}) <= 1
    assert all(20 <= x <= line.width - 20 for x, _text in line.ticks)
    assert len(labels) <= 9


def test_a_week_has_a_label_where_each_of_its_days_begins() -> None:
    line = timeline([], NOW - timedelta(days=7), NOW, ZoneInfo("Europe/Paris"), lambda day: f"{day:%d}")
    assert [text for _x, text in line.ticks] == ["16", "17", "18", "19", "20", "21", "22"]
    gaps = {round(after - before) for (before, _), (after, _) in pairwise(line.ticks)}
    assert gaps == {134}
