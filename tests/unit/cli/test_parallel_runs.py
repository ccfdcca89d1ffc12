"""Several runs of one command: how many at once, and what Ctrl-C does to them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kvm_backup.cli.parallel import Wish, do_each

PATIENCE = 30.0
INTERRUPTED = """
import sys, time
from pathlib import Path
from kvm_backup.cli.context import stop_on_signals, stop_requested
from kvm_backup.cli.parallel import do_each
folder = Path(sys.argv[1])
stop_on_signals()

def do(task, wish):
    (folder / f"began-{task}").touch()
    try:
        while not wish():
            time.sleep(0.01)
        (folder / f"stopped-{task}").touch()
        while True:
            wish()
            time.sleep(0.01)
    except KeyboardInterrupt:
        (folder / f"interrupted-{task}").touch()

do_each([1, 2], do, stop_requested=stop_requested, parallel=2)
"""


@pytest.mark.parametrize(("parallel", "expected"), [(1, 1), (2, 2), (3, 3), (64, 6)])
def test_no_more_go_on_at_once_than_wanted_and_all_are_done(parallel: int, expected: int) -> None:
    """Each task waits until as many go on as may; with fewer it would wait for ever, with more the count tells."""
    lock, going, most, done = threading.Lock(), 0, 0, []
    full = threading.Event()

    def do(task: int, _wish: Wish) -> None:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
            if going == expected:
                full.set()
        assert full.wait(PATIENCE)
        with lock:
            going -= 1
            done.append(task)

    do_each(range(6), do, stop_requested=lambda: False, parallel=parallel)
    assert most == expected
    assert sorted(done) == list(range(6))


def test_a_single_task_is_done_in_the_thread_that_asks() -> None:
    threads = []
    do_each([1], lambda _task, _wish: threads.append(threading.current_thread()), stop_requested=bool, parallel=4)
    assert threads == [threading.current_thread()]


def test_what_a_task_raises_is_raised_once_the_others_have_ended() -> None:
    ended = []

    def do(task: int, _wish: Wish) -> None:
        if task == 0:
            raise ValueError("no")
        ended.append(task)

    with pytest.raises(ValueError, match="no"):
        do_each(range(4), do, stop_requested=lambda: False, parallel=2)
    assert sorted(ended) == [1, 2, 3]


def test_the_first_ctrl_c_asks_each_task_to_stop_and_the_second_interrupts_each(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)])

    def until(what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all((tmp_path / f"{what}-{task}").exists() for task in (1, 2)):
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    until("began")
    os.kill(process.pid, signal.SIGINT)
    until("stopped")
    os.kill(process.pid, signal.SIGINT)
    until("interrupted")
    assert process.wait(PATIENCE) == 0
