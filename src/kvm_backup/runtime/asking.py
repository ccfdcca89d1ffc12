"""Runs that a front end asks the service for, without waiting for them."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from kvm_backup.database.history import History
from kvm_backup.domain.errors import DatabaseError, KvmBackupError
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState
from kvm_backup.runtime.queue import QueueClient
from kvm_backup.services.requests import Asker, Requests
from kvm_backup.services.runs import RunService
from kvm_backup.services.schedules.commands import ScheduleService

_SOON = timedelta(seconds=10)
_FOLLOWERS = 200


@dataclass(frozen=True, slots=True)
class Asking:
    """Puts runs into the queue of their host. What can be told to fail at once is refused before that.

    `log` is a structlog logger. Every method raises DatabaseError.
    """

    history: History
    open_client: Callable[[], QueueClient]
    log: Any
    requests: Requests
    runs: RunService
    schedules: ScheduleService

    def enqueue(self, request: RunRequest) -> Run:
        """Queue a run; it is in the history from now on. Doing so twice changes nothing.

        When the queue cannot be written, the run has failed.
        """
        self.enqueue_all([request])
        return self.history.get(request.run_id)

    def enqueue_all(self, requests: Sequence[RunRequest]) -> list[Run]:
        """Queue runs, as `enqueue` does, however many; as they are when they are queued."""
        if not requests:
            return []
        self.history.create_all([request.as_run() for request in requests])
        with suppress(KvmBackupError):  # a run is worth more than a line of its log
            for request in requests:
                asked = {"kind": request.kind.value, "trigger": request.trigger.value, "user": request.asked_by}
                self.log.info("queued", run=request.run_id, vm=request.vm, step=None, **asked)
        try:
            with closing(self.open_client()) as client:
                client.enqueue(*requests)
        except DatabaseError as error:
            failure = RunResult(error=error.message, error_code=error.code, hint=error.hint)
            with suppress(DatabaseError):
                for request in requests:
                    self.history.finish(request.run_id, RunState.FAILED, failure)
            raise
        return [request.as_run() for request in requests]

    def schedule(self, schedule_id: str, asker: Asker) -> list[Run]:
        """Run a schedule now, one run for each of its VMs. Raises ScheduleNotFoundError, RepositoryNotFoundError."""
        schedule = self.schedules.find(schedule_id)
        self.requests.open_repository(self.requests.lasting_name(schedule.repository))
        now = self.schedules.clock()
        # One moment for all, as a tick has it: that is how the history knows which runs belong together.
        asked = [
            replace(
                self.requests.backup(vm, schedule.backup_mode, schedule.repository, asker, schedule=schedule),
                created=now,
            )
            for vm in dict.fromkeys(schedule.vm_names)
        ]
        self.schedules.record_start(schedule.id, now.replace(microsecond=0))
        return self.enqueue_all(asked)

    def ship(self, wanted: Sequence[RunRequest]) -> list[Run]:
        """Ship now, one run for each place: a run that waits for its next try begins at once, one that goes on or
        is queued stays as it is, and where there is none a new one is queued.
        """
        known = {one.vm_uuid or one.vm for one in wanted}
        unfinished = {
            (run.repository, run.task): run
            for run in self.history.unfinished_among(self.requests.host, known)
            if run.kind is RunKind.SHIP
        }
        held = {(one.repository, one.task): unfinished.get((one.repository, one.task)) for one in wanted}
        waiting = {run.id for run in held.values() if run is not None and run.state is RunState.WAITING}
        if waiting:
            with closing(self.open_client()) as client:
                client.hasten(self.requests.host, waiting)
            for run_id in waiting:
                self.history.hasten(run_id)
        self.enqueue_all([one for one in wanted if held[one.repository, one.task] is None])
        ids = [held[one.repository, one.task] for one in wanted]
        return [self.history.get(one.run_id if run is None else run.id) for one, run in zip(wanted, ids, strict=True)]

    def follow(self, arrived: RunRequest) -> None:
        """A remote that could not be reached has just taken something: what else waits for it need wait no longer.

        Some at a time: each that arrives lets more of them begin.
        """
        if arrived.kind is not RunKind.SHIP:
            return
        run = self.history.get(arrived.run_id)
        if run.state is not RunState.SUCCEEDED or not run.bytes_read:
            return
        soon = self.requests.clock() + _SOON
        waiting = self.history.unreached(self.requests.host, run.repository, soon, limit=_FOLLOWERS)
        if not waiting:
            return
        with closing(self.open_client()) as client:
            client.hasten(self.requests.host, waiting)
        for run_id in waiting:
            self.history.hasten(run_id)

    def cancel(self, reference: str, asker: Asker) -> Run:
        """Cancel a run. Raises RunNotFoundError, and BadArgumentError when it has ended."""
        run = self.runs.cancel(reference)
        with suppress(KvmBackupError):
            self.log.info("cancel", run=run.id, vm=run.vm_name, step=run.step, user=asker.user)
        return run

    def retry(self, reference: str, asker: Asker) -> Run:
        """Do a run that has ended once more. Raises RunNotFoundError, BadArgumentError."""
        return self.enqueue(self.requests.again(self.runs.to_try_again(reference), asker))
