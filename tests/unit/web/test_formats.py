"""Sizes, durations and times as each language writes them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.web import formats
from kvm_backup.web.language import in_language

GIB = 1024**3
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")


def plain(text: str) -> str:
    """With ordinary spaces, to be read."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")


@pytest.mark.parametrize(
    ("value", "english", "french"),
    [
        (None, "–", "–"),
        (0, "0 B", "0 o"),
        (1023, "1,023 B", "1 023 o"),
        (1536, "1.5 KiB", "1,5 Kio"),
        (1.5 * GIB, "1.5 GiB", "1,5 Gio"),
        (64 * GIB, "64 GiB", "64 Gio"),
        (234.56 * GIB, "235 GiB", "235 Gio"),
        (1024 * GIB - 1, "1.0 TiB", "1,0 Tio"),
        (5000 * 1024 * GIB, "5,000 TiB", "5 000 Tio"),
    ],
)
def test_a_size_has_the_unit_that_fits(value: float | None, english: str, french: str) -> None:
    assert plain(formats.size(value)) == english
    with in_language("fr"):
        assert plain(formats.size(value)) == french


@pytest.mark.parametrize(
    ("seconds", "english", "french"),
    [
        (None, "–", "–"),
        (0.4, "0 s", "0 s"),
        (59.6, "1 min 00 s", "1 min 00 s"),
        (125, "2 min 05 s", "2 min 05 s"),
        (7500, "2 h 05 min", "2 h 05 min"),
        (200_000, "2 d 7 h", "2 j 7 h"),
        (-5, "0 s", "0 s"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, english: str, french: str) -> None:
    assert plain(formats.duration(seconds)) == english
    with in_language("fr"):
        assert plain(formats.duration(seconds)) == french


@pytest.mark.parametrize(
    ("away", "english", "french"),
    [
        (timedelta(seconds=-9), "now", "maintenant"),
        (timedelta(seconds=-40), "40 s ago", "il y a 40 s"),
        (timedelta(seconds=1), "in 10 s", "dans 10 s"),
        (timedelta(seconds=39), "in 40 s", "dans 40 s"),
        (timedelta(minutes=-5), "5 min ago", "il y a 5 min"),
        (timedelta(hours=3, minutes=59), "in 3 h", "dans 3 h"),
        (timedelta(hours=47), "in 47 h", "dans 47 h"),
        (timedelta(days=2), "in 2 days", "dans 2 jours"),
        (timedelta(days=-4000), "4,000 days ago", "il y a 4 000 jours"),
    ],
)
def test_a_distance_tells_its_direction(away: timedelta, english: str, french: str) -> None:
    assert plain(formats.distance(NOW + away, NOW)) == english
    with in_language("fr"):
        assert plain(formats.distance(NOW + away, NOW)) == french


def test_a_time_is_shown_on_the_clocks_of_the_zone_and_told_to_machines_in_utc() -> None:
    assert formats.clock_time(NOW, PARIS) == "2026-11-22 13:00"
    assert formats.clock_seconds(NOW, PARIS) == "2026-11-22 13:00:00"
    assert formats.clock_title(NOW, PARIS) == "2026-11-22 13:00:00 CET (Europe/Paris)"
    assert formats.machine_time(NOW.astimezone(PARIS)) == "2026-11-22T12:00:00Z"
    with in_language("fr"):
        assert formats.clock_time(NOW, PARIS) == "22/11/2026 13:00"
        assert formats.on_day(NOW, PARIS) == "22/11"


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(0, 0, "0%"), (1, 3, "33%"), (999, 1000, "99%"), (5, 5, "100%")]
)
def test_a_share_is_whole_only_at_the_end(done: int, total: int, shown: str) -> None:
    assert formats.percent(done, total) == shown
