"""The one place where other programs are started: argv lists, never a shell.

Output is captured as text (undecodable bytes replaced). A program that is missing, fails or takes too long
becomes a KvmBackupError with what it printed last.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import ToolFailedError, ToolMissingError

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "virsh": "libvirt-clients",
    "rsync": "rsync",
    "ssh": "openssh-client",
}
"""Which Debian package brings a program; shown as the hint."""


Program = subprocess.Popen[str]
"""A program that `start` started."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that ended left behind."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path], *, timeout: float = 600.0, check: bool = True, cwd: Path | None = None
) -> Completed:
    """Run a program to its end, within `timeout` seconds.

    Raises ToolMissingError, and ToolFailedError when it takes too long or (with `check`) its status is not 0.
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
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise _missing(words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailedError(
            f"{words[0]} did not end within {timeout:.0f} s",
            hint="The storage may hang; look at the kernel's log and at the mounts of the host.",
        ) from error
    if check and done.returncode != 0:
        raise ToolFailedError(
            f"{words[0]} failed with status {done.returncode}: {last_line(done.stderr) or 'it said nothing'}",
            hint=f"The command was: {' '.join(words)}",
        )
    return Completed(done.returncode, done.stdout, done.stderr)


def start(
    argv: Sequence[str | Path],
    *,
    pass_fds: Sequence[int] = (),
    stdin: int | None = subprocess.DEVNULL,
    own_session: bool = False,
) -> Program:
    """Start a program that goes on beside us; its stderr is a pipe. Raises ToolMissingError."""
    words = [str(word) for word in argv]
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=tuple(pass_fds),
            start_new_session=own_session,
        )
    except FileNotFoundError as error:
        raise _missing(words[0]) from error


def finish(program: Program, timeout: float) -> str:
    """Wait for a program that was told to end, kill it after `timeout` seconds; returns what it said on stderr."""
    try:
        said = program.communicate(timeout=timeout)[1]
    except subprocess.TimeoutExpired:
        program.kill()
        said = program.communicate()[1]
    return said or ""


def last_line(text: str) -> str:
    """The last line that is not blank, where programs put the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _missing(program: str) -> ToolMissingError:
    package = PACKAGES.get(program, program)
    return ToolMissingError(f"the program {program} is not installed", hint=f"Install it: apt-get install {package}")
