"""A ProxyCommand of ssh: passes bytes on to a server and back, counts them, delays, cuts or falls silent.

`python wire.py FOLDER HOST PORT` reads FOLDER/rules.json when it starts, and keeps the number of bytes that reached
the server in FOLDER/sent-<pid>. Rules: `delay` in seconds each way; `cut_after` and `silent_after` bytes to the
server.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

_silent = threading.Event()


def main() -> None:
    folder, host, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rules: dict[str, Any] = json.loads((folder / "rules.json").read_text())
    wire = socket.create_connection((host, port))
    ways = [
        threading.Thread(target=_carry, args=(0, wire.fileno(), rules, folder / f"sent-{os.getpid()}")),
        threading.Thread(target=_carry, args=(wire.fileno(), 1, {"delay": rules["delay"]}, Path(os.devnull))),
    ]
    for way in ways:
        way.start()
    for way in ways:
        way.join()


def _carry(source: int, target: int, rules: dict[str, Any], counter: Path) -> None:
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(1024)
    threading.Thread(target=_read, args=(source, rules["delay"], waiting), daemon=True).start()
    cut, silent = rules.get("cut_after"), rules.get("silent_after")
    limit = min((most for most in (cut, silent) if most is not None), default=sys.maxsize)
    sent = 0
    with counter.open("w") as count:
        while True:
            due, piece = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if _silent.is_set():
                threading.Event().wait()
            kept = piece[: limit - sent]
            _write(target, kept)
            sent += len(kept)
            count.seek(0)
            count.write(str(sent))
            count.flush()
            if not piece or sent == cut:
                os._exit(0)
            if sent == silent:
                _silent.set()


def _read(source: int, delay: float, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
    while True:
        try:
            piece = os.read(source, 16384)
        except OSError:
            piece = b""
        waiting.put((time.monotonic() + delay, piece))
        if not piece:
            return


def _write(target: int, piece: bytes) -> None:
    while piece:
        try:
            piece = piece[os.write(target, piece) :]
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main()
