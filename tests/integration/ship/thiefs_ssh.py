"""An ssh for rsync's -e that does not keep to what rsync means: run with the ssh configuration as its first word.

`RECORDS` is a file for all that rsync says. `SWAPS` gives the file that rsync sends another number of the list, as
two numbers with a comma (rsync's protocol 29 sends them as they are). `HOLDS_AFTER` bytes it stops, makes the file
`HELD` and goes on when that is gone.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

TRANSFER_OF_A_NEW_FILE = b"\x00\xa0"
"""ITEM_TRANSFER and ITEM_IS_NEW of rsync.h."""


def main() -> None:
    config, *words = sys.argv[1:]
    ssh = subprocess.Popen(["ssh", "-F", config, *words], stdin=subprocess.PIPE)
    threading.Thread(target=lambda: os._exit(ssh.wait()), daemon=True).start()
    assert ssh.stdin is not None
    swap = [int(number).to_bytes(4, "little") for number in os.environ.get("SWAPS", "").split(",") if number]
    left = int(os.environ.get("HOLDS_AFTER", "-1"))
    record = os.open(os.environ.get("RECORDS", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while piece := os.read(0, 65536):
        os.write(record, piece)
        if swap:
            piece = piece.replace(swap[0] + TRANSFER_OF_A_NEW_FILE, swap[1] + TRANSFER_OF_A_NEW_FILE, 1)
        if 0 <= left < len(piece):
            ssh.stdin.write(piece[:left])
            ssh.stdin.flush()
            _hold(Path(os.environ["HELD"]))
            piece = piece[left:]
            left = -1
        elif left >= 0:
            left -= len(piece)
        ssh.stdin.write(piece)
        ssh.stdin.flush()
    ssh.stdin.close()
    ssh.wait()


def _hold(held: Path) -> None:
    held.touch()
    for _ in range(3000):
        if not held.exists():
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
