"""Runs that a command does in its own process: a locked file each, so that one whose process was killed is noticed.

What the service does is not here; the service looks after its runs itself, across its restarts.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvm_backup.database.history import History
from kvm_backup.domain.errors import InterruptedRunError, RunNotFoundError, StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState
from kvm_backup.domain.task import is_in_place
from kvm_backup.repository.durable import storage_error

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class OwnRuns:
    """A folder with a file for each run, named after its id; the kernel gives the lock up when the process dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, run_id: str) -> Iterator[None]:
        """While the run goes on. When it is left by an exception, its end is not known: the file stays for `sweep`.

        Raises StorageError, NoSpaceError.
        """
        path = self._folder / run_id
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = _made_and_locked(path)
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            yield
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def ids(self) -> set[str]:
        """The runs that have a file. Raises StorageError."""
        try:
            return set(os.listdir(self._folder))  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise storage_error(error, self._folder) from error

    def sweep(self, history: History) -> None:
        """Runs whose process is gone are marked as interrupted. Raises DatabaseError, StorageError."""
        for run_id in sorted(self.ids()):
            path = self._folder / run_id
            try:
                self._sweep_one(path, history)
            except FileNotFoundError:
                continue  # it ended meanwhile
            except OSError as error:
                raise StorageError(
                    f"{error.strerror or error} ({path})",
                    hint=phrase("Check who owns the file; remove it if it is foreign."),
                ) from error

    @staticmethod
    def _sweep_one(path: Path, history: History) -> None:
        descriptor = os.open(path, _FLAGS)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # it goes on
        else:
            with suppress(RunNotFoundError):  # its row could not be written then
                history.finish(path.name, RunState.INTERRUPTED, interrupted(history.get(path.name)))
            path.unlink()
        finally:
            os.close(descriptor)


def interrupted(run: Run) -> RunResult:
    """The result of a run whose process was killed."""
    hint = phrase("Start it again with 'kvm-backup run retry', which removes what may be left.")
    if run.kind is RunKind.BACKUP:
        hint = phrase(
            "Start it again with 'kvm-backup run retry'. The next backup of the VM removes what may be left."
        )
    elif run.task is not None and is_in_place(run.task):
        hint = phrase(
            "Restore again, or get the old disks back with 'kvm-backup doctor --clean', before the VM is started."
        )
    error = InterruptedRunError(phrase("the process of this run was killed"), hint=hint)
    return RunResult(error=error.message, error_code=error.code, hint=error.hint)


def _made_and_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A sweep may have removed the file between the two calls; its lock would then protect nothing.
        try:
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
