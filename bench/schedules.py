"""How long a tick over many schedules takes: `python -m bench.schedules [COUNT]`; no VM is needed.

Prints seconds and processor seconds: with nothing due, and with every schedule due at once, whose runs go into the
history and the queue, on SQLite and on a PostgreSQL server of its own.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import URL

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.schedule import Schedule
from kvm_backup.runtime.queue import DurableQueue, Suspended
from kvm_backup.runtime.tick import Scheduler
from kvm_backup.services.schedules.file import ScheduleFile
from tests.postgresql import running_server

_UTC = ZoneInfo("UTC")


def main() -> None:
    """Measure on both databases, each in a process of its own."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder, running_server() as server:
        database = server.new_database()
        for name, history, queue in (
            ("SQLite", sqlite_url(Path(folder) / "history.db"), sqlite_url(Path(folder) / "queue.db")),
            ("PostgreSQL", database, database),
        ):
            if (child := os.fork()) == 0:
                state = Path(folder) / name
                state.mkdir()
                _measure(name, state, count, history, queue)
                os._exit(0)
            os.waitpid(child, 0)


def _measure(name: str, state: Path, count: int, history_url: URL, queue_url: URL) -> None:
    now = datetime.now(UTC)
    file = ScheduleFile(state, _UTC)
    history = History(Database.open(history_url), lambda: now)
    queue = DurableQueue(
        database_url=queue_url.render_as_string(hide_password=False),
        host="bench",
        parallel=1,
        execute=_do_nothing,
        say=print,
    )
    queue.start()
    scheduler = Scheduler(
        file=file,
        history=history,
        enqueue=queue.client.enqueue,
        zone=_UTC,
        clock=lambda: now,
        say=print,
        host="bench",
        repository="default",
        catch_up=True,
    )
    _plan(file, count, now + timedelta(hours=1))
    scheduler.tick()  # the first of a process looks at every planned time
    _say(f"{name}: {count} schedules, none due", scheduler.tick)
    _plan(file, count, now - timedelta(seconds=30))
    _say(f"{name}: {count} schedules, all due", scheduler.tick)


def _plan(file: ScheduleFile, count: int, due: datetime) -> None:
    file.update(lambda _: [_schedule(number, due) for number in range(count)])


def _schedule(number: int, due: datetime) -> Schedule:
    return Schedule(f"{number:032x}", f"schedule {number}", (f"vm{number}",), "daily", f"{due:%H:%M}", next_run=due)


def _do_nothing(*_: object) -> None:
    raise Suspended


def _say(what: str, action: Callable[[], object]) -> None:
    began, processor = time.monotonic(), time.process_time()
    action()
    print(f"{what}: {time.monotonic() - began:.2f} s, {time.process_time() - processor:.2f} s of processor")


if __name__ == "__main__":
    main()
