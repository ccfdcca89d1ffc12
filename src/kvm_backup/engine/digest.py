"""SHA-256 of image files, read without disturbing the page cache.

The digest of an image covers its bytes from the second cluster to the end, then its first cluster. A qcow2 header
points to tables whose place is known only when all data is written, so this is the one order in which an
image can be digested while it is written, without reading it again. By hand:

    (tail -c +65537 vda.qcow2; head -c 65536 vda.qcow2) | sha256sum
"""

import hashlib
import os
from pathlib import Path
from typing import Protocol

from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.direct_io import DirectFile, aligned_buffer, storage_errors

HEAD_SIZE = 64 << 10
"""The first cluster, which is digested last."""
_PIECE = 2 << 20


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def image_sha256(path: Path, control: CopyControl) -> str:
    """The digest of an image as defined above, as hex. `advance` is told bytes of the file. Raises StorageError."""
    hasher = hashlib.sha256()
    with storage_errors(path, "read"), DirectFile(path, os.O_RDONLY) as file:
        _update(hasher, file, HEAD_SIZE, None, control)
        _update(hasher, file, 0, HEAD_SIZE, control)
    return hasher.hexdigest()


def _update(hasher: Hasher, file: DirectFile, start: int, end: int | None, control: CopyControl) -> None:
    buffer = aligned_buffer(_PIECE)
    position = start
    while end is None or position < end:
        wanted = _PIECE if end is None else min(_PIECE, end - position)
        control.check()
        got = file.read_into(buffer[:wanted], position)
        hasher.update(buffer[:got])
        control.advance(got)
        position += got
        if got < wanted:
            return
