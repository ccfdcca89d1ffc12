"""Durable execution on DBOS: what was put into the queue is done, also when the process is killed in between.

This is the only module that knows DBOS. It runs without its network services: no conductor, no telemetry.
"""

import json
import logging
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from dbos import EnqueueOptions as Options
from dbos import Serializer as DbosSerializer
from dbos import error as dbos_error
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import LONGEST_WAIT, RunRequest

APPLICATION = "kvm-backup"
FORMAT = "1"
"""The version of the workflow's steps. A run is only taken up again by a process of the same; releases share it as
long as the order of the steps stays."""

_WORKFLOW = "back_up_vm"
_POLL_SECONDS = 0.5
_SHIP_POLL_SECONDS = 2.0
_BATCH = 500
_PATIENCE = 30
"""Seconds to wait for another process that writes."""
_CONNECT_PATIENCE = 10
"""Seconds to wait for a PostgreSQL server to answer."""
_SLACK = 60.0
"""Seconds by which a wait may look longer than it is."""
_SAID_AGAIN_SECONDS = 600.0
_FAILURES_MAX = 100
"""How often a run may fail to write its progress, one try about each two minutes, before it is given up."""
_LIVE = ["PENDING", "ENQUEUED", "DELAYED"]
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

Json = dict[str, Any]
StepRunner = Callable[[str, Callable[[], Json]], Json]
"""Runs a named step; a step that ended before the process died is not run again, its result is remembered."""


class Suspended(BaseException):
    """Leaves a run where it is, so that the next start of the service takes it up. No Exception, because DBOS
    records those as the run's end."""


class JsonSerializer(DbosSerializer):
    """Values are stored as JSON instead of DBOS's pickle, so that who can write the database cannot run code."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=repr)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805 - DBOS's own signature
        return json.loads(serialized_data)

    def name(self) -> str:
        return "kvm-backup-json"


def queue_name(host: str) -> str:
    """The queue that only this host's worker listens to."""
    return f"host:{host}"


def ship_queue_name(host: str) -> str:
    """The host's queue for what crosses a link: a slow one must not keep VMs from being backed up."""
    return f"ship:{host}"


def _queues(host: str) -> list[str]:
    return [queue_name(host), ship_queue_name(host)]


class DurableQueue:
    """The worker's side: at most `parallel` runs at once, and never two of one VM; beside them as many shipments.

    `execute` does one run, or raises Suspended to leave it for the next start. `say` gets DBOS's complaints.
    """

    def __init__(
        self,
        *,
        database_url: str,
        host: str,
        parallel: int,
        execute: Callable[[RunRequest, StepRunner], None],
        say: Callable[[str], None],
    ) -> None:
        self._url = database_url
        self._host = host
        self._parallel = parallel
        self._execute = execute
        self._say = say
        self._active: set[str] = set()
        self._suspects: set[str] = set()
        self._client: QueueClient | None = None
        self._failures: Counter[str] = Counter()
        self._opened: tuple[int, int] | None = None

    def start(self) -> None:
        """Open the database and begin to work; runs that a killed process left are taken up again.

        Raises DatabaseError.
        """
        with _in_our_words(make_url(self._url)):
            opened = _made_private(self._url)
            self._launch()
            if self._client is None:
                self._client = QueueClient(database_url=self._url)
            else:
                self._client.reopen()
        self._opened = opened

    def _launch(self) -> None:
        _log_to(self._say)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self._url,
            "executor_id": self._host,
            "application_version": FORMAT,
            "log_level": "WARNING",
            "use_listen_notify": False,
            "enable_otlp": False,
            "serializer": JsonSerializer(),
        }
        DBOS.destroy(destroy_registry=True)

        def workflow(request: Json) -> Json:
            self._work(RunRequest.from_json(request))
            return {}

        # Without a limit: each crash of the service is one more attempt, and a run must outlive many.
        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)(workflow)
        DBOS(config=config)
        DBOS.listen_queues(_queues(self._host))
        DBOS.launch()
        for name, seconds in zip(_queues(self._host), (_POLL_SECONDS, _SHIP_POLL_SECONDS), strict=True):
            DBOS.register_queue(
                name,
                worker_concurrency=self._parallel,
                partition_concurrency=1,
                polling_interval_sec=seconds,
                on_conflict="always_update",
            )

    def stop(self) -> None:
        """Take nothing more from the queue and close the database. Runs must have ended or been suspended."""
        DBOS.destroy(destroy_registry=True)
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> "QueueClient":
        """What asks and fills the queue, after `start`. DBOS's own functions would wait for a database that is away,
        and the service must go on meanwhile.
        """
        if self._client is None:
            raise RuntimeError("the queue was not started")
        return self._client

    def take_up_orphans(self) -> None:
        """Queue again what was begun here and is not going on: its progress could not be written, because the disk
        was full or the database away. Call it once a minute; a run must be seen so twice, since one that just began
        or ends looks the same. What waits longer than any run does waits for a time that was computed while the
        clock was wrong: it begins now. Raises DatabaseError.
        """
        if self._opened != _identity(self._url):
            self._move_to_the_new_file()
            return
        for workflow_id, queue in self.client.delayed_beyond(self._host, time.time() + LONGEST_WAIT + _SLACK).items():
            self.client.take_up(workflow_id, queue)
            self._say(f"{workflow_id} waited for a time that the clock showed by mistake; it begins now")
        begun = self.client.begun_on(self._host)
        orphans = begun.keys() - self._active
        for workflow_id in sorted(orphans & self._suspects):
            self.client.take_up(workflow_id, begun[workflow_id])
            self._say(f"{workflow_id} is taken up again")
        self._suspects = orphans - self._suspects

    def _move_to_the_new_file(self) -> None:
        """The file was removed, or moved away because it was damaged: others would fill one that we never see, and
        SQLite writes no more to ours. What can still be read of it goes with us, once nothing goes on.
        """
        if self._active:
            return
        live: list[RunRequest] = []
        try:
            live = self.client.live(self._host)
        except DatabaseError as error:
            self._say(f"what the old queue held is lost: {error.message}")
        self.start()
        self._say("the queue's file was removed or replaced, and is opened anew")
        self.client.enqueue(*live)

    def _work(self, request: RunRequest) -> None:
        name = request.workflow_id
        self._active.add(name)
        try:
            self._execute(request, _step)
        except Exception as error:
            self._failures[name] += 1
            self._say(f"{name} cannot go on: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            if self._failures[name] >= _FAILURES_MAX:
                raise  # it fails for a reason that time does not mend; the history marks it as interrupted
            raise Suspended from error
        finally:
            self._active.discard(name)


class QueueClient:
    """Fills queues and tells what is in them, without doing any run. Safe to use from several threads.

    Every method raises DatabaseError while the database cannot be used.
    """

    def __init__(self, *, database_url: str) -> None:
        if not logging.getLogger("dbos").handlers:
            _log_to(lambda _message: None)
        self._engine = _engine(database_url)
        self._client = self._opened()

    def reopen(self) -> None:
        """Leave the file that is open, and open the one that is there now."""
        self._client.destroy()
        self._engine.dispose()
        self._client = self._opened()

    def _opened(self) -> DBOSClient:
        with self._in_our_words():
            return DBOSClient(
                system_database_engine=self._engine,
                serializer=JsonSerializer(),
                application_name=APPLICATION,
                retry_connection_errors=False,
            )

    def enqueue(self, *requests: RunRequest, delay: float = 0.0) -> None:
        """Put runs into their hosts' queues, some in each transaction, to begin in `delay` seconds at the earliest.

        One that is there already, or was, changes nothing.
        """
        for at in range(0, len(requests), _BATCH):
            with self._in_our_words(), self._engine.begin() as connection:
                for request in requests[at : at + _BATCH]:
                    self._client.enqueue_in_transaction(connection, _options(request, delay), request.as_json())

    def begun_on(self, host: str) -> dict[str, str]:
        """What a host began and did not end: workflow ids, and the queue of each."""
        with self._in_our_words():
            held = self._client.list_workflows(
                status="PENDING", name=_WORKFLOW, executor_id=[host], load_input=False, load_output=False
            )
        return {one.workflow_id: one.queue_name or queue_name(host) for one in held}

    def take_up(self, workflow_id: str, queue: str) -> None:
        """Put what was begun into its queue again."""
        with self._in_our_words():
            self._client.resume_workflow(workflow_id, queue_name=queue)

    def live_runs(self) -> set[str]:
        """The ids of runs that are in a queue or going on."""
        with self._in_our_words():
            held = self._client.list_workflows(status=_LIVE, name=_WORKFLOW, load_output=False)
        return {_run_id(one.input) for one in held}

    def hasten(self, host: str, run_ids: Collection[str]) -> set[str]:
        """Let the next tries of these runs begin at once that wait for their time; the ids of those that did wait."""
        waiting = {one.workflow_id: _run_id(one.input) for one in self._queued_on(host, ["DELAYED"])}
        hastened = {workflow_id: run_id for workflow_id, run_id in waiting.items() if run_id in run_ids}
        for workflow_id in hastened:
            with self._in_our_words():
                # Changes nothing of one that has begun meanwhile.
                self._client.set_workflow_delay(workflow_id, delay_seconds=0)
        return set(hastened.values())

    def delayed_beyond(self, host: str, moment: float) -> dict[str, str]:
        """What begins on a host after a moment, in seconds since 1970, at the earliest: workflow ids, and queues."""
        return {
            one.workflow_id: one.queue_name
            for one in self._queued_on(host, ["DELAYED"])
            if (one.delay_until_epoch_ms or 0) / 1000 > moment
        }

    def live(self, host: str) -> list[RunRequest]:
        """What is in a host's queue or going on there."""
        return [RunRequest.from_json(one.input["args"][0]) for one in self._queued_on(host, _LIVE)]

    def _queued_on(self, host: str, states: list[str]) -> list[Any]:
        with self._in_our_words():
            return self._client.list_workflows(
                status=states, name=_WORKFLOW, queue_name=_queues(host), load_output=False
            )

    def forget_ended(self, before: datetime) -> int:
        """Remove what DBOS still knows of runs that were created before that and have ended; how many."""
        with self._in_our_words():
            held = self._client.list_workflows(
                status=_ENDED, end_time=before.isoformat(), load_input=False, load_output=False, limit=10_000
            )
            if held:
                self._client.delete_workflows([one.workflow_id for one in held])
        return len(held)

    def close(self) -> None:
        self._client.destroy()
        self._engine.dispose()

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        with _in_our_words(self._engine.url):
            yield


@contextmanager
def _in_our_words(url: URL) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, dbos_error.DBOSException, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        if url.password:
            cause = cause.replace(str(url.password), "***")
        raise DatabaseError(
            phrase("the queue of runs cannot be used: {cause}", cause=cause),
            hint=phrase("Check that its disk is not full, or that the PostgreSQL server of database.url runs."),
        ) from error


def _file(database_url: str) -> Path | None:
    url = make_url(database_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _identity(database_url: str) -> tuple[int, int] | None:
    """Device and inode of the queue's file, where it is one and there."""
    path = _file(database_url)
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def _made_private(database_url: str) -> tuple[int, int] | None:
    """The identity of the queue's file. SQLite itself would make one that everybody may read."""
    path = _file(database_url)
    if path is not None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    return _identity(database_url)


def _engine(database_url: str) -> Engine:
    """As DBOS makes its own: writers of SQLite take turns, and wait for each other."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return create_engine(
            url, connect_args={"connect_timeout": _CONNECT_PATIENCE}, pool_pre_ping=True, hide_parameters=True
        )
    engine = create_engine(url, connect_args={"timeout": _PATIENCE}, hide_parameters=True)

    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA foreign_keys=ON")

    event.listen(engine, "connect", prepare)
    return engine


def _options(request: RunRequest, delay: float) -> Options:
    options: Options = {
        "workflow_name": _WORKFLOW,
        "queue_name": (ship_queue_name if request.crosses_link else queue_name)(request.host),
        "workflow_id": request.workflow_id,
        "app_version": FORMAT,
        "application_name": APPLICATION,
        "queue_partition_key": request.queue_partition,
    }
    if delay:
        options["delay_seconds"] = delay
    return options


def _step(name: str, action: Callable[[], Json]) -> Json:
    return DBOS.run_step({"name": name}, action)


def _run_id(held: Any) -> str:
    try:
        return str(held["args"][0]["run_id"])
    except (KeyError, IndexError, TypeError):
        return ""


class Relay(logging.Handler):
    """Hands on what DBOS complains of: in one line, and the same not again for a while: it tries twice a second."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        problem = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}\n{type(problem).__name__}: {problem}" if problem else record.getMessage()
        line = _in_one_line(text)
        alike, now = re.sub(r"[0-9.]+", "0", line), time.monotonic()
        if now >= self._said.get(alike, 0.0):
            self._said = {other: until for other, until in self._said.items() if until > now}
            self._said[alike] = now + _SAID_AGAIN_SECONDS
            self._say(f"dbos: {line}")


def _in_one_line(text: str) -> str:
    """What happened and why, of a text that may hold a statement of SQL, or the way that an exception took."""
    first, _, rest = text.strip().partition("\n")
    if "Traceback" not in first:
        return first
    causes = [line for line in rest.splitlines() if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)]
    return f"{first.partition('Traceback')[0].strip()} {causes[-1] if causes else ''}".rstrip(" :")


def _log_to(say: Callable[[str], None]) -> None:
    """DBOS prints to standard error unless its logger has a handler before it starts."""
    logger = logging.getLogger("dbos")
    logger.propagate = False
    logger.handlers = [Relay(say)]
