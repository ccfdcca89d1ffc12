"""Runs `kvm-backup` many times quickly: imports it once, then forks a process for each request.

A request comes on the socket that standard input is: JSON with `arguments`, `environment` and `folder`, and with it
four descriptors: a socket for the answer, and the input, output and error of the command. The answer is the process
id, then the exit code, each a line. Each process is as fresh as one that was started, but for the encoding of its
streams, which is UTF-8. Several can run at once.
"""

import gc
import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from kvm_backup.cli.main import main

REQUEST_MAX = 1 << 18
"""Bytes."""


def serve() -> dict[str, Any]:
    """Answer until standard input ends. Returns only in the processes that are to become a command."""
    asked = socket.socket(fileno=0)
    answers: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(asked, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == asked.fileno():
                message, descriptors, _, _ = socket.recv_fds(asked, REQUEST_MAX, 4)
                if not message:
                    os._exit(0)
                child = os.fork()
                if child == 0:
                    _hand_over(descriptors[1:])
                    for known in answers:
                        os.close(known)
                    return dict(json.loads(message))
                answer = socket.socket(fileno=descriptors[0])
                answer.sendall(f"{child}\n".encode())
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                ended = os.pidfd_open(child)
                answers[ended] = child, answer
                poll.register(ended, select.POLLIN)
            else:
                child, answer = answers.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with answer, suppress(BrokenPipeError):  # whoever asked may have given up
                    answer.sendall(f"{status}\n".encode())


def _hand_over(streams: list[int]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)


def become(request: dict[str, Any]) -> None:
    """Be the command; the interpreter ends as it always does."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = ["kvm-backup", *request["arguments"]]
    main()


if __name__ == "__main__":
    gc.freeze()
    become(serve())
