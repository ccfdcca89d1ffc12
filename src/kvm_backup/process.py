"""The one place where other programs are started: argv lists, never a shell.

Output is captured as text (undecodable bytes replaced). A program that is missing, fails or takes too long
becomes a KvmBackupError with what it printed last.
"""

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kvm_backup.domain.errors import ToolFailedError, ToolMissingError
from kvm_backup.domain.phrase import phrase

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "virsh": "libvirt-clients",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
}
"""Which Debian package brings a program; shown as the hint."""


_DYING_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
"""A program of its own asks the kernel: between fork and exec of a process with threads Python must run nothing."""
_POLL = 0.2
_OUTPUT_KEPT = 64 * 1024
"""Bytes."""
_PIPE = 64 * 1024
"""Bytes that Linux keeps for whoever reads a pipe later."""
_LAST_WORDS = 2.0
"""Seconds in which all that a program said before it ended has been read, unless another holds its output open."""
_END_SECONDS = 5.0
"""How long a program may take to end after SIGTERM."""

Program = subprocess.Popen[str]
"""A program that `start` started."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that ended left behind."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 600.0,
    check: bool = True,
    cwd: Path | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    own_session: bool = False,
) -> Completed:
    """Run a program to its end, within `timeout` seconds.

    With `own_session` it has no terminal that it could ask something on, and Ctrl-C does not reach it.
    `meanwhile` is called several times a second; when it raises, the program is killed first.
    Raises ToolMissingError, and ToolFailedError when it takes too long or (with `check`) its status is not 0.
    """
    words = [str(word) for word in argv]
    try:
        program = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            start_new_session=own_session,
        )
    except FileNotFoundError as error:
        raise _missing(words[0]) from error
    with program:
        try:
            done = _completed(program, timeout, meanwhile)
        except BaseException:
            program.kill()
            raise
    if done is None:
        raise ToolFailedError(
            phrase("{words} did not end within {timeout:.0f} s", words=words[0], timeout=timeout),
            hint=phrase("The storage may hang; look at the kernel's log and at the mounts of the host."),
        )
    if check and done.status != 0:
        raise ToolFailedError(
            phrase(
                "{words} failed with status {status}: {last_line}",
                words=words[0],
                status=done.status,
                last_line=last_line(done.stderr) or "it said nothing",
            ),
            hint=phrase("The command was: {words}", words=" ".join(words)),
        )
    return done


def _completed(program: Program, timeout: float, meanwhile: Callable[[], None]) -> Completed | None:
    """None when it did not end in time, and was killed."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            stdout, stderr = program.communicate(timeout=min(_POLL, max(deadline - time.monotonic(), 0.0)))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                program.kill()
                return None
            meanwhile()
        else:
            return Completed(program.returncode, stdout, stderr)


def follow(
    argv: Sequence[str | Path],
    *,
    heard: Callable[[str], None],
    meanwhile: Callable[[], None] = lambda: None,
    given: bytes = b"",
    pass_fds: Sequence[int] = (),
    own_session: bool = False,
) -> Completed:
    """Run a program to its end however long it takes, and hand over what it prints to stdout as it comes.

    `heard` gets pieces of text, not lines; what the result holds of stdout and stderr is their last 64 KiB.
    `given` is all that it reads from its stdin, at most 64 KiB. `pass_fds` are open in it, too.
    `meanwhile` is called several times a second; when either raises, the program is told to end (SIGTERM), and
    killed when it does not. The status is not judged. Raises ToolMissingError.
    """
    words = [str(word) for word in argv]
    stdin = subprocess.PIPE if given else subprocess.DEVNULL
    try:
        program = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            start_new_session=own_session,
        )
    except FileNotFoundError as error:
        raise _missing(words[0]) from error
    with program:
        try:
            _give(program, given)
            stdout, stderr = _heard_to_the_end(program, heard, meanwhile, own_session)
        except BaseException:
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(_END_SECONDS)
            program.kill()
            raise
    return Completed(program.returncode, stdout, stderr)


def _give(program: subprocess.Popen[bytes], given: bytes) -> None:
    """As much fits into a pipe, so that this never waits."""
    assert len(given) <= _PIPE
    if program.stdin is not None:
        with suppress(BrokenPipeError):
            program.stdin.write(given)
            program.stdin.flush()
        with suppress(BrokenPipeError):
            program.stdin.close()


def _heard_to_the_end(
    program: subprocess.Popen[bytes], heard: Callable[[str], None], meanwhile: Callable[[], None], own_session: bool
) -> tuple[str, str]:
    """What it started and left behind may hold its output open: that is not waited for, and told to end when it is of
    the program's own session."""
    assert program.stdout is not None
    assert program.stderr is not None
    last_words: float | None = None
    kept = {program.stdout: "", program.stderr: ""}
    with selectors.DefaultSelector() as ready:
        for pipe in kept:
            ready.register(pipe, selectors.EVENT_READ)
        while ready.get_map():
            found = ready.select(_POLL)
            for key, _ in found:
                pipe = program.stdout if key.fileobj is program.stdout else program.stderr
                piece = os.read(key.fd, 65536)
                if not piece:
                    ready.unregister(pipe)
                    continue
                text = piece.decode(errors="replace")
                kept[pipe] = (kept[pipe] + text)[-_OUTPUT_KEPT:]
                if pipe is program.stdout:
                    heard(text)
            meanwhile()
            if program.poll() is None:
                continue
            last_words = last_words or time.monotonic() + _LAST_WORDS
            if not found and time.monotonic() >= last_words:
                if own_session:
                    with suppress(ProcessLookupError):
                        os.killpg(program.pid, signal.SIGTERM)
                break
    return kept[program.stdout], kept[program.stderr]


def start(
    argv: Sequence[str | Path],
    *,
    pass_fds: Sequence[int] = (),
    stdin: int | None = subprocess.DEVNULL,
    own_session: bool = False,
    ends_with_us: bool = False,
) -> Program:
    """Start a program that goes on beside us; its stderr is a pipe. Raises ToolMissingError.

    With `ends_with_us` the kernel kills it when the thread that calls this ends, however that comes.
    """
    words = [*(_DYING_WITH_US if ends_with_us else []), *(str(word) for word in argv)]
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


def run_script(
    argv: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str],
    stop_requested: Callable[[], bool] = lambda: False,
) -> Completed:
    """Run a script of the user to its end, with more variables in its environment; its status is not judged.

    After `timeout` seconds, or when `stop_requested` says so, the script and what it started are killed. Its output
    may be endless or held open by a child; only the end is kept.
    Raises ToolFailedError when it cannot be executed or takes too long.
    """
    try:
        program = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ToolFailedError(
            phrase(
                "{argv!r} cannot be started: {error}", argv=argv[0], error=getattr(error, "strerror", None) or error
            ),
            hint=phrase("It must be a program, or a script that begins with #! and may be executed."),
        ) from error
    output = _Tail(program)
    deadline = time.monotonic() + timeout
    while program.poll() is None and time.monotonic() < deadline and not stop_requested():
        with suppress(subprocess.TimeoutExpired):
            program.wait(min(_POLL, max(deadline - time.monotonic(), 0.0)))
    if program.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        if not stop_requested():
            raise ToolFailedError(
                phrase("{argv} did not end within {timeout:.0f} s", argv=argv[0], timeout=timeout),
                hint=phrase("It was killed. Find out what it waits for, or allow more time: hooks.timeout."),
            )
    return Completed(program.returncode, output.text(), "")


class _Tail:
    """The end of what a program says, read beside it.

    A file could fill the disk. Closing our end when the program ends would kill what it left running in the
    background, so that is read for as long as it talks.
    """

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        assert program.stdout is not None
        self._said = b""
        self._thread = threading.Thread(target=self._read, args=(program.stdout,), daemon=True)
        self._thread.start()

    def text(self) -> str:
        """What it said last, after it has ended."""
        self._thread.join(_LAST_WORDS)
        return self._said.decode(errors="replace")

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while said := os.read(stream.fileno(), _OUTPUT_KEPT):
                self._said = (self._said + said)[-_OUTPUT_KEPT:]


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
    return ToolMissingError(
        phrase("the program {program} is not installed", program=program),
        hint=phrase("Install it: apt-get install {package}", package=package),
    )
