"""Runs as users see them: begun, recorded, cancelled, tried again."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from kvm_backup.database.history import History
from kvm_backup.domain.errors import (
    BadArgumentError,
    CancelledError,
    DatabaseError,
    HypervisorUnavailableError,
    KvmBackupError,
    VmNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import STATE_WORDS, Run
from kvm_backup.domain.task import BackupTask, is_in_place, task_of
from kvm_backup.domain.vm import Vm
from kvm_backup.services import events
from kvm_backup.services.backup import BackupService
from kvm_backup.services.own_runs import OwnRuns
from kvm_backup.services.recording import CancelWatch, RecordingListener
from kvm_backup.services.restore_task import agreed_before
from kvm_backup.services.scripted import run_with_scripts
from kvm_backup.services.tasks import TaskService

Outcome = tuple[events.Finished, KvmBackupError | None]
Wish = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class RunService:
    """Begins runs in this process and records them.

    `open_history` may raise DatabaseError; `backup_service` takes the name of a repository, a listener and the wish
    to stop; `find_vm` asks libvirt.
    """

    open_history: Callable[[], History]
    log: Any
    own_runs: OwnRuns
    find_vm: Callable[[str], Vm]
    backup_service: Callable[[str, events.Listener, Wish], BackupService]
    tasks: TaskService
    script_timeout: float = 600.0

    def do(
        self,
        request: RunRequest,
        *,
        listener: events.Listener,
        stop_requested: Wish,
        confirm: Callable[[str], bool] = agreed_before,
    ) -> Outcome:
        """Do a new run now, a backup between its scripts when it has any.

        `confirm` is asked before a restore in place. What can be done is done also when the history cannot be
        written; the listener is told then.
        """
        with ExitStack() as held:
            try:
                history = self.open_history()
                self.own_runs.sweep(history)
                held.enter_context(self.own_runs.hold(request.run_id))
                history.create(request.as_run())
            except KvmBackupError as error:
                listener(
                    events.Notice(request.vm, phrase("this run is not in the history: {cause}", cause=error.message))
                )
                return self._done(request, listener, stop_requested, confirm)
            return self._recorded(history, request, listener, stop_requested, confirm)

    def _recorded(
        self,
        history: History,
        request: RunRequest,
        listener: events.Listener,
        stop_requested: Wish,
        confirm: Callable[[str], bool],
    ) -> Outcome:
        run_id = request.run_id
        recording = RecordingListener(history, run_id, self.log.bind(run=run_id), also=listener)
        try:
            if not history.start(run_id):
                ended = CancelledError(
                    phrase("the run was cancelled before it began"), hint=phrase("Nothing was done.")
                )
                return events.failed(request.vm, request.requested_mode, ended, 0.0), ended
            if request.vm_uuid is None:
                # A VM that cannot be found is the run's own error, told in a moment.
                with suppress(VmNotFoundError, HypervisorUnavailableError):
                    vm = self.find_vm(request.vm)
                    history.identified(run_id, vm.name, vm.uuid)
        except DatabaseError as error:
            listener(
                events.Notice(
                    request.vm, phrase("the history of this run is not complete: {cause}", cause=error.message)
                )
            )
        return self._done(request, recording, CancelWatch(history, run_id, also=stop_requested), confirm)

    def _done(
        self, request: RunRequest, listener: events.Listener, wish: Wish, confirm: Callable[[str], bool]
    ) -> Outcome:
        task = request.task
        if not isinstance(task, BackupTask):
            return self.tasks.run(request, listener, wish, confirm=confirm)

        def back_up() -> Outcome:
            return self.backup_service(request.repository, listener, wish).run(request.vm, task.mode)

        return run_with_scripts(request, back_up, listener=listener, stop_requested=wish, timeout=self.script_timeout)

    def cancel(self, reference: str) -> Run:
        """Cancel a run, by its id or a beginning of it. One that goes on ends within seconds.

        Raises RunNotFoundError, DatabaseError, and BadArgumentError when it has ended.
        """
        history = self.open_history()
        self.own_runs.sweep(history)
        run = history.get(reference)
        if run.state.final:
            raise BadArgumentError(
                phrase("run {id} has ended already: {state}", id=run.id, state=STATE_WORDS[run.state]),
                hint=phrase("There is nothing to cancel."),
            )
        history.request_cancel(run.id)
        return history.get(run.id)

    def to_try_again(self, reference: str) -> Run:
        """The run that a retry repeats. Raises RunNotFoundError, DatabaseError, BadArgumentError when it cannot."""
        history = self.open_history()
        self.own_runs.sweep(history)
        run = history.get(reference)
        if not run.state.final:
            raise BadArgumentError(
                phrase("run {id} has not ended: {state}", id=run.id, state=STATE_WORDS[run.state]),
                hint=phrase("Cancel it first: kvm-backup run cancel {id}", id=run.id),
            )
        if is_in_place(task_of(run)):
            raise BadArgumentError(
                phrase("run {id} restored in place, which has to be confirmed each time", id=run.id),
                hint=phrase("Restore the point anew: kvm-backup restore --in-place."),
            )
        return run
