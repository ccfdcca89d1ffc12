"""Writes a qcow2 image front to back: data as it comes, tables as they fill, the header last.

Layout: header cluster; data, with each L2 table behind the data it maps and each refcount block behind the 2 GiB of
file it counts; the L1 table; the last refcount blocks; the refcount table, which ends the file. Memory is bounded
by one L2 table, one refcount block, and 8 bytes for each 512 MiB of the disk.
"""

import dataclasses
import sys
from array import array
from typing import Protocol

from kvm_backup.engine.qcow2.format import (
    CLUSTER_SIZE,
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    ENTRY_COPIED,
    ENTRY_ZERO,
    L2_ENTRIES,
    REFCOUNT_BLOCK_ENTRIES,
    Header,
    Identity,
    compressed_entry,
    pack_header,
)


class Sink(Protocol):
    """Where the file's bytes go, except the header."""

    def write(self, data: bytes, offset: int) -> None:
        """Called with ascending offsets, without gaps but for clusters that were placed."""


class Qcow2Writer:
    """Takes clusters in ascending order of their index (disk offset // 64 KiB), each at most once."""

    def __init__(
        self,
        sink: Sink,
        virtual_size: int,
        *,
        compressed: bool,
        backing_file: str | None = None,
        backing_format: str | None = None,
        identity: Identity | None = None,
    ) -> None:
        """`compressed` is false for an image that gets no frames; any QEMU reads it. ValueError: names too long."""
        self._sink = sink
        self._position = CLUSTER_SIZE
        self._header = Header(
            virtual_size=virtual_size,
            l1_offset=CLUSTER_SIZE,
            refcount_table_offset=CLUSTER_SIZE,
            refcount_table_clusters=1,
            compression=COMPRESSION_ZSTD if compressed else COMPRESSION_ZLIB,
            backing_file=backing_file,
            backing_format=backing_format,
            identity=identity,
        )
        pack_header(self._header)  # names that do not fit are an error now, not after hours of copying
        self._l1 = array("Q", bytes(8 * self._header.l1_entries))
        self._l2 = array("Q", bytes(CLUSTER_SIZE))
        self._l2_index = 0
        self._l2_used = False
        # Of the host clusters that no written refcount block counts yet; the header's cluster is the first.
        self._refcounts = array("H", [1])
        self._refcounts_from = 0
        self._refcount_blocks = array("Q")

    def add_frame(self, cluster: int, frame: bytes) -> None:
        """Store a cluster as the zstd frame of its 64 KiB; frames are packed without gaps."""
        index = self._open(cluster)
        position, length = self._position, len(frame)
        self._l2[index] = compressed_entry(position, length)
        self._sink.write(frame, position)
        self._position = position + length
        self._count(position // CLUSTER_SIZE, (position + length - 1) // CLUSTER_SIZE)

    def add_zeros(self, cluster: int, count: int) -> None:
        """Make clusters read as zeros whatever the backing file holds."""
        while count:
            index = self._open(cluster)
            run = min(count, L2_ENTRIES - index)
            self._l2[index : index + run] = array("Q", [ENTRY_ZERO]) * run
            cluster += run
            count -= run

    def place_clusters(self, cluster: int, count: int) -> int:
        """Give clusters of one L2 table room, uncompressed; returns where in the file the caller writes them."""
        index = self._open(cluster)
        self._align()
        offset = self._position
        entries = range(ENTRY_COPIED | offset, ENTRY_COPIED | offset + count * CLUSTER_SIZE, CLUSTER_SIZE)
        self._l2[index : index + count] = array("Q", entries)
        self._position += count * CLUSTER_SIZE
        self._count(offset // CLUSTER_SIZE, self._position // CLUSTER_SIZE - 1)
        return offset

    def finish(self) -> bytes:
        """Write the tables that are left. Returns the header's cluster, which belongs at offset 0."""
        self._flush_l2()
        l1_offset = self._append_table(self._l1)
        self._align()
        table_offset, table_clusters = self._append_refcounts()
        return pack_header(
            dataclasses.replace(
                self._header,
                l1_offset=l1_offset,
                refcount_table_offset=table_offset,
                refcount_table_clusters=table_clusters,
            )
        )

    def _open(self, cluster: int) -> int:
        """Make the L2 table of a cluster the current one; returns the cluster's index in it."""
        l2_index, index = divmod(cluster, L2_ENTRIES)
        if l2_index != self._l2_index:
            self._flush_l2()
            self._l2_index = l2_index
        if self._position // CLUSTER_SIZE - self._refcounts_from > REFCOUNT_BLOCK_ENTRIES:
            self._flush_refcount_blocks()
        self._l2_used = True
        return index

    def _flush_l2(self) -> None:
        if self._l2_used:
            self._l1[self._l2_index] = ENTRY_COPIED | self._append_table(self._l2)
            self._l2 = array("Q", bytes(CLUSTER_SIZE))
            self._l2_used = False

    def _flush_refcount_blocks(self) -> None:
        self._align()
        while self._position // CLUSTER_SIZE - self._refcounts_from > REFCOUNT_BLOCK_ENTRIES:
            block = self._refcounts[:REFCOUNT_BLOCK_ENTRIES]
            del self._refcounts[:REFCOUNT_BLOCK_ENTRIES]
            self._refcounts_from += REFCOUNT_BLOCK_ENTRIES
            self._refcount_blocks.append(self._append_table(block))

    def _append_refcounts(self) -> tuple[int, int]:
        """The last blocks and the table, which count themselves too; returns the table's offset and clusters."""
        used = self._position // CLUSTER_SIZE
        blocks = tables = 0
        while True:
            entries = -(-(used + blocks + tables) // REFCOUNT_BLOCK_ENTRIES)
            needed = entries - len(self._refcount_blocks), -(-entries * 8 // CLUSTER_SIZE)
            if needed == (blocks, tables):
                break
            blocks, tables = needed
        self._count(used, used + blocks + tables - 1)
        for index in range(blocks):
            start = index * REFCOUNT_BLOCK_ENTRIES
            self._refcount_blocks.append(self._position)
            self._write_aligned(self._refcounts[start : start + REFCOUNT_BLOCK_ENTRIES])
        table_offset = self._position
        self._write_aligned(self._refcount_blocks)
        return table_offset, tables

    def _append_table(self, table: "array[int]") -> int:
        """Write and count a table; returns its offset."""
        self._align()
        offset = self._position
        self._write_aligned(table)
        self._count(offset // CLUSTER_SIZE, self._position // CLUSTER_SIZE - 1)
        return offset

    def _write_aligned(self, table: "array[int]") -> None:
        if sys.byteorder == "little":
            table = table[:]
            table.byteswap()
        data = table.tobytes()
        self._sink.write(data.ljust(-(-len(data) // CLUSTER_SIZE) * CLUSTER_SIZE, b"\0"), self._position)
        self._position += -(-len(data) // CLUSTER_SIZE) * CLUSTER_SIZE

    def _align(self) -> None:
        """Fill up the last cluster; it is in use already, by the frame that ends in it."""
        gap = -self._position % CLUSTER_SIZE
        if gap:
            self._sink.write(bytes(gap), self._position)
            self._position += gap

    def _count(self, first: int, last: int) -> None:
        """One more reference to each host cluster from first to last."""
        counts = self._refcounts
        first -= self._refcounts_from
        last -= self._refcounts_from
        if last >= len(counts):
            counts.extend([0] * (last + 1 - len(counts)))
        for index in range(first, last + 1):
            counts[index] += 1
