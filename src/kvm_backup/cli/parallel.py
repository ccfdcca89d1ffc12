"""Several runs of one command at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Wish = Callable[[], bool]


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
            wait(futures)
        except KeyboardInterrupt:
            interrupted.set()
            wait(futures)
    for future in futures:
        future.result()
