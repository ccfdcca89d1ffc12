"""What pages and alerts know of points on their way to other servers. Pure; times in UTC, sizes in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

LATE_AFTER = timedelta(hours=24)
"""How long a point may wait before somebody is told, whatever the cause."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Points of one VM, in its `folder`, that wait for one remote: since when each was seen to, by its id.

    A point that is older than the remote waits since the remote was there, not since it was made.
    """

    remote: str
    folder: str
    vm_name: str
    vm_uuid: str
    bytes: int
    points: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str]:
        """What tells it from all others of a host."""
        return self.remote, self.folder

    @property
    def since(self) -> datetime:
        """When the first of the points that still wait was seen to wait."""
        return min(self.points.values())


@dataclass(frozen=True, slots=True)
class WaitingSum:
    """All that waits for one remote. `since` is None where nothing does."""

    vms: int = 0
    points: int = 0
    bytes: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unshippable:
    """Points of one VM, in its `folder`, that one remote cannot get: what they build on is neither there nor here
    with its images. `points` are ids, oldest first.

    `unsure`: nobody has made sure of what is there; the next shipment does. Otherwise `next_full` tells whether the
    newest point is one of them, so that the next backup of the VM is a full one.
    """

    remote: str
    folder: str
    vm_name: str
    vm_uuid: str
    points: tuple[str, ...]
    next_full: bool = False
    unsure: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """What tells it from all others of a host."""
        return self.remote, self.folder


@dataclass(frozen=True, slots=True)
class UnshippableSum:
    """All that one remote cannot get. `full_vms` counts the VMs whose next backup is a full one for that reason, with
    `full_points` of theirs; `names` are some of these VMs, by name.
    """

    vms: int = 0
    points: int = 0
    full_vms: int = 0
    full_points: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """A remote as it was last known: what it holds by its mirror, and when a point last arrived there."""

    remote: str
    points: int = 0
    bytes: int = 0
    vms: int = 0
    shipped_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShippingTrouble:
    """Why runs that ship to a remote are tried again: the cause of those that wait for their next try.

    `failures` counts their attempts; `run` is one of them.
    """

    remote: str
    run: str
    error: str
    error_code: str
    hint: str
    runs: int
    failures: int
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True)
class RemoteState:
    """A remote that points are shipped to, as alerts judge it. `late`: one waits longer than `LATE_AFTER`."""

    name: str
    waiting: WaitingSum
    late: bool = False
    trouble: ShippingTrouble | None = None
    unshippable: UnshippableSum = field(default_factory=UnshippableSum)


def is_late(waiting: WaitingSum, now: datetime) -> bool:
    """Whether a point waits for too long."""
    return waiting.since is not None and now - waiting.since > LATE_AFTER


NEEDS_SOMEBODY = frozenset(
    {
        "host-key",
        "remote-access",
        "remote-setup",
        "encryption-key",
        "repository-format",
        "repository-not-found",
        "tool-missing",
    }
)
"""Codes of errors that time does not mend: a key was refused or has changed, something is missing there."""
_WORST_FIRST = ("host-key", "remote-access")


def worst(troubles: list[ShippingTrouble]) -> ShippingTrouble:
    """The one to tell of several: what needs somebody before what may pass, then what most runs met."""
    order = {code: place for place, code in enumerate(_WORST_FIRST)}
    return min(
        troubles,
        key=lambda one: (
            order.get(one.error_code, len(order)),
            one.error_code not in NEEDS_SOMEBODY,
            -one.runs,
            one.error_code,
        ),
    )
