"""Durable execution on DBOS: what was put into the queue is done, also when the process is killed in between.

This is the only module that knows DBOS. It runs without its network services: no conductor, no telemetry.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from dbos import EnqueueOptions as Options
from dbos import Serializer as DbosSerializer

from kvm_backup.domain.request import RunRequest

APPLICATION = "kvm-backup"
FORMAT = "1"
"""The version of the workflow's steps. A run is only taken up again by a process of the same; releases share it as
long as the order of the steps stays."""

_WORKFLOW = "back_up_vm"
_POLL_SECONDS = 0.5
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


class DurableQueue:
    """The worker's side: at most `parallel` runs at once, and never two of one VM.

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
        self._failures: Counter[str] = Counter()

    def start(self) -> None:
        """Open the database and begin to work; runs that a killed process left are taken up again."""
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
        DBOS.listen_queues([queue_name(self._host)])
        DBOS.launch()
        DBOS.register_queue(
            queue_name(self._host),
            worker_concurrency=self._parallel,
            partition_concurrency=1,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )

    def stop(self) -> None:
        """Take nothing more from the queue and close the database. Runs must have ended or been suspended."""
        DBOS.destroy(destroy_registry=True)

    def enqueue(self, request: RunRequest, *, delay: float = 0.0) -> None:
        """Put a run into the queue, to begin in `delay` seconds at the earliest. Doing so twice changes nothing."""
        DBOS.enqueue_workflow_with_options(_options(request, delay), request.as_json())

    def cancel(self, workflow_id: str) -> None:
        """Take a run out of the queue."""
        DBOS.cancel_workflow(workflow_id)

    def take_up_orphans(self) -> None:
        """Queue again what was begun here and is not going on: its progress could not be written, because the disk
        was full or the database away. Call it once a minute; a run must be seen so twice, since one that just began
        or ends looks the same.
        """
        held = DBOS.list_workflows(
            status="PENDING", name=_WORKFLOW, executor_id=[self._host], load_input=False, load_output=False
        )
        orphans = {one.workflow_id for one in held} - self._active
        for workflow_id in sorted(orphans & self._suspects):
            DBOS.resume_workflow(workflow_id, queue_name=queue_name(self._host))
            self._say(f"{workflow_id} is taken up again")
        self._suspects = orphans - self._suspects

    def live_runs(self) -> set[str]:
        """The ids of runs that are in the queue or going on."""
        held = DBOS.list_workflows(status=_LIVE, name=_WORKFLOW, load_output=False)
        return {_run_id(one.input) for one in held}

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

    def forget_ended(self, before: datetime) -> int:
        """Remove what DBOS still knows of runs that were created before that and have ended; how many."""
        held = DBOS.list_workflows(
            status=_ENDED, end_time=before.isoformat(), load_input=False, load_output=False, limit=10_000
        )
        if held:
            DBOS.delete_workflows([one.workflow_id for one in held])
        return len(held)


class QueueClient:
    """The side of other processes: puts runs into a host's queue without doing any."""

    def __init__(self, *, database_url: str) -> None:
        _log_to(lambda _message: None)
        self._client = DBOSClient(
            system_database_url=database_url,
            serializer=JsonSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
        )

    def enqueue(self, request: RunRequest) -> None:
        """Put a run into its host's queue."""
        self._client.enqueue(_options(request, 0.0), request.as_json())

    def live_runs(self) -> set[str]:
        """The ids of runs that are in a queue or going on."""
        held = self._client.list_workflows(status=_LIVE, name=_WORKFLOW, load_output=False)
        return {_run_id(one.input) for one in held}

    def close(self) -> None:
        self._client.destroy()


def _options(request: RunRequest, delay: float) -> Options:
    options: Options = {
        "workflow_name": _WORKFLOW,
        "queue_name": queue_name(request.host),
        "workflow_id": request.workflow_id,
        "app_version": FORMAT,
        "application_name": APPLICATION,
        "queue_partition_key": request.vm,
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


class _Relay(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        problem = record.exc_info[1] if record.exc_info else None
        self._say(f"dbos: {record.getMessage()}" + (f" {type(problem).__name__}: {problem}" if problem else ""))


def _log_to(say: Callable[[str], None]) -> None:
    """DBOS prints to standard error unless its logger has a handler before it starts."""
    logger = logging.getLogger("dbos")
    logger.propagate = False
    logger.handlers = [_Relay(say)]
