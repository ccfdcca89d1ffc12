"""qemu-nbd processes that a run left behind, found by the socket on their command line."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OPTION = "--socket="


def find(folder: Path) -> Iterator[int]:
    """Process ids of qemu-nbd programs whose socket lies directly in `folder`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _serves(int(entry.name), folder):
            yield int(entry.name)


def stop(pid: int, folder: Path) -> None:
    """Kill the process, if it still is a qemu-nbd of that folder; a number that was given away again is safe."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _serves(pid, folder):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _serves(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return False
    return Path(words[0]).name == "qemu-nbd" and any(
        word.startswith(_OPTION) and Path(word.removeprefix(_OPTION)).parent == folder for word in words
    )
