"""Clusters to zstd frames and back, one compressor or decompressor per thread."""

import threading

import zstandard

from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, FRAME_PREFIX

_BLOCK_HEADER = 3
_BLOCK_OF_ONE_BYTE = 1
"""A block that repeats one byte, whatever its size says."""
_BLOCK_RESERVED = 3
_CHECKSUM = 4


class ClusterCompressor:
    """Compresses in any thread; zstandard releases the GIL while it works."""

    def __init__(self, level: int) -> None:
        """`level` is zstd's, 1 to 22. ValueError for another."""
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ValueError(f"compression level {level} is not between 1 and {zstandard.MAX_COMPRESSION_LEVEL}")
        self._level = level
        self._local = threading.local()
        self._zero_frame = self._of_this_thread().compress(bytes(CLUSTER_SIZE))

    def frames(self, clusters: memoryview) -> list[bytes | None]:
        """One frame for each 64 KiB; None for a cluster of zeros.

        A zero cluster is known by its frame: equal input gives equal frames, and the bytes are not looked at again.
        """
        compress = self._of_this_thread().compress
        zero_frame = self._zero_frame
        frames: list[bytes | None] = []
        for offset in range(0, len(clusters), CLUSTER_SIZE):
            frame = compress(clusters[offset : offset + CLUSTER_SIZE])
            frames.append(None if frame == zero_frame else frame)
        return frames

    def _of_this_thread(self) -> zstandard.ZstdCompressor:
        try:
            compressor: zstandard.ZstdCompressor = self._local.compressor
        except AttributeError:
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True, write_content_size=True)
            self._local.compressor = compressor
        return compressor


class ClusterDecompressor:
    """Decompresses frames of whole clusters and verifies their checksums, in any thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def cluster(self, frame: memoryview) -> bytes:
        """The 64 KiB that a frame holds; bytes behind the frame are ignored. Raises ValueError with the cause."""
        if frame[: len(FRAME_PREFIX)] != FRAME_PREFIX:
            raise ValueError("it does not begin like the zstd frame of a cluster")
        try:
            decompressor = self._local.decompressor
        except AttributeError:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor()
        try:
            cluster: bytes = decompressor.decompress(frame)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        return cluster


def frame_length(data: memoryview) -> int:
    """How many bytes of `data` the zstd frame of a cluster takes that it begins with, its checksum included.

    Walks over the frame's blocks (RFC 8878, 3.1.1.2) without decompressing them. Raises ValueError with the cause.
    """
    if data[: len(FRAME_PREFIX)] != FRAME_PREFIX:
        raise ValueError("it does not begin like the zstd frame of a cluster")
    position = len(FRAME_PREFIX)
    last = False
    while not last:
        header = int.from_bytes(data[position : position + _BLOCK_HEADER], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == _BLOCK_RESERVED or position >= len(data):
            raise ValueError("the zstd frame of a cluster is broken")
        position += _BLOCK_HEADER + (1 if kind == _BLOCK_OF_ONE_BYTE else size)
    position += _CHECKSUM
    if position > len(data):
        raise ValueError("the zstd frame of a cluster is cut short")
    return position
