"""Reading the log of one run: across rotated parts, in order, and on as lines come."""

import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO

from kvm_backup.repository.durable import storage_error
from kvm_backup.services.run_log import LogFile

_CHUNK = 1024 * 1024
_CLOCK_STEP = 86400.0
"""Seconds by which a clock may have been set back while the run went on."""
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
"""What may be half a character, and so in no encoding of text."""


class LogReader:
    """Hands out the lines of one run, each once. Lines that are no JSON object are passed over.

    `since` is when the run was asked for: parts that were last written before hold nothing of it.
    """

    def __init__(self, file: LogFile, run_id: str, since: datetime | None = None) -> None:
        self._file = file
        self._since = since.timestamp() - _CLOCK_STEP if since else 0.0
        self._run_id = run_id
        self._needle = json.dumps(run_id).encode()
        self._current: BinaryIO | None = None
        self._rest = b""

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """What was written since the last call. Raises StorageError."""
        try:
            newer = self._open_newer_parts()
        except FileNotFoundError:
            return  # nothing was ever logged
        except OSError as error:
            raise storage_error(error, self._file.path) from error
        # The part that was open is read to its end first; its open file stays, whatever its name is by now.
        yield from self._lines()
        for opened in newer:
            self.close()
            self._current, self._rest = opened, b""
            yield from self._lines()

    def follow(self, ended: Callable[[], bool], pause: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """Lines as they come, until the run has ended and its last line was handed out."""
        while True:
            last = ended()
            yield from self.new_lines()
            if last:
                return
            pause()

    def close(self) -> None:
        """Close the part that is open."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _open_newer_parts(self) -> list[BinaryIO]:
        with self._file.locked():  # no rotation between looking and opening
            parts = self._file.parts()
            if self._current is not None:
                mine = os.fstat(self._current.fileno())
                here = [at for at, path in enumerate(parts) if os.path.samestat(path.stat(), mine)]
                # When so much was written meanwhile that the open part is gone, every part is newer.
                parts = parts[here[0] + 1 :] if here else parts
            else:
                parts = [path for path in parts if path.stat().st_mtime >= self._since]
            return [path.open("rb") for path in parts]

    def _lines(self) -> Iterator[dict[str, Any]]:
        while self._current is not None and (chunk := self._current.read(_CHUNK)):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for line in whole:
                if self._needle in line and (entry := _parsed(line)) and entry.get("run") == self._run_id:
                    yield entry


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        if _HALF_CHARACTER.search(line):
            entry = json.loads(json.dumps(entry, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
