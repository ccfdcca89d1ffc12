"""Runs of a chain read, decompressed and handed on by several threads."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

from kvm_backup.engine.chain import RunReader, StoredCluster
from kvm_backup.engine.compress import ClusterDecompressor
from kvm_backup.engine.copy import WAIT_SECONDS, CopyControl, Throttle, worker_count

Run = list[StoredCluster]
Work = Callable[[RunReader], None]


def for_each_run(runs: Iterable[Run], work_for: Callable[[Run], Work], control: CopyControl) -> None:
    """Call `work_for` for each run in order, in this thread, and what it returns in any order, in others.

    `control.advance` is told the bytes of disk of each finished run. The first error ends it, after the work that
    was begun has ended; memory is about 2 MiB a thread.
    """
    # Reads and writes are synchronous in each thread: two for each CPU keep the storage busy while others decompress.
    count = 2 * worker_count()
    decompressor = ClusterDecompressor()
    local = threading.local()

    def perform(work: Work) -> None:
        if not hasattr(local, "reader"):
            local.reader = RunReader(decompressor)
        work(local.reader)

    throttle = Throttle(control)
    pending: deque[tuple[Future[None], int]] = deque()

    def finish_oldest() -> None:
        future, done = pending.popleft()
        while True:
            throttle.check()
            with contextlib.suppress(FutureTimeoutError):
                future.result(WAIT_SECONDS)
                break
        control.advance(done)

    pool = ThreadPoolExecutor(count, thread_name_prefix="clusters")
    try:
        for run in runs:
            pending.append((pool.submit(perform, work_for(run)), sum(stored.valid for stored in run)))
            if len(pending) >= 4 * count:
                finish_oldest()
        while pending:
            finish_oldest()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
