"""What is asked of the service: runs, each put into the queue of its host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kvm_backup.repository.durable import storage_error

if TYPE_CHECKING:
    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.point import Mode
    from kvm_backup.domain.request import RunRequest
    from kvm_backup.domain.run import Run
    from kvm_backup.domain.task import RestoreTarget
    from kvm_backup.runtime.asking import Asking
    from kvm_backup.services.requests import Asker


@dataclass(frozen=True)
class RunQueue:
    """What the web page asks for: checked as far as that is quick, queued, and returned at once.

    `repository` is a name of the settings, or None for the default one; `who` is the user's name. All raise
    KvmBackupError.
    """

    parts: Application

    def enqueue(self, request: RunRequest) -> Run:
        """Put a run into the queue of its host. Twice is the same as once."""
        return self.asking.enqueue(request)

    def backup(self, vm: str, mode: Mode, repository: str | None = None, who: str | None = None) -> Run:
        """Back a VM up; `vm` is its name or UUID. Raises VmNotFoundError before anything is queued."""
        self.parts.repositories.configured(repository)
        return self.enqueue(self.parts.requests.backup_of_known_vm(vm, mode, repository, _web(who)))

    def verify(self, point: str, repository: str | None = None, who: str | None = None, *, deep: bool = False) -> Run:
        """Check a point, by its whole id, and all that it builds on."""
        self.parts.repositories.configured_store(repository)
        return self.enqueue(self.parts.requests.verify_point(point, repository, _web(who), deep=deep))

    def verify_vm(self, vm: str, repository: str | None = None, who: str | None = None, *, deep: bool = False) -> Run:
        """Check every point of a VM; `vm` is its UUID, its folder in the repository or, slower, its name."""
        self.parts.repositories.configured_store(repository)
        folder = self.parts.requests.folder_of(vm, repository)
        return self.enqueue(self.parts.requests.verify_folder(folder, repository, _web(who), deep=deep))

    def verify_all(self, repository: str | None = None, who: str | None = None, *, deep: bool = False) -> list[Run]:
        """Check every point of a repository, one run for each VM."""
        self.parts.repositories.configured_store(repository)
        asked = [
            self.parts.requests.verify_folder(folder, repository, _web(who), deep=deep)
            for folder in self.parts.requests.all_folders(repository)
        ]
        return self.asking.enqueue_all(asked)

    def restore(
        self, point: str, target: RestoreTarget, repository: str | None = None, who: str | None = None
    ) -> Run:
        """Restore a point, by its whole id. The caller has let the user confirm what `InPlace` overwrites.

        Raises TargetExistsError, VmRunningError, BadArgumentError before anything is queued.
        """
        self.parts.repositories.configured_store(repository)
        return self.enqueue(self.parts.requests.checked_restore(point, target, repository, _web(who)))

    def prune(self, vm: str, repository: str | None = None, who: str | None = None) -> Run:
        """Prune the points of a VM; `vm` as for `verify_vm`."""
        self.parts.repositories.configured_store(repository)
        folder = self.parts.requests.folder_of(vm, repository)
        return self.enqueue(self.parts.requests.prune_folder(folder, repository, _web(who)))

    def prune_all(self, repository: str | None = None, who: str | None = None) -> list[Run]:
        """Prune every VM that a repository holds points of, one run for each."""
        self.parts.repositories.configured_store(repository)
        asked = [
            self.parts.requests.prune_folder(folder, repository, _web(who))
            for folder in self.parts.requests.all_folders(repository)
        ]
        return self.asking.enqueue_all(asked)

    def ship(self, remote: str, folder: str | None = None, who: str | None = None) -> list[Run]:
        """Ship now what waits for a remote, of one VM by its folder, or of all, those first that wait longest.

        Raises RepositoryNotFoundError, PointNotFoundError when nothing of it waits.
        """
        return self.asking.ship(self.parts.shipments.wanted_now(remote, folder, _web(who)))

    def schedule(self, schedule_id: str, who: str | None = None) -> list[Run]:
        """Run a schedule now: a run for each of its VMs. Its next time stays."""
        return self.asking.schedule(schedule_id, _web(who))

    def cancel(self, run_id: str, who: str | None = None) -> Run:
        """Cancel a run: one that has not begun ends now, one that goes on within seconds."""
        return self.asking.cancel(run_id, _web(who))

    def retry(self, run_id: str, who: str | None = None) -> Run:
        """Do a run that has ended once more, as a new run. A restore in place is refused: it is confirmed anew."""
        return self.asking.retry(run_id, _web(who))

    @cached_property
    def asking(self) -> Asking:
        """What takes requests that were made elsewhere, several at once, and what follows from a run."""
        from kvm_backup.runtime.asking import Asking
        from kvm_backup.runtime.queue import QueueClient
        from kvm_backup.services.run_log import make_log

        return Asking(
            history=self.parts.history,
            open_client=lambda: QueueClient(database_url=self.url),
            log=make_log(self.parts.log_file, host=self.parts.host),
            requests=self.parts.requests,
            runs=self.parts.work.runs,
            schedules=self.parts.schedules,
        )

    @cached_property
    def url(self) -> str:
        """Of the database that the queue is in: that of the history on PostgreSQL, else a file of its own, because
        SQLite lets one writer at a time and the queue is asked twice a second. Raises DatabaseError, StorageError.
        """
        from kvm_backup.database.engine import sqlite_url

        if self.parts.settings.database.url is not None:
            return self.parts.database_url.render_as_string(hide_password=False)
        path = self.parts.state_dir() / "queue.db"
        try:
            # SQLite itself would make a file that everybody may read.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            raise storage_error(error, path) from error
        return sqlite_url(path).render_as_string()


def _web(who: str | None) -> Asker:
    from kvm_backup.domain.run import Trigger
    from kvm_backup.services.requests import Asker

    return Asker(Trigger.WEB, who)
