"""What the machine itself can do, in bytes a second: no backup is faster."""

import hashlib
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench import measure

_WRITE_BYTES = 1 << 30
_BLOCK = 1 << 20
_CLUSTER = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates in bytes a second."""

    read: float
    """Of the disk's data over the same NBD export, thrown away (nbdcopy)."""
    write: float
    """Of incompressible data past the page cache, in one stream."""
    compress: float
    """Of zstd, level 1, 64 KiB at a time, on one core, counted in what goes in."""
    digest: float
    """Of SHA-256 on one core."""


def read_rate(uri: str, data_bytes: int, *, log: Path) -> float:
    """Read an export that holds `data_bytes` (holes are skipped) and throw it away."""
    cost = measure.run(["nbdcopy", uri, "null:"], log=log, flush=log)
    return data_bytes / cost.seconds


def write_rate(path: Path) -> float:
    """Write 1 GiB to a new file at `path` with O_DIRECT, to its end on the disk; removes it."""
    block = mmap.mmap(-1, _BLOCK)
    block.write(os.urandom(_BLOCK))
    began = time.monotonic()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
    try:
        for _ in range(_WRITE_BYTES // _BLOCK):
            os.write(descriptor, block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
    return _WRITE_BYTES / (time.monotonic() - began)


def compress_and_digest_rates(pieces: Sequence[Path]) -> tuple[float, float]:
    """How fast one core compresses, and digests, these files."""
    data = [piece.read_bytes() for piece in pieces]
    total = sum(map(len, data))
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
    began = time.monotonic()
    for content in data:
        view = memoryview(content)
        for offset in range(0, len(view), _CLUSTER):
            compressor.compress(view[offset : offset + _CLUSTER])
    compressed = time.monotonic()
    digest = hashlib.sha256()
    for content in data:
        digest.update(content)
    return total / (compressed - began), total / (time.monotonic() - compressed)
