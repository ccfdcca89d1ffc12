"""Starts the programs that the lab needs: argv lists, never a shell."""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program that ended left behind."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 300.0,
    check: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end, within `timeout` seconds.

    Raises LabError when it is missing, takes too long, or (with `check`) its status is not 0.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed; lab/packages.txt lists what the lab needs") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{words[0]} did not end within {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
        raise LabError(f"{' '.join(words)} ended with status {done.returncode}: {said}")
    return Ended(done.returncode, done.stdout, done.stderr)


def kill(pid: int, timeout: float = 60.0) -> None:
    """SIGKILL, and wait until a process that may be of another parent is gone with its locks on files.

    libvirt calls a VM off when its monitor is closed, while a QEMU that dies on a busy host still holds its images.
    Raises LabError after `timeout` seconds.
    """
    process = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        ended, _, _ = select.select([process], [], [], timeout)
    finally:
        os.close(process)
    if not ended:
        raise LabError(f"process {pid} did not end within {timeout:.0f} s of SIGKILL")
