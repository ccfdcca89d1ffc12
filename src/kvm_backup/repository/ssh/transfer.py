"""rsync over the shared connection: files up and down, with progress, a limit on the rate, and an end on request.

Images are compressed already, so nothing is compressed on the wire. What was sent stays on the other side when the
link breaks; the caller says how rsync takes it up again.
"""

import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from kvm_backup import process
from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.process import Completed
from kvm_backup.repository.ssh.connection import SshConnection
from kvm_backup.repository.ssh.failures import (
    FolderMissingError,
    NoisyError,
    Side,
    local_failure,
    noisy,
    stands_still,
)
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.token import new_token

_COMMON = ("--recursive", "--times", "--no-human-readable", "--info=progress2,stats2", "--outbuf=N")
_FIGURE = re.compile(r"^(Total bytes sent|Total bytes received|Literal data|Matched data): ([0-9]+)", re.MULTILINE)
_PROGRESS = re.compile(r"^ *([0-9]+) +[0-9]{1,3}% ")

SILENCE = 300
"""Seconds in which nothing may come or go before a transfer is given up: ssh knows that the server is there, not that
its rsync works. Nor does our rsync quite: there it is two processes, and one of them sends signs of life while the
other one, which writes, stands still. So what is sent is watched here, too."""
_MARGIN = 10
"""Seconds more until we end it ourselves: where rsync finds it out, it tells more."""
_SLOWEST = 10 << 20
"""Bytes a second that a disk reads at least: while rsync takes checksums or copies what is there, it says nothing."""
_READING = re.compile(r"--(checksum|no-whole-file|(copy|compare|link)-dest=.*)")
_LIST_FORMAT = "%M %n"
_LISTED = re.compile(r"([0-9/]{10}-[0-9:]{8}) (.+)")


class Watch(Protocol):
    """The caller's eye and hand on a transfer."""

    def reached(self, total: int) -> None:
        """Told how many bytes of all the files are dealt with, those that were there already included."""

    def check(self) -> None:
        """Called several times a second, also while nothing moves; raises to stop the transfer."""


class NoWatch:
    """Nobody watches."""

    def reached(self, total: int) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What crossed the wire, in bytes, as rsync counts it; `matched` was on the other side already."""

    sent: int = 0
    received: int = 0
    literal: int = 0
    matched: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(
            self.sent + other.sent,
            self.received + other.received,
            self.literal + other.literal,
            self.matched + other.matched,
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A file or folder (its name ends with a slash) below the folder that was listed, and when it was written to, by
    the server's clock."""

    name: str
    modified: datetime


class Progress:
    """Reads rsync's --info=progress2 from text that comes in pieces."""

    def __init__(self, reached: Callable[[int], None]) -> None:
        self._reached = reached
        self._rest = ""

    def heard(self, text: str) -> None:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        self._rest = self._rest[-4096:]
        for line in lines:
            if found := _PROGRESS.match(line):
                self._reached(int(found[1]))


class _Stillness:
    """Ends what goes on when nothing was heard for `seconds`."""

    def __init__(self, seconds: float, error: Callable[[], KvmBackupError]) -> None:
        self._seconds = seconds
        self._error = error
        self._heard = time.monotonic()

    def heard(self) -> None:
        self._heard = time.monotonic()

    def check(self) -> None:
        """Raises the error."""
        if time.monotonic() - self._heard > self._seconds:
            raise self._error()


class _RateChangedError(Exception):
    """Another limit holds from now on."""


class Transfer:
    """Moves files over one connection. `now` tells the time in the zone of the plan's hours, `token` is as of
    `Remote`."""

    def __init__(
        self,
        connection: SshConnection,
        *,
        plan: BandwidthPlan | None = None,
        now: Callable[[], datetime] = datetime.now,
        watch: Watch | None = None,
        token: str | None = None,
    ) -> None:
        self.connection = connection
        self._token = token or new_token()
        self._plan = plan or BandwidthPlan()
        self._now = now
        self.watch: Watch = watch or NoWatch()

    def incoming(self, stamp: str) -> str:
        """The name of the hidden folder in which a point arrives on the server."""
        return f"{INCOMING_PREFIX}{stamp}-{self._token}"

    def up(self, source: Path, target: str, *options: str) -> Moved:
        """Send what is in the folder `source` to the folder `target` on the server.

        Raises RemoteUnreachableError and its like, NoSpaceError, PointChangedError when files go away here,
        StorageError when they cannot be read or written here, and what the watch raises.
        """
        places = [f"{source}/", self.connection.address.rsync_place(f"{target.rstrip('/')}/")]
        return self._move(places, options, Side.SENDER, source)

    def down(self, source: str, target: Path, *options: str) -> Moved:
        """Fetch what is in the folder `source` on the server to the folder `target`. Raises as `up`."""
        return self._move(
            [self.connection.address.rsync_place(f"{source.rstrip('/')}/"), f"{target}/"], options, Side.RECEIVER
        )

    def differing(self, source: Path, target: str, *options: str) -> list[str]:
        """Files of `source` that rsync would send to the server's folder, and does not; their paths below `source`.

        With "--checksum" both sides read all of their files. Raises as `up`.
        """
        places = [f"{source}/", self.connection.address.rsync_place(f"{target.rstrip('/')}/")]
        words = ["--recursive", "--dry-run", "--out-format=%n", *options]
        stillness = self._stillness(words, source)

        def look() -> None:
            self.watch.check()
            stillness.check()

        done = process.follow(
            self._rsync(words, places, source), heard=lambda _: stillness.heard(), meanwhile=look, own_session=True
        )
        self._judge(done, Side.SENDER)
        return [line for line in done.stdout.splitlines() if line and not line.endswith("/")]

    def listed(self, source: str, *options: str) -> list[Listed]:
        """What the server's folder `source` holds, of what the options let through; nothing when it is missing.

        Raises as `up`.
        """
        words = ["--recursive", "--dry-run", f"--out-format={_LIST_FORMAT}", *options]
        with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as nothing:
            places = [self.connection.address.rsync_place(f"{source.rstrip('/')}/"), f"{nothing}/"]
            said: list[str] = []
            done = process.follow(
                self._rsync(words, places), heard=said.append, meanwhile=self.watch.check, own_session=True
            )
        try:
            self._judge(done, Side.RECEIVER)
        except FolderMissingError:
            return []
        return [
            Listed(found[2], datetime.strptime(found[1], "%Y/%m/%d-%H:%M:%S").astimezone())
            for found in map(_LISTED.fullmatch, "".join(said).splitlines())
            if found
        ]

    def _move(self, places: Sequence[str], options: Sequence[str], here: Side, source: Path | None = None) -> Moved:
        while True:
            limit = self._plan.limit_at(self._now())
            words = [*_COMMON, *options]
            if limit is not None:
                # Its unit is KiB; 0 would mean no limit.
                words.append(f"--bwlimit={max(1, limit // 1024)}")
            stillness, progress = self._stillness(words, source), Progress(self.watch.reached)

            def heard(text: str, stillness: _Stillness = stillness, progress: Progress = progress) -> None:
                stillness.heard()
                progress.heard(text)

            with suppress(_RateChangedError):
                done = process.follow(
                    self._rsync(words, places, source),
                    heard=heard,
                    meanwhile=partial(self._look, limit, stillness),
                    own_session=True,
                )
                self._judge(done, here)
                return figures(done.stdout)

    def _look(self, limit: int | None, stillness: _Stillness) -> None:
        self.watch.check()
        stillness.check()
        if self._plan.limit_at(self._now()) != limit:
            raise _RateChangedError

    def _rsync(self, words: Sequence[str], places: Sequence[str], source: Path | None = None) -> list[str]:
        silence = _silence(words, source)
        return ["rsync", *words, f"--timeout={silence}", "-e", self.connection.rsync_shell, "--", *places]

    def _stillness(self, words: Sequence[str], source: Path | None) -> _Stillness:
        """Of what is sent. What is fetched only one process sends there, and our rsync notices that it does not."""
        seconds = math.inf if source is None else _silence(words, source) + _MARGIN
        return _Stillness(seconds, lambda: stands_still(str(self.connection.address), int(seconds)))

    def _judge(self, done: Completed, here: Side) -> None:
        if done.status == 0:
            return
        error = local_failure(here, done) or self.connection.failure(done)
        if isinstance(error, NoisyError) and (said := self.connection.said_by_itself()):
            raise noisy(self.connection.address, said)
        raise error


def _silence(words: Sequence[str], source: Path | None) -> int:
    """How long rsync may be silent, in seconds, when it is called with these words on what `source` holds."""
    reads = source is not None and any(map(_READING.fullmatch, words))
    return SILENCE + (_size(source) // _SLOWEST if source is not None and reads else 0)


def _size(folder: Path) -> int:
    """Bytes of its files; what cannot be looked at, rsync complains of."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def figures(stats: str) -> Moved:
    """What rsync's --stats counted; zeros where it says nothing."""
    found = {name: int(value) for name, value in _FIGURE.findall(stats)}
    return Moved(
        found.get("Total bytes sent", 0),
        found.get("Total bytes received", 0),
        found.get("Literal data", 0),
        found.get("Matched data", 0),
    )
