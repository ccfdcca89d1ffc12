"""What a backup of one VM may vary in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """Times in seconds, sizes in bytes. `freeze_timeout` None leaves the file systems alone.

    `longest_chain`, in points, is for chains that cannot be consolidated, because images of them are elsewhere.
    `remotes` are the names of those that the settings know; `unshippable` are ids of points that one of them cannot
    get, nor what builds on them; `closed` of those that one of them holds encrypted for none of today's recipients.
    """

    freeze_timeout: float | None
    compression_level: int
    space_reserve: int
    lock_wait: float
    excluded_disks: frozenset[str]
    snapshots_kept: int
    longest_chain: int
    remotes: frozenset[str]
    unshippable: frozenset[str]
    closed: frozenset[str]
