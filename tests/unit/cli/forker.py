"""Runs `kvm-backup` many times quickly: imports it once, then forks a process for each line of JSON it is given.

A line holds `arguments`, `environment`, and the files `output` and `error`; the answer is the exit code. Each process
is as fresh as one that was started, but for the encoding of its streams, which is UTF-8.
"""

import json
import os
import sys
from typing import Any

from kvm_backup.cli.main import main


def serve() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(request: dict[str, Any]) -> None:
    """Become the command; never returns."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "output"), (2, "error")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["kvm-backup", *request["arguments"]]
    status = 99
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
