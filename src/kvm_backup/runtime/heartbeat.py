"""Whether a service works on this state folder, and how it does: a lock that the kernel gives up when it dies, and a
small file that it rewrites."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from kvm_backup.domain.errors import KvmBackupError, ServiceRunningError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import read_limited, storage_error
from kvm_backup.repository.patient_lock import locked_within

_LOCK = "daemon.lock"
_FILE = "daemon.json"
_FILE_BYTES_MAX = 4096
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the service last said of itself. Times are ISO 8601 in UTC; `ticked` is None before its first tick."""

    pid: int
    host: str
    started: str
    beat: str
    ticked: str | None = None


class ServiceLock:
    """The lock of the only service of a state folder. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Raises ServiceRunningError, StorageError."""
        self._folder = folder
        self._descriptor = _locked(folder)

    def keep(self) -> None:
        """Take it anew where the folder was replaced: the lock vanished with the old one.

        Raises ServiceRunningError when another service was faster, StorageError while the folder is away.
        """
        if not _is_at(self._descriptor, self._folder / _LOCK):
            taken = _locked(self._folder)
            self.release()
            self._descriptor = taken

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


@contextmanager
def only_service(folder: Path) -> Iterator[ServiceLock]:
    """Be the only service of a state folder. Raises ServiceRunningError, StorageError."""
    lock = ServiceLock(folder)
    try:
        yield lock
    finally:
        lock.release()


def service_runs(folder: Path) -> bool:
    """Whether a service works on this state folder now."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # Shared, so that two who ask do not take each other for the service.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """What the service last said, whether it still lives or not; None when it said nothing readable."""
    try:
        held: Any = json.loads(read_limited(folder / _FILE, _FILE_BYTES_MAX))
        return Heartbeat(**{field.name: held.get(field.name) for field in fields(Heartbeat)})
    except (KvmBackupError, ValueError, AttributeError):
        return None


def write_heartbeat(folder: Path, state: Heartbeat) -> None:
    """Replace the file. It is not synced: after a crash of the host nobody needs it.

    Raises StorageError, NoSpaceError.
    """
    beside = folder / f".{_FILE}.new"
    try:
        beside.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
        beside.replace(folder / _FILE)
    except OSError as error:
        raise storage_error(error, folder / _FILE) from error


def moment_of(text: str | None) -> datetime | None:
    """A time of a heartbeat; None when there is none, or it is none."""
    try:
        moment = None if text is None else datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def seconds_since(moment: str | None, now: datetime) -> float | None:
    """How long ago a time of a heartbeat was; None when there is none."""
    try:
        return None if moment is None else (now - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return None


def _locked(folder: Path) -> int:
    descriptor = _open(folder)
    # Who asks whether a service runs holds the lock for a moment.
    if locked_within(descriptor, _PATIENCE_SECONDS):
        return descriptor
    os.close(descriptor)
    held = read_heartbeat(folder)
    who = f" (process {held.pid})" if held else ""
    raise ServiceRunningError(
        phrase("the service runs already{who} with the state folder {folder}", who=who, folder=folder),
        hint=phrase("One is enough: it serves every schedule. 'systemctl status kvm-backup' shows it."),
    )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _open(folder: Path) -> int:
    path = folder / _LOCK
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise storage_error(error, path) from error
