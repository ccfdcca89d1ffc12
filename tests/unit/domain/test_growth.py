"""How a repository grows, and when its disk is full."""

from datetime import UTC, datetime, timedelta

import pytest

from kvm_backup.domain.growth import SpaceSample, full_in_days, growth_per_day

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def samples(*used_by_day: tuple[float, int]) -> list[SpaceSample]:
    return [SpaceSample(NOW - timedelta(days=ago), used, 0, 0) for ago, used in used_by_day]


def test_a_steady_growth_is_found_whatever_the_order_of_the_samples() -> None:
    assert growth_per_day(samples((0, 1300), (3, 1000), (1, 1200), (2, 1100))) == pytest.approx(100)


def test_ups_and_downs_around_a_line_do_not_hide_its_slope() -> None:
    saw = samples(*((ago, 10_000 - 50 * ago + (300 if ago % 2 else -300)) for ago in range(30)))
    assert growth_per_day(saw) == pytest.approx(50, abs=5)


@pytest.mark.parametrize(
    "known",
    [
        [],
        samples((0, 1)),
        samples((0, 3), (1, 2), (4, 1)),
        samples((0, 4), (0.5, 3), (1, 2), (2.9, 1)),
    ],
    ids=["none", "one", "three", "less than three days"],
)
def test_too_few_samples_give_no_guess(known: list[SpaceSample]) -> None:
    assert growth_per_day(known) is None


def test_only_the_last_thirty_days_count() -> None:
    old = samples((31, 10**9), (40, 10**9), (50, 0))
    assert growth_per_day(old + samples((0, 130), (1, 120), (2, 110), (3, 100))) == pytest.approx(10)


def test_a_disk_is_full_when_its_free_space_has_grown_over() -> None:
    assert full_in_days(1000, 100.0) == pytest.approx(10)


@pytest.mark.parametrize("growth", [None, 0.0, -5.0, 0.001])
def test_without_growth_or_in_a_far_future_no_day_is_foretold(growth: float | None) -> None:
    assert full_in_days(1000, growth) is None
