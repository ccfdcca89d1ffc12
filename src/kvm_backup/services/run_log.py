"""The log: one JSON object a line, in one file that all processes append to, rotated by size.

A line is written while a lock is held, so that lines are never mixed and a rotation never loses one.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from kvm_backup.repository.durable import storage_error

LEADING_KEYS = ("time", "level", "event", "run", "vm", "step", "host")
"""Every line has them, in this order; null where there is nothing to say."""
_LONGEST_TEXT = 4096
_LONGEST_LINE = 64 * 1024
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s@]*@")
_SECRET_KEY = re.compile(r"passw|secret|token", re.IGNORECASE)


class LogFile:
    """The file and its older parts: NAME, NAME.1 (the newest of the old) to NAME.<backups>."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backups = backups

    def msg(self, line: str) -> None:
        """Append one line; structlog calls it by this name. Raises StorageError, NoSpaceError."""
        content = line.encode() + b"\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.locked():
                self._rotate(len(content))
                self._append(content)
        except OSError as error:
            raise storage_error(error, self.path) from error

    debug = info = warning = error = critical = msg

    def parts(self) -> list[Path]:
        """The parts that exist, oldest first; those of a time when more were kept, too."""
        numbered = []
        for path in self.path.parent.glob(f"{self.path.name}.*"):
            number = path.name.removeprefix(f"{self.path.name}.")
            if number.isascii() and number.isdigit() and path.is_file():
                numbered.append((int(number), path))
        older = [path for _, path in sorted(numbered, reverse=True)]
        return [*older, self.path] if self.path.is_file() else older

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody writes or rotates meanwhile. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _rotate(self, coming: int) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size == 0 or size + coming <= self._max_bytes:
            return
        for number in range(self._backups, 0, -1):
            older = self.path if number == 1 else self._part(number - 1)
            if older.exists():
                older.replace(self._part(number))
        if self._backups == 0:
            self.path.unlink()

    def _part(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _append(self, content: bytes) -> None:
        # A FIFO in its place would make us wait for a reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is no regular file")
            before = status.st_size
            try:
                written = os.write(descriptor, content)
                if written < len(content):  # the disk is full: what is left of it would spoil the next line
                    os.write(descriptor, content[written:])
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def make_log(file: LogFile, *, host: str) -> Any:
    """A structlog logger that writes to the file; `bind(run=…, vm=…, step=…)` says what a line is about."""
    return structlog.wrap_logger(
        file,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _without_secrets,
            _as_line,
        ],
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
        host=host,
    )


def _without_secrets(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in entry.items():
        if _SECRET_KEY.search(key):
            entry[key] = "***"
        elif isinstance(value, str):
            entry[key] = _PASSWORD_IN_URL.sub(r"\1***@", _short(value))
    return entry


def _as_line(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> str:
    ordered = {key: entry.pop(key, None) for key in LEADING_KEYS} | dict(entry)
    # ASCII only: no control character and no invisible one can reach a terminal by way of the log.
    line = json.dumps(ordered, default=_plain)
    if len(line) < _LONGEST_LINE:
        return line
    return json.dumps({key: ordered[key] for key in LEADING_KEYS} | {"cut": True}, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
