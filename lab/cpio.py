"""Writes the archive that Linux takes as its initramfs.

The format is cpio's "newc": per entry a 110-byte header of hexadecimal fields, the name, the content, each padded
to 4 bytes, and an entry named TRAILER!!! at the end (source: Documentation/driver-api/early-userspace/
buffer-format.rst of Linux).
"""

import stat
from typing import BinaryIO

_FIELDS = 13


class CpioWriter:
    """Appends entries to a cpio archive; parents of an entry must be added before it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0

    def directory(self, name: str) -> None:
        """Add a folder of mode 0755."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """Add a regular file, owned by root."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        """Add a device node of mode 0600."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", device=(major, minor))

    def close(self) -> None:
        """Write the trailer; the stream itself stays open."""
        self._entry("TRAILER!!!", 0, b"")

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        assert len(fields) == _FIELDS
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._padded(header + encoded)
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self._out.write(data + b"\0" * (-len(data) % 4))
