"""A chain of images seen as one disk: which link holds each cluster, and reading clusters in long runs."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kvm_backup.domain.errors import DamagedImageError
from kvm_backup.domain.extent import Extent
from kvm_backup.engine.compress import ClusterDecompressor
from kvm_backup.engine.direct_io import ALIGNMENT, aligned_buffer
from kvm_backup.engine.qcow2.format import (
    CLUSTER_SIZE,
    ENTRY_COMPRESSED,
    L2_ENTRIES,
    MAX_FRAME,
    damaged,
)
from kvm_backup.engine.qcow2.reader import ImageFile

RUN_CLUSTERS = 16
"""Most clusters of a run: 1 MiB of disk."""
_READ_SIZE = RUN_CLUSTERS * CLUSTER_SIZE + 2 * CLUSTER_SIZE


@dataclass(frozen=True, slots=True)
class StoredCluster:
    """A cluster of the disk whose data is in a file."""

    cluster: int
    """Index: disk offset // 64 KiB."""
    image: ImageFile
    entry: int
    offset: int
    """In the file."""
    length: int
    """In the file, at most."""
    valid: int = CLUSTER_SIZE
    """Bytes that count; what follows reads as zeros, because a link of the chain is shorter."""

    @property
    def disk_offset(self) -> int:
        return self.cluster * CLUSTER_SIZE

    def describe_damage(self, cause: str) -> DamagedImageError:
        return damaged(
            f"{self.image.path} is damaged at {self.offset:#x} (disk offset {self.disk_offset:#x}): {cause}"
        )


def stored_clusters(chain: Sequence[ImageFile]) -> Iterator[StoredCluster]:
    """Everything of a disk that does not read as zeros, in ascending order. `chain` has the base first.

    An image without a backing file is a full one: nothing below it shows. So a link that was consolidated after the
    caller had looked at the chain is read right, too. Holds one L2 table of each link at a time. Raises
    DamagedImageError, StorageError.
    """
    full = max((index for index, image in enumerate(chain) if image.header.backing_file is None), default=0)
    chain = chain[full:]
    for l2_index in range(chain[-1].l2_tables):
        yield from _of_l2_table(chain, l2_index)


def first_stored(chain: Sequence[ImageFile], extents: Iterable[Extent]) -> int | None:
    """The first disk offset within ascending extents (whole clusters) where a chain, base first, holds data.

    Raises DamagedImageError, StorageError.
    """
    held_index, held = -1, list[int]()
    for extent in extents:
        first, end = extent.offset // CLUSTER_SIZE, -(-extent.end // CLUSTER_SIZE)
        while first < end:
            index = first // L2_ENTRIES
            if index >= chain[-1].l2_tables:
                return None
            if index != held_index:
                held_index, held = index, [stored.cluster for stored in _of_l2_table(chain, index)]
            stop = min(end, (index + 1) * L2_ENTRIES)
            place = bisect_left(held, first)
            if place < len(held) and held[place] < stop:
                return held[place] * CLUSTER_SIZE
            first = stop
    return None


def in_runs(clusters: Iterable[StoredCluster]) -> Iterator[list[StoredCluster]]:
    """Adjacent clusters together, each run within an aligned 1 MiB of the disk, so within one L2 table."""
    run: list[StoredCluster] = []
    for stored in clusters:
        if run and (stored.cluster != run[-1].cluster + 1 or stored.cluster % RUN_CLUSTERS == 0):
            yield run
            run = []
        run.append(stored)
    if run:
        yield run


def _of_l2_table(chain: Sequence[ImageFile], l2_index: int) -> Iterator[StoredCluster]:
    first = l2_index * L2_ENTRIES
    layers: list[tuple[ImageFile, array[int], int]] = []
    visible = chain[-1].header.virtual_size
    for image in reversed(chain):
        # A shorter link hides what links below it have behind its end.
        visible = min(visible, image.header.virtual_size)
        if image.has_l2(l2_index):
            layers.append((image, image.read_l2(l2_index), visible))
    if not layers:
        return
    for index in range(min(L2_ENTRIES, chain[-1].clusters - first)):
        for image, table, limit in layers:
            entry = table[index]
            if entry:
                valid = min(CLUSTER_SIZE, limit - (first + index) * CLUSTER_SIZE)
                if valid > 0 and (place := image.data_range(entry)):
                    yield StoredCluster(first + index, image, entry, *place, valid)
                break


class RunReader:
    """Reads and decompresses runs; has its own buffers, so each thread needs its own."""

    def __init__(self, decompressor: ClusterDecompressor) -> None:
        self._decompressor = decompressor
        self._buffer = aligned_buffer(_READ_SIZE)
        self.clusters = aligned_buffer(RUN_CLUSTERS * CLUSTER_SIZE)
        """The content of the run that was read last."""

    def read(self, run: Sequence[StoredCluster]) -> memoryview:
        """The disk's bytes of a run, valid until the next call. Raises DamagedImageError, StorageError."""
        for start, stop in _spans(run):
            span_offset = run[start].offset // ALIGNMENT * ALIGNMENT
            span_end = max(stored.offset + stored.length for stored in run[start:stop])
            wanted = -(-(span_end - span_offset) // ALIGNMENT) * ALIGNMENT
            got = run[start].image.read_into(self._buffer[:wanted], span_offset)
            for index in range(start, stop):
                stored = run[index]
                begin = stored.offset - span_offset
                if begin + stored.length > got:
                    raise stored.describe_damage("the file is cut short")
                self._place(index, stored, self._buffer[begin : begin + stored.length])
        return self.clusters[: len(run) * CLUSTER_SIZE]

    def _place(self, index: int, stored: StoredCluster, data: memoryview) -> None:
        target = index * CLUSTER_SIZE
        if stored.entry & ENTRY_COMPRESSED:
            try:
                content = self._decompressor.cluster(data)
            except ValueError as error:
                raise stored.describe_damage(str(error)) from error
            self.clusters[target : target + CLUSTER_SIZE] = content
        else:
            self.clusters[target : target + CLUSTER_SIZE] = data
        if stored.valid < CLUSTER_SIZE:
            self.clusters[target + stored.valid : target + CLUSTER_SIZE] = bytes(CLUSTER_SIZE - stored.valid)


def _spans(run: Sequence[StoredCluster]) -> Iterator[tuple[int, int]]:
    """Parts of a run (first, last + 1) that lie close together in one file, to be read at once."""
    start = 0
    for index in range(1, len(run)):
        stored, previous, first = run[index], run[index - 1], run[start]
        if (
            stored.image is not previous.image
            or not previous.offset < stored.offset <= previous.offset + 2 * MAX_FRAME
            or stored.offset + stored.length - first.offset > _READ_SIZE - ALIGNMENT
        ):
            yield start, index
            start = index
    yield start, len(run)
