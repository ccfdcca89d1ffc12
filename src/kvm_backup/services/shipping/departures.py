"""What waits to be shipped from this host, and the runs that ship it."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from kvm_backup.database.history import History
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.request import RunRequest, asked_run_id
from kvm_backup.domain.run import Run, RunKind, Trigger
from kvm_backup.domain.task import ShipTask
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.prune import VmPoints, points_in
from kvm_backup.services.requests import Asker
from kvm_backup.services.shipping.lack import Lack, lacks_nothing
from kvm_backup.services.shipping.ship import ShipService

AUTOMATIC = Asker(Trigger.SERVICE)
Problem = Callable[[KvmBackupError], None]
"""Gets what hides something from who looks for what waits."""


def _ignore(_error: KvmBackupError) -> None:
    """For who has told it already."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Points of one VM that wait for one remote, or cannot be shipped there. `run` is the one that ships them, where
    one waits or goes on. `unsure`: nobody has made sure of what is there.
    """

    remote: str
    points: VmPoints
    lack: Lack
    run: Run | None = None
    unsure: bool = False

    @property
    def wants_run(self) -> bool:
        """Whether there is something to send; or only what cannot be, as far as anybody has made sure."""
        return bool(self.lack.to_ship) or (self.unsure and bool(self.lack.stuck))


@dataclass(frozen=True, slots=True)
class Departures:
    """Looks at a host's local repositories and the mirrors of their remotes; connects to nobody.

    `locals` gives the names of the repositories that have remotes; `remotes_of` gets a local repository's name and a
    VM's points and gives the names of the remotes that these go to; `service` makes what ships to a remote.
    """

    host: str
    clock: Callable[[], datetime]
    locals: Callable[[], Iterable[str]]
    open_repository: Callable[[str], LocalRepository]
    remotes_of: Callable[[str, VmPoints], list[str]]
    service: Callable[[str], ShipService]
    history: Callable[[], History]

    def of_vm(self, local: str, points: VmPoints) -> list[Departure]:
        """What waits of one VM, by remote. Raises KvmBackupError."""
        if points.vm_uuid is None:
            return []
        found = []
        for remote in self.remotes_of(local, points):
            service = self.service(remote)
            if not lacks_nothing(service.local, service.mirror.repository, points.folder.name):
                lack = service.lack(points)
                if lack.to_ship or lack.stuck:
                    found.append(Departure(remote, points, lack, unsure=service.mirror.compared is None))
        return found

    def of_folder(self, local: str, folder: str) -> list[Departure]:
        """The same by the name of the VM's folder. Raises KvmBackupError."""
        return self.of_vm(local, points_in(self.open_repository(local), folder))

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

    def all(self, problem: Problem = _ignore) -> list[Departure]:
        """What waits on this host, with the runs that are to ship it; `problem` gets what hid the rest.

        Raises DatabaseError.
        """
        found = list(self._everything(problem))
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
        now = self.clock()
        return RunRequest(
            run_id=asked_run_id(now, secrets.token_bytes),
            host=self.host,
            vm=points.vm,
            task=ShipTask(points.folder.name),
            repository=remote,
            trigger=asker.trigger,
            created=now,
            vm_uuid=points.vm_uuid,
            asked_by=asker.user,
        )

    def _everything(self, problem: Problem) -> Iterator[Departure]:
        for name, folder in self.folders(problem):
            try:
                yield from self.of_folder(name, folder)
            except KvmBackupError as error:
                problem(error)  # the others must not wait for it


def _by_place(runs: Iterable[Run]) -> dict[tuple[str, str], Run]:
    return {
        (run.repository, run.task.folder): run
        for run in runs
        if run.kind is RunKind.SHIP and isinstance(run.task, ShipTask)
    }
