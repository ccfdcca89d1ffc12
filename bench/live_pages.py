"""Many pages that stay open: what their live events cost the server while runs come and go."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice

import httpx

from bench.page_server import PageServer
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunResult, RunState, Trigger
from kvm_backup.domain.task import BackupTask

_PAGES = (
    ("/", {"overview"}),
    ("/vms", {"vms", "runs"}),
    ("/runs", {"runs"}),
    ("/schedules", {"schedules", "runs"}),
    ("/alerts", {"alerts"}),
    ("/repositories", {"shipping", "runs", "vms", "alerts"}),
)
"""An open page, and the signals on which it fetches its list anew."""
_SETTLED_SECONDS = 3.0
_PAUSE_SECONDS = 0.3
"""How long a page waits for more signals before it fetches."""
_AT_ONCE = 2
_COPIED = 1 << 30


@dataclass
class Cost:
    """What the server used: 1.0 `cores` is a whole one, `memory` the most in bytes; `fetched` took milliseconds."""

    cores: float = 0.0
    memory: int = 0
    events: int = 0
    fetched: list[float] = field(default_factory=list)


def watch(server: PageServer, pages: int, seconds: float, *, every: float, fetching: bool) -> Cost:
    """Keep pages open. With `every`, a run begins or ends each so many seconds, and two always go on."""
    with _runs(server, every):
        return asyncio.run(_watch(server, pages, seconds, fetching=fetching))


async def _watch(server: PageServer, pages: int, seconds: float, *, fetching: bool) -> Cost:
    cost = Cost()
    limits = httpx.Limits(max_connections=2 * pages + 2, max_keepalive_connections=pages)
    timeout = httpx.Timeout(60, read=None)
    async with httpx.AsyncClient(
        base_url=server.url, cookies=server.cookies, limits=limits, timeout=timeout
    ) as client:
        kinds = islice(cycle(_PAGES), pages)
        opened = [asyncio.create_task(_page(client, path, names, cost, fetching)) for path, names in kinds]
        await asyncio.sleep(_SETTLED_SECONDS)
        cost.events = 0
        cost.fetched.clear()
        began, used = time.monotonic(), server.processor_seconds()
        while time.monotonic() - began < seconds:
            await asyncio.sleep(1)
            cost.memory = max(cost.memory, server.memory())
        cost.cores = (server.processor_seconds() - used) / (time.monotonic() - began)
        for task in opened:
            if task.done():
                task.result()  # raises what ended it: every page must have stayed open
            task.cancel()
        await asyncio.gather(*opened, return_exceptions=True)
    return cost


async def _page(client: httpx.AsyncClient, path: str, names: set[str], cost: Cost, fetching: bool) -> None:
    pending: asyncio.Task[None] | None = None
    async with client.stream("GET", "/events") as events:
        events.raise_for_status()
        async for line in events.aiter_lines():
            if not line.startswith("event: "):
                continue
            cost.events += 1
            if fetching and line.removeprefix("event: ") in names and (pending is None or pending.done()):
                pending = asyncio.create_task(_fetch(client, path, cost))


async def _fetch(client: httpx.AsyncClient, path: str, cost: Cost) -> None:
    await asyncio.sleep(_PAUSE_SECONDS)
    began = time.perf_counter()
    # At the end pages are closed while they fetch.
    with suppress(asyncio.CancelledError, httpx.TransportError, RuntimeError):
        answer = await client.get(path, headers={"HX-Request": "true"})
        assert answer.status_code == 200, answer.text
        cost.fetched.append((time.perf_counter() - began) * 1000)


@contextmanager
def _runs(server: PageServer, every: float) -> Iterator[None]:
    """Runs that come, go on and end, written by a process that is not the server, as a command's are."""
    if not every:
        yield
        return
    ending = threading.Event()
    thread = threading.Thread(target=_make_runs, args=(server, every, ending))
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _make_runs(server: PageServer, every: float, ending: threading.Event) -> None:
    history = server.application.history
    vms = cycle(server.application.inventory.page(limit=50))
    going: list[tuple[str, float]] = []
    turn = 0.0
    while not ending.is_set():
        now = time.monotonic()
        if now >= turn:
            turn = now + every
            if len(going) >= _AT_ONCE:
                history.finish(going.pop(0)[0], RunState.SUCCEEDED, RunResult(mode=Mode.INCREMENTAL, bytes_read=1))
            vm = next(vms)
            run_id = server.ask(vm.name, vm.uuid, BackupTask(Mode.INCREMENTAL), Trigger.COMMAND)
            history.start(run_id)
            history.step_started(run_id, "copy")
            going.append((run_id, now))
        for run_id, began in going:
            history.progress(run_id, int(_COPIED * min(1.0, (now - began) / (every * _AT_ONCE))), _COPIED)
        ending.wait(1)
    for run_id, _began in going:
        history.finish(run_id, RunState.CANCELLED, RunResult())
