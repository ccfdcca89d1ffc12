"""Extents against an oracle that holds one kind for every byte of a small disk."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.extent import Extent, ExtentKind, align, clip, combine, merge

DATA, ZERO, UNCHANGED = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.UNCHANGED
CLUSTER = 8


def layouts(kinds: Iterable[ExtentKind]) -> st.SearchStrategy[list[Extent]]:
    """Touching extents from 0 on, empty ones and equal neighbours included."""
    parts = st.lists(st.tuples(st.integers(0, 3 * CLUSTER), st.sampled_from(list(kinds))), max_size=12)
    return parts.map(_laid_out)


def _laid_out(parts: list[tuple[int, ExtentKind]]) -> list[Extent]:
    extents, offset = [], 0
    for length, kind in parts:
        extents.append(Extent(offset, length, kind))
        offset += length
    return extents


def bytes_of(extents: Iterable[Extent]) -> list[ExtentKind]:
    """The kind of every byte; fails on gaps and overlaps."""
    kinds: list[ExtentKind] = []
    for extent in extents:
        assert extent.offset == len(kinds) or not extent.length
        kinds += [extent.kind] * extent.length
    return kinds


@given(layouts(ExtentKind))
def test_merge_keeps_every_byte_and_leaves_no_equal_or_empty_neighbours(extents: list[Extent]) -> None:
    merged = list(merge(extents))
    assert bytes_of(merged) == bytes_of(extents)
    assert all(extent.length for extent in merged)
    assert all(left.kind is not right.kind for left, right in itertools.pairwise(merged))


@pytest.mark.parametrize("offset", [3, 5])
def test_merge_refuses_gaps_and_overlaps(offset: int) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        list(merge([Extent(0, 4, DATA), Extent(offset, 4, DATA)]))


def test_merge_refuses_negative_lengths() -> None:
    with pytest.raises(ValueError, match="negative"):
        list(merge([Extent(0, 4, DATA), Extent(4, -1, DATA)]))


@given(layouts(ExtentKind), st.integers(0, 200))
def test_clip_keeps_the_bytes_before_the_end(extents: list[Extent], end: int) -> None:
    assert bytes_of(clip(extents, end)) == bytes_of(extents)[:end]


@given(layouts([DATA, ZERO]), layouts([DATA, UNCHANGED]))
def test_combine_takes_the_allocation_where_dirty_and_unchanged_elsewhere(
    allocation: list[Extent], dirty: list[Extent]
) -> None:
    expected = [
        kind if change is DATA else UNCHANGED
        for kind, change in zip(bytes_of(allocation), bytes_of(dirty), strict=False)
    ]
    assert bytes_of(combine(allocation, dirty)) == expected


@given(layouts(ExtentKind))
def test_align_gives_each_cluster_its_only_kind_or_data(extents: list[Extent]) -> None:
    kinds = bytes_of(extents)
    expected: list[ExtentKind] = []
    for start in range(0, len(kinds), CLUSTER):
        cluster = kinds[start : start + CLUSTER]
        expected += [cluster[0] if len(set(cluster)) == 1 else DATA] * len(cluster)
    aligned = list(align(extents, CLUSTER))
    assert bytes_of(aligned) == expected
    assert all(extent.offset % CLUSTER == 0 for extent in aligned)
