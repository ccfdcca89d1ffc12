"""How much room files really take on the storage."""

import os
from pathlib import Path

_BLOCK = 512
"""The unit of st_blocks, whatever the file system's own is."""


def allocated_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take; one with several names counts once, one that vanishes not at all."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(Path(parent, name))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * _BLOCK
    return total
