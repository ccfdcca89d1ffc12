"""What a capture does with each range of a disk, and the arithmetic of such ranges.

All offsets and lengths are bytes of the guest's disk. Functions take and give extents in ascending order that
touch without gap or overlap, and work as streams, so that a fragmented disk of many TiB is never held in memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum


class ExtentKind(Enum):
    DATA = "data"
    """Must be read and stored."""
    ZERO = "zero"
    """Reads as zeros: an explicit zero cluster when there is a parent, nothing when there is none."""
    UNCHANGED = "unchanged"
    """The parent has it; nothing is stored."""


@dataclass(frozen=True, slots=True)
class Extent:
    offset: int
    length: int
    kind: ExtentKind

    @property
    def end(self) -> int:
        return self.offset + self.length


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of the same kind and drop empty ones. Raises ValueError on a gap or overlap."""
    open_extent: Extent | None = None
    for extent in extents:
        if open_extent is not None and extent.offset != open_extent.end:
            raise ValueError(f"extent at {extent.offset} does not follow the one that ends at {open_extent.end}")
        if extent.length < 0:
            raise ValueError(f"extent at {extent.offset} has the negative length {extent.length}")
        if open_extent is None:
            open_extent = extent
        elif extent.kind is open_extent.kind or not extent.length:
            open_extent = Extent(open_extent.offset, open_extent.length + extent.length, open_extent.kind)
        else:
            if open_extent.length:
                yield open_extent
            open_extent = extent
    if open_extent is not None and open_extent.length:
        yield open_extent


def clip(extents: Iterable[Extent], end: int) -> Iterator[Extent]:
    """Cut off what lies at or beyond `end`."""
    for extent in extents:
        if extent.offset >= end:
            return
        if extent.length:
            yield extent if extent.end <= end else Extent(extent.offset, end - extent.offset, extent.kind)


def combine(allocation: Iterable[Extent], dirty: Iterable[Extent]) -> Iterator[Extent]:
    """What to do, from what is allocated (DATA, ZERO) and what changed since the parent (DATA, UNCHANGED).

    Both start at the same offset; the result ends where the shorter one does. What did not change is UNCHANGED
    whatever its allocation; a changed range keeps its allocation's kind.
    """
    changes = iter(dirty)
    change = next(changes, None)
    for extent in allocation:
        position = extent.offset
        while position < extent.end:
            while change is not None and change.end <= position:
                change = next(changes, None)
            if change is None:
                return
            end = min(extent.end, change.end)
            yield Extent(position, end - position, extent.kind if change.kind is ExtentKind.DATA else change.kind)
            position = end


def align(extents: Iterable[Extent], cluster_size: int) -> Iterator[Extent]:
    """Give every cluster one kind: its own when it has only one, DATA when it is mixed.

    Extents start at 0. A mixed cluster is stored whole, because reading it gives the right bytes whatever its parts
    are. The end of the last extent is kept, also when it is inside a cluster.
    """
    return merge(_whole_clusters(merge(extents), cluster_size))


def _whole_clusters(extents: Iterable[Extent], cluster_size: int) -> Iterator[Extent]:
    part: Extent | None = None
    for extent in extents:
        start = extent.offset
        if part is not None:
            cluster_end = part.offset + cluster_size
            end = min(extent.end, cluster_end)
            # Merged neighbours differ in kind, so this cluster is mixed.
            part = Extent(part.offset, end - part.offset, ExtentKind.DATA)
            if end < cluster_end:
                continue
            yield part
            part, start = None, cluster_end
        whole_end = max(start, extent.end - extent.end % cluster_size)
        if whole_end > start:
            yield Extent(start, whole_end - start, extent.kind)
        if extent.end > whole_end:
            part = Extent(whole_end, extent.end - whole_end, extent.kind)
    if part is not None:
        yield part
