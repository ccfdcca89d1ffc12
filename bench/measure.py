"""Runs a program and tells what it cost: time, processor time, the memory of its whole tree, time to reach disk."""

import ctypes
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_SECONDS = 0.1
"""Often enough for memory that grows to a plateau, and seldom enough not to take part in the race."""
_POLL_SECONDS = 0.01


class BenchError(Exception):
    """Something that was to be measured did not work; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a program cost. Times in seconds, memory in bytes."""

    seconds: float
    """From start to exit."""
    flush_seconds: float
    """What the host then needed to write its cache of this file system out."""
    cpu_seconds: float
    """Of the program and everything that it started, also of what it left running in the background."""
    peak_memory: int
    """Largest resident memory of all its processes together."""
    source_cpu_seconds: float
    """Of the VM's QEMU meanwhile."""


def adopt_orphans() -> None:
    """Become the parent of background processes whose parent ends, so that their cost is counted (prctl(2))."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise BenchError("prctl(PR_SET_CHILD_SUBREAPER) failed")


def drop_caches() -> bool:
    """Forget the host's page cache, after writing it out; False where the host does not allow it."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    flush: Path,
    source_pid: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cost:
    """Run a program with its output in `log`; `flush` is a path on the file system that it writes to.

    `source_pid` is the QEMU that it reads from. Raises BenchError unless its status is 0.
    """
    words = [str(word) for word in argv]
    before = _children_cpu()
    source_before = _cpu_of(source_pid)
    with log.open("w") as out:
        began = time.monotonic()
        program = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
        )
        peak = 0
        next_sample = 0.0
        try:
            while program.poll() is None:
                if time.monotonic() >= next_sample:
                    peak = max(peak, _tree_memory())
                    next_sample = time.monotonic() + _SAMPLE_SECONDS
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            program.terminate()
            program.wait()
            raise
        seconds = time.monotonic() - began
    source_cpu = _cpu_of(source_pid) - source_before
    if program.returncode != 0:
        raise BenchError(f"{' '.join(words)} ended with status {program.returncode}:\n{log.read_text()[-2000:]}")
    flush_seconds = _flush(flush)
    _wait_for_orphans()
    return Cost(seconds, flush_seconds, _children_cpu() - before, peak, source_cpu)


def _flush(path: Path) -> float:
    began = time.monotonic()
    subprocess.run(["sync", "--file-system", path], check=True)
    return time.monotonic() - began


def _wait_for_orphans() -> None:
    """Collect background processes that have ended, or end within some seconds: only then is their cost known."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(_POLL_SECONDS)
        except ChildProcessError:
            return


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int | None) -> float:
    """Processor time of a process until now: proc(5), fields 14 and 15 of /proc/<pid>/stat."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _tree_memory() -> int:
    """Resident bytes of all our descendants: proc(5), second field of /proc/<pid>/statm."""
    total = 0
    waiting = _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            waiting += _children(pid)
        except (OSError, IndexError):
            continue  # it has just ended
    return total


def _children(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in children.read_text().split()]
        except OSError:
            continue
    return found
