"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (1048576, 1048576),
        ("1048576", 1048576),
        ("1B", 1),
        ("512 MiB", 512 * 1024**2),
        ("512m", 512 * 1024**2),
        (" 2G ", 2 * 1024**3),
        ("1.5 GiB", 3 * 1024**3 // 2),
        ("3 TiB", 3 * 1024**4),
    ],
)
def test_sizes_are_read_in_powers_of_1024(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    ["", "lots", "-1", "1 GB x", "5 GiB/s", "1e9", "0x10", "1,5 GiB", "²", None, True, [], "9" * 16, "1..5G"],
)
def test_what_is_no_size_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(written)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1610612736, "1.5 GiB"), (5 * 1024**5, "5120.0 TiB")],
)
def test_sizes_are_shown_in_the_largest_unit_that_fits(size: int, shown: str) -> None:
    assert show_size(size) == shown


@given(st.integers(0, 2**63))
def test_what_is_shown_reads_back_as_nearly_the_same_size(size: int) -> None:
    assert parse_size(show_size(size)) == pytest.approx(size, rel=0.06, abs=1)
