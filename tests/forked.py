"""`kvm-backup` as processes that are forked off one that has imported it, for starting one takes most of its time."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL

FORKER = Path(__file__).with_name("forker.py")
_PLAIN = ("PATH", "HOME", "LANG", "LC_ALL")
"""What the forker knows of the tester's environment while it imports; each command has one of its own."""


class _Forker:
    """See forker.py. It ends with this process, which holds the other end of its standard input."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "utf8", FORKER],
                stdin=theirs.fileno(),
                env={name: os.environ[name] for name in _PLAIN if name in os.environ},
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, request: bytes, streams: Sequence[int], timeout: float) -> int:
        mine, theirs = socket.socketpair()
        with mine, theirs:
            socket.send_fds(self._control, [request], [theirs.fileno(), *streams])
            theirs.close()
            mine.settimeout(timeout)
            with mine.makefile() as answer:
                process = int(answer.readline())
                try:
                    return int(answer.readline())
                except TimeoutError:
                    os.kill(process, SIGKILL)
                    raise


_forkers: list[_Forker] = []


def run_forked(
    arguments: Sequence[str | bytes | Path],
    environment: Mapping[str, str],
    *,
    stdin: str = "",
    timeout: float = 60.0,
) -> tuple[int, bytes, bytes]:
    """Run a command to its end: its exit code, and what it printed on standard output and standard error.

    Raises TimeoutError after `timeout` seconds.
    """
    if not _forkers or not _forkers[-1].alive:
        _forkers.append(_Forker())
    request = {
        "arguments": [os.fsdecode(argument) for argument in arguments],
        "environment": dict(environment),
        "folder": str(Path.cwd()),
    }
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        given.write(stdin.encode())
        given.seek(0)
        streams = [given.fileno(), output.fileno(), error.fileno()]
        status = _forkers[-1].run(json.dumps(request).encode(), streams, timeout)
        output.seek(0)
        error.seek(0)
        return status, output.read(), error.read()
