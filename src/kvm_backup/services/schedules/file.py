"""scheduled_backups.json on disk: one file that the command line, the web page and the daemon share.

Writers hold a lock on a file beside it from reading to writing, and replace it in one step, so that nobody's change
is lost and readers, who need no lock, see a whole file.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import KvmBackupError, SchedulesFileError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import Schedule
from kvm_backup.repository.durable import replace_content, storage_error
from kvm_backup.repository.patient_lock import locked_within
from kvm_backup.services.schedules import format as text

FILE_NAME = "scheduled_backups.json"
_POLL_SECONDS = 0.005
_OF_NO_FILE = (-1, -1, -1)
"""The signature of what we wrote: it is good, and the file is read again, since another may have written after us."""

Schedules = tuple[Schedule, ...]


class ScheduleFile:
    """The schedules of one state folder. Safe to use from several threads and processes.

    `zone` is that of times without an offset, which the first version wrote; `lock_wait` is in seconds.
    """

    def __init__(self, folder: Path, zone: ZoneInfo, lock_wait: float = 30.0) -> None:
        self._named = folder / FILE_NAME
        self.path = Path(os.path.realpath(self._named))  # a file that was moved and linked to stays where it is
        self._zone = zone
        self._lock_wait = lock_wait
        self._known: tuple[tuple[int, int, int], Schedules] | None = None

    def read(self) -> Schedules:
        """All schedules; none when there is no file. Parsed anew only when the file has changed.

        Raises SchedulesFileError with line and column, also when only some of them cannot be used; StorageError.
        """
        known = self._known
        signature, content = self._content(None if known is None else known[0])
        if content is None:
            return known[1] if known is not None and signature == known[0] else ()
        schedules = text.parse(content, str(self.path), self._zone)
        self._known = (signature, schedules)
        return schedules

    def read_or_last_good(self) -> tuple[Schedules, KvmBackupError | None]:
        """The schedules, or those of the last time that the file could be read, and why it cannot be now. Where only
        some of them cannot be used, the others are as they are now.
        """
        try:
            return self.read(), None
        except text.BadSchedulesError as error:
            return self._with_last_good(error.entries), error
        except KvmBackupError as error:
            return (self._known[1] if self._known else ()), error

    def _with_last_good(self, entries: Sequence[Schedule | str | None]) -> Schedules:
        """What can be used, and in place of the others what they were; all as it was when it cannot be told which of
        them one was."""
        usable = {one.id for one in entries if isinstance(one, Schedule)}
        before = {one.id: one for one in self._known[1]} if self._known else None
        bad = [one for one in entries if not isinstance(one, Schedule)]
        if before is None:
            return tuple(one for one in entries if isinstance(one, Schedule))
        if len({*bad}) < len(bad) or not all(one in before and one not in usable for one in bad):
            return tuple(before.values())
        return tuple(one if isinstance(one, Schedule) else before[one] for one in entries if one is not None)

    def update(self, change: Callable[[Schedules], Iterable[Schedule]]) -> Schedules:
        """Lock, read, change, write. What `change` raises leaves the file as it is, and so does an equal result.

        Raises SchedulesFileError when the file cannot be read, or is locked for too long; StorageError, NoSpaceError.
        """
        with self._locked():
            before = self.read()
            after = tuple(change(before))
            if after != before:
                self._remove_remains()
                replace_content(self.path, text.render(after, str(self.path)))
                self._known = (_OF_NO_FILE, after)
        return after

    def _content(self, known: tuple[int, int, int] | None) -> tuple[tuple[int, int, int], bytes | None]:
        """The file's signature, and its content unless the signature is the known one or there is no file."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if self._named.is_symlink():
                raise SchedulesFileError(
                    phrase("{link} leads to {path}, which is not there", link=self._named, path=self.path),
                    hint=phrase("Is its disk mounted? Mount it, or remove the link to begin without schedules."),
                ) from error
            return (0, 0, 0), None
        except OSError as error:
            raise storage_error(error, self.path) from error
        try:
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise SchedulesFileError(
                        phrase("{path} is no regular file", path=self.path),
                        hint=phrase("Move it away; it was left alone."),
                    )
                signature = (status.st_ino, status.st_mtime_ns, status.st_size)
                return signature, None if signature == known else file.read(text.BYTES_MAX + 1)
        except OSError as error:
            raise storage_error(error, self.path) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise storage_error(error, lock) from error
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        if locked_within(descriptor, self._lock_wait, poll=_POLL_SECONDS):
            return
        raise SchedulesFileError(
            phrase(
                "{path} has been locked by another process for {lock_wait:g} seconds",
                path=self.path,
                lock_wait=self._lock_wait,
            ),
            hint=phrase("See which one it is: 'fuser -v {path}.lock'. Nothing was changed.", path=self.path),
        )

    def _remove_remains(self) -> None:
        """New contents that a killed process had no time to put in place; we hold the lock, so they are nobody's."""
        for remains in self.path.parent.glob(f".{self.path.name}.new-*"):
            with suppress(OSError):
                remains.unlink()
