"""Reads the qcow2 files of restore points, trusting nothing in them.

What is accepted is what our writer makes: 64 KiB clusters, zstd frames of whole clusters, plus uncompressed and zero
clusters. Everything else, and every number that points outside the file, is a DamagedImageError. The backing file
is reported, never opened: the caller hands the chain.
"""

import itertools
import os
import sys
from array import array
from pathlib import Path
from typing import Self

from kvm_backup.engine.direct_io import DirectFile, aligned_buffer, storage_errors
from kvm_backup.engine.qcow2.format import (
    CLUSTER_SIZE,
    COMPRESSION_ZSTD,
    ENTRY_COMPRESSED,
    ENTRY_COPIED,
    ENTRY_OFFSET_MASK,
    ENTRY_ZERO,
    L2_ENTRIES,
    MAX_FRAME,
    Header,
    damaged,
    frame_range,
    unpack_header,
)

UNALLOCATED = 0


class ImageFile:
    """An open image, made by `open`. The file must not change meanwhile; reads may come from several threads."""

    def __init__(self, path: Path, file: DirectFile) -> None:
        self.path = path
        self._file = file
        self.size = file.size
        head = aligned_buffer(CLUSTER_SIZE)
        self.header: Header = unpack_header(bytes(head[: file.read_into(head, 0)]))
        self._check_tables()
        self._l1 = self._read_table(self.header.l1_offset, self.header.l1_entries)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises DamagedImageError for what is not one of our images, StorageError when it cannot be read."""
        with storage_errors(path, "read"):
            file = DirectFile(path, os.O_RDONLY)
            try:
                return cls(path, file)
            except BaseException:
                file.close()
                raise

    @property
    def clusters(self) -> int:
        """Clusters of the disk, the last one maybe a part."""
        return -(-self.header.virtual_size // CLUSTER_SIZE)

    @property
    def l2_tables(self) -> int:
        return len(self._l1)

    def has_l2(self, index: int) -> bool:
        """Whether the L2 table of that index exists; an image that is shorter has none."""
        return index < len(self._l1) and self._l1[index] != UNALLOCATED

    def read_l2(self, index: int) -> "array[int]":
        """The 8192 entries of an L2 table that exists, unchecked: see `data_range`. Raises DamagedImageError."""
        entry = self._l1[index]
        offset = entry & ENTRY_OFFSET_MASK
        if entry & ~(ENTRY_OFFSET_MASK | ENTRY_COPIED) or offset % CLUSTER_SIZE:
            raise damaged(f"entry {index} of the L1 table, {entry:#x}, is impossible")
        if not CLUSTER_SIZE <= offset <= self.size - CLUSTER_SIZE:
            raise damaged(f"the L2 table {index} lies at {offset:#x}, outside the file")
        with storage_errors(self.path, "read"):
            return self._read_table(offset, L2_ENTRIES)

    def data_range(self, entry: int) -> tuple[int, int] | None:
        """Where in the file an entry's data lies (offset, length); None when it holds none (unallocated, zero).

        Raises DamagedImageError for an entry that breaks the format or points outside the file.
        """
        if entry & ENTRY_COMPRESSED:
            offset, length = frame_range(entry)
            if entry & ENTRY_COPIED or self.header.compression != COMPRESSION_ZSTD:
                raise damaged(f"the L2 entry {entry:#x} is impossible for a compressed cluster")
            length = min(length, MAX_FRAME)
            if not CLUSTER_SIZE <= offset <= self.size - length:
                raise damaged(f"a compressed cluster lies at {offset:#x}, outside the file")
            return offset, length
        offset = entry & ENTRY_OFFSET_MASK
        if entry & ~(ENTRY_OFFSET_MASK | ENTRY_COPIED | ENTRY_ZERO):
            raise damaged(f"the L2 entry {entry:#x} has reserved bits set")
        if entry & ENTRY_ZERO:
            return None
        if entry and (offset % CLUSTER_SIZE or not CLUSTER_SIZE <= offset <= self.size - CLUSTER_SIZE):
            raise damaged(f"a cluster lies at {offset:#x}, not on a cluster inside the file")
        return (offset, CLUSTER_SIZE) if entry else None

    def read_into(self, view: memoryview, offset: int) -> int:
        """See DirectFile.read_into. Raises StorageError."""
        with storage_errors(self.path, "read"):
            return self._file.read_into(view, offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _check_tables(self) -> None:
        header = self.header
        table_entries = -(-self.size // (CLUSTER_SIZE * CLUSTER_SIZE // 2))
        ranges = sorted(
            (
                (0, CLUSTER_SIZE, "header"),
                (header.l1_offset, header.l1_offset + header.l1_entries * 8, "L1 table"),
                (
                    header.refcount_table_offset,
                    header.refcount_table_offset + header.refcount_table_clusters * CLUSTER_SIZE,
                    "refcount table",
                ),
            )
        )
        if header.refcount_table_clusters * CLUSTER_SIZE < table_entries * 8:
            raise damaged("the refcount table is too small for the file")
        if ranges[-1][1] > self.size:
            raise damaged(f"the {ranges[-1][2]} goes on behind the end of the file, which may be cut short")
        for (_, end, name), (start, _, next_name) in itertools.pairwise(ranges):
            if end > start:
                raise damaged(f"the {name} and the {next_name} overlap")

    def _read_table(self, offset: int, entries: int) -> "array[int]":
        length = entries * 8
        buffer = aligned_buffer(-(-length // CLUSTER_SIZE) * CLUSTER_SIZE)
        if self._file.read_into(buffer, offset) < length:
            raise damaged(f"the table at {offset:#x} goes on behind the end of the file")
        table = array("Q", bytes(buffer[:length]))
        if sys.byteorder == "little":
            table.byteswap()
        return table
