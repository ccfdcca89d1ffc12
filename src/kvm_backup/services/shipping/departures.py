"""What waits to be shipped from this host, and the runs that ship it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NoReturn

from kvm_backup.database.history import History
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Run, RunKind, Trigger
from kvm_backup.domain.task import ShipTask
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.prune import VmPoints, points_in
from kvm_backup.services.requests import Asker
from kvm_backup.services.shipping.images_back import images_are_back
from kvm_backup.services.shipping.lack import Lack, lacks_nothing
from kvm_backup.services.shipping.ship import ShipService

AUTOMATIC = Asker(Trigger.SERVICE)
Problem = Callable[[KvmBackupError], None]
"""Gets what hides something from who looks for what waits."""
Hidden = Callable[[str, KvmBackupError], None]
"""The same, with the name of the remote for which nobody knows what waits."""


def _ignore(_error: KvmBackupError) -> None:
    """For who has told it already."""


def _refuse(_remote: str, error: KvmBackupError) -> NoReturn:
    """For who must know all of it."""
    raise error


@dataclass(frozen=True, slots=True)
class Departure:
    """Points of one VM that wait for one remote, or cannot be shipped there. `run` is the one that ships them, where
    one waits or goes on. `unsure`: nobody has made sure of what is there. `unsettled`: images here are to be looked
    at again, whether they may go or are back.
    """

    remote: str
    points: VmPoints
    lack: Lack
    run: Run | None = None
    unsure: bool = False
    unsettled: bool = False

    @property
    def lacks_points(self) -> bool:
        """Whether something is to be sent, or cannot be."""
        return bool(self.lack.to_ship or self.lack.stuck)

    @property
    def wants_run(self) -> bool:
        """Whether there is something to send, or only what cannot be, as far as anybody has made sure; or images to
        look at, which the end of each run does."""
        return bool(self.lack.to_ship) or (self.unsure and bool(self.lack.stuck)) or self.unsettled


@dataclass(frozen=True, slots=True)
class Departures:
    """Looks at a host's local repositories and the mirrors of their remotes; connects to nobody.

    `locals` gives the names of the repositories that have remotes; `remotes_of` gets a local repository's name and a
    VM's points and gives the names of the remotes that these go to; `service` makes what ships to a remote, and
    `shipment` the request for a run that ships a VM to one.
    """

    host: str
    locals: Callable[[], Iterable[str]]
    open_repository: Callable[[str], LocalRepository]
    remotes_of: Callable[[str, VmPoints], list[str]]
    service: Callable[[str], ShipService]
    shipment: Callable[[VmPoints, str, Asker], RunRequest]
    history: Callable[[], History]

    def one_look(self) -> "Departures":
        """The same for one look at many VMs: each repository and each remote is opened once."""
        return replace(self, open_repository=cache(self.open_repository), service=cache(self.service))

    def of_vm(self, local: str, points: VmPoints, hidden: Hidden = _refuse) -> list[Departure]:
        """What waits of one VM, by remote; `hidden` gets the remotes of which that cannot be told, where others may
        do without. Raises KvmBackupError.
        """
        if points.vm_uuid is None:
            return []
        found: list[Departure] = []
        remotes = self.remotes_of(local, points)
        back = bool(remotes) and images_are_back(self.open_repository(local), points.folder.name)
        for remote in remotes:
            try:
                # One run looks at the images, whichever it is.
                found += self._to(remote, points, back=back and remote == remotes[0])
            except KvmBackupError as error:
                hidden(remote, error)
        return found

    def of_folder(self, local: str, folder: str, hidden: Hidden = _refuse) -> list[Departure]:
        """The same by the name of the VM's folder. Raises KvmBackupError."""
        return self.of_vm(local, points_in(self.open_repository(local), folder), hidden)

    def folders(self, problem: Problem = _ignore) -> Iterator[tuple[str, str]]:
        """Each local repository that has remotes, with each VM's folder in it; one that is away has none."""
        for name in self.locals():
            try:
                folders = [folder.name for folder in self.open_repository(name).folders()]
            except KvmBackupError as error:
                problem(error)
                continue
            yield from ((name, folder) for folder in folders)

    def waiting(self, points: VmPoints, local: str) -> dict[str, str]:
        """The ids of a VM's points that wait, each with the names of the remotes, for retention."""
        found: dict[str, list[str]] = {}
        for departure in self.of_vm(local, points):
            for one in departure.lack.to_ship:
                found.setdefault(one.manifest.id, []).append(departure.remote)
        return {point: ", ".join(remotes) for point, remotes in found.items()}

    def unshippable(self, points: VmPoints, local: str) -> frozenset[str]:
        """The ids of a VM's points that a remote cannot get, of each remote of which somebody has made sure what it
        holds, and of which that can be told. Raises KvmBackupError.
        """
        found = self.of_vm(local, points, lambda _remote, _error: None)
        return frozenset(point for one in found if not one.unsure for point in one.lack.stuck)

    def closed(self, points: VmPoints, local: str) -> frozenset[str]:
        """The ids of a VM's points that a remote holds encrypted for none of today's recipients. Raises
        KvmBackupError.
        """
        found: set[str] = set()
        for remote in self.remotes_of(local, points) if points.vm_uuid is not None else ():
            found |= self.service(remote).closed(points)
        return frozenset(found)

    def all(self, problem: Problem = _ignore) -> list[Departure]:
        """What waits on this host, with the runs that are to ship it; `problem` gets what hid the rest.

        Raises DatabaseError.
        """
        found = list(self.one_look()._everything(problem))
        runs = _by_place(self.history().unfinished_of(self.host)) if found else {}
        return [replace(one, run=runs.get((one.remote, one.points.folder.name))) for one in found]

    def requests(self, departures: Iterable[Departure], asker: Asker = AUTOMATIC) -> list[RunRequest]:
        """Runs for what waits and has none yet. Raises DatabaseError."""
        wanted = [one for one in departures if one.wants_run]
        if not wanted:
            return []
        vms = {name for one in wanted for name in (one.points.vm, one.points.vm_uuid) if name}
        runs = _by_place(self.history().unfinished_among(self.host, vms))
        return [
            self.request(one.remote, one.points, asker)
            for one in wanted
            if (one.remote, one.points.folder.name) not in runs
        ]

    def request(self, remote: str, points: VmPoints, asker: Asker = AUTOMATIC) -> RunRequest:
        """A run that ships a VM to a remote."""
        return self.shipment(points, remote, asker)

    def _to(self, remote: str, points: VmPoints, *, back: bool) -> Iterator[Departure]:
        service = self.service(remote)
        folder = points.folder.name
        lack = Lack() if lacks_nothing(service.local, service.mirror.repository, folder) else service.lack(points)
        unsure, unsettled = service.mirror.compared is None, back or service.mirror.unsettled.holds(folder)
        found = Departure(remote, points, lack, unsure=unsure, unsettled=unsettled)
        if found.lacks_points or unsettled:
            yield found

    def _everything(self, problem: Problem) -> Iterator[Departure]:
        for name, folder in self.folders(problem):
            try:
                yield from self.of_folder(name, folder, lambda _remote, error: problem(error))
            except KvmBackupError as error:
                problem(error)  # the others must not wait for it


def _by_place(runs: Iterable[Run]) -> dict[tuple[str, str], Run]:
    return {
        (run.repository, run.task.folder): run
        for run in runs
        if run.kind is RunKind.SHIP and isinstance(run.task, ShipTask)
    }
