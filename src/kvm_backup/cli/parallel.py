"""Several runs of one command at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Wish = Callable[[], bool]

_NOTICE = 0.5
"""Seconds after which a signal is noticed at the latest."""


def do_each(tasks: Sequence[Task], do: Callable[[Task, Wish], None], *, stop_requested: Wish, parallel: int) -> None:
    """Do all tasks, at most `parallel` at once; one alone is done in the thread that asks.

    Each is given what tells it to stop. A second Ctrl-C, which interrupts the main thread, interrupts each task that
    goes on at the next time it asks.
    """
    if parallel == 1 or len(tasks) == 1:
        for task in tasks:
            do(task, stop_requested)
        return
    interrupted = threading.Event()

    def do_one(task: Task) -> None:
        told = False

        def wish() -> bool:
            nonlocal told
            if interrupted.is_set() and not told:
                told = True
                raise KeyboardInterrupt
            return stop_requested()

        do(task, wish)

    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(do_one, task) for task in tasks]
        try:
            _wait_for_all(futures)
        except KeyboardInterrupt:
            interrupted.set()
            _wait_for_all(futures)
    for future in futures:
        future.result()


def _wait_for_all(futures: Sequence[Future[None]]) -> None:
    # Python notes a signal that arrives right before a wait without an end only when the wait is over: a Ctrl-C in
    # that instant would be lost until a task has ended.
    while wait(futures, _NOTICE).not_done:
        pass
