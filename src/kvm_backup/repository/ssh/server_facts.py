"""What a server tells of itself to an account with a shell: its rsync, and the room where the repository is."""

import re
from dataclasses import dataclass

from kvm_backup.repository.ssh.transfer import Transfer

_ASK = """
rsync --version 2>/dev/null | head -n 1
df -Pk -- "$1" 2>/dev/null | tail -n 1
"""
_SECONDS = 120.0
_VERSION = re.compile(r"rsync +version +v?([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})\b")
_DF = re.compile(r"\s([0-9]{1,18}) +[0-9]{1,18} +(-?[0-9]{1,18}) +[0-9]{1,3}% ")
"""df -P: blocks of a KiB in all, used, free, then how full it is."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`rsync` is a version such as 3.2.7; `free` and `total` are bytes of the file system. None: it was not told."""

    rsync: str | None
    free: int | None
    total: int | None


def ask(transfer: Transfer) -> ServerFacts:
    """Raises RemoteUnreachableError and its like, and what the transfer's watch raises."""
    connection = transfer.connection
    said = connection.run(_ASK, connection.address.path, watch=transfer.watch.check, timeout=_SECONDS).stdout
    room = _DF.search(said)
    return ServerFacts(
        rsync=version_of_rsync(said),
        free=max(0, int(room[2])) * 1024 if room else None,
        total=int(room[1]) * 1024 if room else None,
    )


def version_of_rsync(said: str) -> str | None:
    """The version in what `rsync --version` prints; None where there is none."""
    found = _VERSION.search(said)
    return found[1] if found else None
