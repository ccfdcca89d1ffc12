"""What runs read points from: a repository on this host, or by way of `RemoteStore` one on another server."""

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kvm_backup.domain.errors import PointElsewhereError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services import events
from kvm_backup.services.control import RunControl, SpaceWatch
from kvm_backup.services.verify import Verdict, verify_points

Points = Sequence[Manifest | DamagedPoint]


@dataclass(frozen=True, slots=True)
class Errand:
    """A run that reads. `vm` is the name that its events have; `goes_on` tells of one that is stopped whether it is
    taken up again later, as when the service ends."""

    vm: str
    listener: events.Listener
    stop_requested: Callable[[], bool]
    goes_on: Callable[[], bool] = lambda: False

    def control(self, step: events.Step, total: int, *watches: SpaceWatch) -> RunControl:
        """What stops it, and tells how far it is of so many bytes."""
        return RunControl(
            stop_requested=self.stop_requested,
            watches=watches,
            on_progress=lambda done, of: self.listener(events.Progress(self.vm, step, done, of)),
            total=total,
        )


class Store(Protocol):
    """A repository that can be read, wherever it is."""

    @property
    def view(self) -> LocalRepository:
        """What it is known to hold. Of a store that is `far`, manifests only, as they were last read."""

    @property
    def far(self) -> bool:
        """Whether reading from it takes a connection, and time."""

    @property
    def read(self) -> datetime | None:
        """When a store that is far was last read; None when its points are known because this host shipped them."""

    @property
    def foreign(self) -> Container[str]:
        """Which ids of points that are there this host, which ships there, has not brought, or has removed by
        the rule since and finds back. Raises StorageError."""

    def place_of(self, point_id: str) -> str:
        """Where a point lies, for people. Raises PointNotFoundError for what is no id."""

    def holding(self, point: Manifest, errand: Errand) -> AbstractContextManager[LocalRepository]:
        """While the block lasts, a repository on this host with all files that restoring the point takes.

        Raises BrokenChainError and, when it is far, what `RemoteStore.holding` tells.
        """

    def verify(
        self, points: Points, errand: Errand, *, hypervisor: Callable[[], Hypervisor], deep: bool
    ) -> Iterator[Verdict]:
        """A verdict on each point, as of `verify_points`, telling how far it is."""

    def mend(self, damaged: Sequence[Verdict], errand: Errand) -> list[str]:
        """See to it that points of these verdicts, which are whole elsewhere, are brought here again: the ids of
        those that will be. Raises KvmBackupError."""


def unnamed_hint(names: Sequence[str]) -> str:
    """What helps when images are only at remotes with names that are not in the settings."""
    return phrase(
        "The settings name no repository {names}. Add it again: kvm-backup repository add {name} ssh://… Should it"
        " have another name now: kvm-backup repository rescan, then --repository, with that name.",
        names=", ".join(names),
        name=names[0],
    )


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A repository on this host. `remotes` are the names of those that the settings know."""

    view: LocalRepository
    remotes: frozenset[str] = frozenset()
    far: bool = False
    read: datetime | None = None
    foreign: frozenset[str] = frozenset()

    def place_of(self, point_id: str) -> str:
        return str(self.view.path_of(point_id))

    @contextmanager
    def holding(self, point: Manifest, errand: Errand) -> Iterator[LocalRepository]:  # noqa: ARG002 - they are here
        """Raises PointElsewhereError for what the block misses here, with where it is to be had."""
        try:
            yield self.view
        except PointElsewhereError as error:
            raise PointElsewhereError(error.message, hint=self._way_to(point) or error.hint, vm=error.vm) from error

    def _way_to(self, point: Manifest) -> str | None:
        """What helps when images of a point are only at remotes of which some are not in the settings."""
        marks = [set(names) for link in self.view.chain(point) if (names := self.view.elsewhere(link.id))]
        if not marks:
            return None
        if unknown := next((names for names in marks if not names & self.remotes), None):
            return unnamed_hint(sorted(unknown))
        known = sorted(set.intersection(*marks) & self.remotes)
        return phrase("Restore it from there: add --repository {name}.", name=known[0]) if known else None

    def verify(
        self, points: Points, errand: Errand, *, hypervisor: Callable[[], Hypervisor], deep: bool
    ) -> Iterator[Verdict]:
        here = [point for point in points if isinstance(point, Manifest) and self.view.elsewhere(point.id) is None]
        total = sum(disk.bytes_stored for point in here for disk in point.disks)
        control = errand.control(events.Step.VERIFY, total * (2 if deep else 1))
        yield from verify_points(
            self.view, points, hypervisor=hypervisor, deep=deep, control=control, remotes=self.remotes
        )
        control.finish()

    def mend(self, damaged: Sequence[Verdict], errand: Errand) -> list[str]:  # noqa: ARG002 - nothing is brought here
        return []
