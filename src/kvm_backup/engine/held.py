"""Which clusters of a disk a chain holds data of, kept where the images themselves are not: one bit a cluster.

Made of the images' tables alone. It is what `contradiction` needs of a parent: 2 MiB for a disk of 1 TiB, and far
less once compressed, as what is in use lies together.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import zstandard

from kvm_backup.domain.errors import DamagedImageError
from kvm_backup.domain.extent import Extent
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, L2_ENTRIES, damaged
from kvm_backup.engine.qcow2.reader import ImageFile


@dataclass(frozen=True, slots=True)
class HeldClusters:
    """`clusters` is how many the disk has, the last one maybe a part; `bits` one for each, the lowest first."""

    clusters: int = 0
    bits: bytes = b""

    def under(self, image: ImageFile) -> Self:
        """The same with an image on top; one without a backing file hides all that is below it.

        Raises DamagedImageError, StorageError.
        """
        clusters = image.clusters
        held = bytearray(_size(clusters))
        if image.header.backing_file is not None:
            held[: len(self.bits)] = self.bits[: len(held)]
            if clusters % 8 and clusters < self.clusters:
                # A shorter image hides what is behind its end.
                held[-1] &= (1 << clusters % 8) - 1
        for index in range(image.l2_tables):
            if not image.has_l2(index):
                continue
            first = index * L2_ENTRIES
            for cluster, entry in zip(range(first, clusters), image.read_l2(index), strict=False):
                if not entry:
                    continue
                if image.data_range(entry):
                    held[cluster // 8] |= 1 << cluster % 8
                else:
                    held[cluster // 8] &= ~(1 << cluster % 8)
        return type(self)(clusters, bytes(held))

    def first_within(self, extents: Iterable[Extent]) -> int | None:
        """The first disk offset within ascending extents (whole clusters) where data is held."""
        for extent in extents:
            found = self._first(extent.offset // CLUSTER_SIZE, min(-(-extent.end // CLUSTER_SIZE), self.clusters))
            if found is not None:
                return found * CLUSTER_SIZE
        return None

    def _first(self, first: int, end: int) -> int | None:
        while first < end:
            byte = self.bits[first // 8] >> first % 8
            if byte:
                found = first + (byte & -byte).bit_length() - 1
                return found if found < end else None
            first += 8 - first % 8
            # Whole bytes of zeros at once: most of what is searched.
            rest = self.bits[first // 8 : _size(end)]
            first += 8 * (len(rest) - len(rest.lstrip(b"\0")))
        return None

    def pack(self, point: str, disk: str) -> bytes:
        """As the content of a file that says which disk of which point (its identity) it is about."""
        compressor = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
        return compressor.compress(_head(point, disk) + self.bits)

    @classmethod
    def unpack(cls, content: bytes, point: str, disk: str, virtual_size: int) -> Self:
        """Raises DamagedImageError for what `pack` did not make of that disk, whose size is in bytes."""
        head, clusters = _head(point, disk), -(-virtual_size // CLUSTER_SIZE)
        expected = len(head) + _size(clusters)
        try:
            # Looked at first: what is in the frame cannot make us take more memory than that.
            if zstandard.frame_content_size(content) != expected:
                raise _foreign(point, disk)
            whole = zstandard.ZstdDecompressor().decompress(content)
        except zstandard.ZstdError as error:
            raise damaged(f"the map of disk {disk} of {point} is damaged: {error}") from error
        if not whole.startswith(head) or len(whole) != expected:
            raise _foreign(point, disk)
        return cls(clusters, whole[len(head) :])


def packed_size_max(virtual_size: int) -> int:
    """The most bytes that `pack` makes for a disk of a point whose names have usual lengths."""
    return _size(-(-virtual_size // CLUSTER_SIZE)) * 2 + 65536


def _size(clusters: int) -> int:
    return -(-clusters // 8)


def _head(point: str, disk: str) -> bytes:
    return json.dumps({"point": point, "disk": disk}).encode() + b"\n"


def _foreign(point: str, disk: str) -> DamagedImageError:
    return damaged(f"the map of disk {disk} of {point} belongs to something else")
