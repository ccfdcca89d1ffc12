"""File systems that fill up, vanish or cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.programs import run


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory of that size, mounted on a new folder which QEMU's user may enter."""
    place.mkdir(mode=0o711)
    run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "lab", place])
    try:
        yield place
    finally:
        run(["umount", "--lazy", place], check=False)
