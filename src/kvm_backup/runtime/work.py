"""What the service's runs work with: the recording of a run, and its task itself."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kvm_backup.database.history import History
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run
from kvm_backup.domain.task import BackupTask
from kvm_backup.domain.vm import Vm
from kvm_backup.runtime.workflows import RetryAt
from kvm_backup.services import events
from kvm_backup.services.backup import BackupService
from kvm_backup.services.recording import RecordingListener
from kvm_backup.services.tasks import TaskService


@dataclass(frozen=True, slots=True)
class Work:
    """`backup_service` takes the name of a repository, a listener and the wish to stop; `find_vm` asks libvirt."""

    history: History
    log: Any
    find_vm: Callable[[str], Vm]
    backup_service: Callable[[str, events.Listener, Callable[[], bool]], BackupService]
    tasks: TaskService
    say: Callable[[str], None]

    def recorder(self, run: Run, retry_at: RetryAt) -> events.Listener:
        """A listener that writes the run's rows and log lines, and tells the service's own log how it ended."""
        return RecordingListener(self.history, run.id, self.log.bind(run=run.id), also=self._tell, retry_at=retry_at)

    def perform(
        self, request: RunRequest, listener: events.Listener, stop_requested: Callable[[], bool], *, again: bool
    ) -> tuple[events.Finished, KvmBackupError | None]:
        """Do what a run is asked for; `again` says that an earlier attempt has begun.

        The point that a backup published before it was killed is found by the run's id.
        """
        if not isinstance(request.task, BackupTask):
            return self.tasks.run(request, listener, stop_requested, again=again)
        mode = request.task.mode
        with suppress(KvmBackupError):  # a VM that cannot be found is the run's own error, told in a moment
            vm = self.find_vm(request.vm)
            self.history.identified(request.run_id, vm.name, vm.uuid)
        try:
            service = self.backup_service(request.repository, listener, stop_requested)
        except KvmBackupError as error:
            return events.failed(request.vm, mode.value, error, 0.0), error
        return service.run(request.vm, mode, request.run_id)

    def _tell(self, event: events.Event) -> None:
        if isinstance(event, events.Notice):
            self.say(f"{event.vm}: {event.message}")
        elif isinstance(event, events.Finished):
            done = f"{event.mode} point {event.point}" if event.mode else event.detail or "done"
            self.say(f"{event.vm}: {event.error or done}")
