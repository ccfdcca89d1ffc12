"""Runs as users see them: begun, recorded, cancelled, tried again."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from kvm_backup.database.history import History
from kvm_backup.domain.errors import (
    BadArgumentError,
    CancelledError,
    DatabaseError,
    HypervisorUnavailableError,
    KvmBackupError,
    VmNotFoundError,
)
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.vm import Vm
from kvm_backup.services import events
from kvm_backup.services.backup import BackupService
from kvm_backup.services.own_runs import OwnRuns
from kvm_backup.services.recording import CancelWatch, RecordingListener
from kvm_backup.services.scripted import run_with_scripts

Outcome = tuple[events.Finished, KvmBackupError | None]
Wish = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class RunService:
    """Begins runs in this process and records them.

    `open_history` may raise DatabaseError; `backup_service` takes the name of a repository, a listener and the wish
    to stop; `find_vm` asks libvirt. `clock` gives the time in UTC.
    """

    open_history: Callable[[], History]
    log: Any
    own_runs: OwnRuns
    host: str
    clock: Callable[[], datetime]
    find_vm: Callable[[str], Vm]
    backup_service: Callable[[str, events.Listener, Wish], BackupService]
    script_timeout: float = 600.0

    def back_up(
        self,
        vm_name: str,
        mode: Mode,
        repository: str,
        *,
        listener: events.Listener,
        stop_requested: Wish,
        trigger: Trigger = Trigger.COMMAND,
        earlier: Run | None = None,
        schedule: Schedule | None = None,
    ) -> Outcome:
        """A new run on a VM, done now. `earlier` is the run that it tries again.

        Of a `schedule` that a user starts by hand, the scripts are called.

        A backup that can be made is made also when the history cannot be written; the listener is told then.
        """
        run = Run(
            id=uuid4().hex,
            vm_name=vm_name,
            kind=RunKind.BACKUP,
            trigger=trigger,
            host=self.host,
            repository=repository,
            requested_mode=mode,
            state=RunState.QUEUED,
            created=self.clock(),
            schedule_id=schedule.id if schedule else earlier.schedule_id if earlier else None,
            schedule_name=schedule.name if schedule else earlier.schedule_name if earlier else None,
            attempt=earlier.attempt + 1 if earlier else 1,
        )
        try:
            history = self.open_history()
            self.own_runs.sweep(history)
        except KvmBackupError as error:
            listener(events.Notice(vm_name, f"this run is not in the history: {error.message}"))
            return self._done(schedule, run, listener, stop_requested)
        with self.own_runs.hold(run.id):
            try:
                history.create(run)
            except DatabaseError as error:
                listener(events.Notice(vm_name, f"this run is not in the history: {error.message}"))
                return self._done(schedule, run, listener, stop_requested)
            return self._recorded(history, schedule, run, listener, stop_requested)

    def _recorded(
        self, history: History, schedule: Schedule | None, run: Run, listener: events.Listener, stop_requested: Wish
    ) -> Outcome:
        recording = RecordingListener(history, run.id, self.log.bind(run=run.id), also=listener)
        try:
            if not history.start(run.id):
                ended = CancelledError("the run was cancelled before it began", hint="Nothing was done.")
                return events.failed(run.vm_name, run.requested_mode.value, ended, 0.0), ended
            # A VM that cannot be found is the run's own error, told in a moment.
            with suppress(VmNotFoundError, HypervisorUnavailableError):
                vm = self.find_vm(run.vm_name)
                history.identified(run.id, vm.name, vm.uuid)
        except DatabaseError as error:
            listener(events.Notice(run.vm_name, f"the history of this run is not complete: {error.message}"))
        wish = CancelWatch(history, run.id, also=stop_requested)
        return self._done(schedule, run, recording, wish)

    def _done(self, schedule: Schedule | None, run: Run, listener: events.Listener, wish: Wish) -> Outcome:
        def back_up() -> Outcome:
            return self.backup_service(run.repository, listener, wish).run(run.vm_name, run.requested_mode)

        if schedule is None:
            return back_up()
        return run_with_scripts(
            schedule, run, back_up, listener=listener, stop_requested=wish, timeout=self.script_timeout
        )

    def cancel(self, reference: str) -> Run:
        """Cancel a run, by its id or a beginning of it. One that goes on ends within seconds.

        Raises RunNotFoundError, DatabaseError, and BadArgumentError when it has ended.
        """
        history = self.open_history()
        self.own_runs.sweep(history)
        run = history.get(reference)
        if run.state.final:
            raise BadArgumentError(f"run {run.id} has ended already: {run.state}", hint="There is nothing to cancel.")
        history.request_cancel(run.id)
        return history.get(run.id)

    def to_try_again(self, reference: str) -> Run:
        """The run that a retry repeats. Raises RunNotFoundError, DatabaseError, BadArgumentError when it cannot."""
        history = self.open_history()
        self.own_runs.sweep(history)
        run = history.get(reference)
        if not run.state.final:
            raise BadArgumentError(
                f"run {run.id} has not ended: {run.state}", hint=f"Cancel it first: kvm-backup run cancel {run.id}"
            )
        if run.kind is not RunKind.BACKUP:
            raise BadArgumentError(
                f"run {run.id} is no backup: {run.kind}", hint=f"Start it with 'kvm-backup {run.kind}'."
            )
        return run
