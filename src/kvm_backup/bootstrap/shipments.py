"""The runs that ship what waits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvm_backup.domain.errors import KvmBackupError, PointNotFoundError
from kvm_backup.domain.phrase import phrase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvm_backup.bootstrap.shipping import Shipping
    from kvm_backup.domain.request import RunRequest
    from kvm_backup.services.requests import Asker
    from kvm_backup.services.shipping.departures import Departure

_SHIPPED_AT_ONCE = 500
"""How many VMs one wish to ship everything now takes on; the others follow by themselves."""


@dataclass(frozen=True, slots=True)
class Shipments:
    """Finds what waits, at once or after other runs, and makes requests for it; `RunQueue` takes these."""

    shipping: Shipping

    def everything_that_waits(
        self, problem: Callable[[KvmBackupError], None] = lambda _error: None
    ) -> list[Departure]:
        """`problem` gets what hid the rest. Raises DatabaseError."""
        return self.shipping.departures.all(problem) if self.shipping.remotes else []

    def unasked(self, say: Callable[[str], None] = lambda _text: None) -> list[RunRequest]:
        """Runs for all that waits and has none, which is noted for the pages. What hides some of it is said once.

        Raises DatabaseError.
        """
        problems: list[KvmBackupError] = []
        found = self.shipping.departures.requests(self.shipping.facts.look_through(problems.append))
        texts = dict.fromkeys(f"shipping: {error.message}. {error.hint}" for error in problems)
        for text in texts:
            if text not in self.shipping.facts.told:
                say(text)
        self.shipping.facts.told = frozenset(texts)
        return found

    def after(
        self, request: RunRequest, problem: Callable[[KvmBackupError], None] = lambda _error: None
    ) -> list[RunRequest]:
        """The runs that ship what a run made or changed, or found damaged there, as far as none waits or goes on yet.

        `problem` gets what hid some of it, which the look at everything finds. Raises KvmBackupError.
        """
        from kvm_backup.domain.run import RunKind
        from kvm_backup.domain.task import VerifyTask
        from kvm_backup.services.prune import points_in, points_of

        def hidden(_remote: str, error: KvmBackupError) -> None:
            problem(error)

        if isinstance(request.task, VerifyTask):
            there = self.shipping.remotes.get(request.repository)
            if there is None or there.of is None:
                return []
            points = points_in(self.shipping.parts.repository(there.of), request.task.folder)
            found = self.shipping.departures.of_vm(there.of, points, hidden)
            return self.shipping.departures.requests(one for one in found if one.remote == request.repository)
        copied = {remote.of for remote in self.shipping.remotes.values()}
        if request.kind not in (RunKind.BACKUP, RunKind.PRUNE) or request.repository not in copied:
            return []
        if request.vm_uuid is None:
            vm = self.shipping.parts.hypervisor.vm(request.vm)
            name, uuid = vm.name, vm.uuid
        else:
            name, uuid = request.vm, request.vm_uuid
        made = points_of(self.shipping.parts.repository(request.repository), name, uuid)
        if made is None:
            return []
        return self.shipping.departures.requests(self.shipping.departures.of_vm(request.repository, made, hidden))

    def after_all(self, requests: Iterable[RunRequest]) -> list[RunRequest]:
        """The same after several runs in this process; none while the service runs, which sees to it by itself.

        What cannot be found out now waits for the next backup, or the service: no backup fails for it.
        """
        found: list[RunRequest] = []
        if self.shipping.remotes and not self.shipping.parts.service_runs():
            for request in requests:
                with suppress(KvmBackupError):
                    found += self.after(request)
        return found

    def wanted_now(self, name: str, folder: str | None, asker: Asker) -> list[RunRequest]:
        """Requests for what is known to wait for a remote: of one VM by its folder, or of those that wait longest.

        Raises RepositoryNotFoundError, PointNotFoundError when nothing of it waits.
        """
        from kvm_backup.services.prune import points_in

        remote = self.shipping.remote(name)
        store = self.shipping.facts.store
        lines = store.page(remote=name, limit=_SHIPPED_AT_ONCE) if folder is None else [store.get(name, folder)]
        places = [line.folder for line in lines if line is not None]
        if remote.of is None or not places:
            raise PointNotFoundError(
                phrase("nothing waits to be shipped to {name}", name=name),
                hint=phrase("It may have arrived meanwhile: the page of repositories shows it."),
            )
        local = self.shipping.parts.repository(remote.of)
        return [self.shipping.departures.request(name, points_in(local, place), asker) for place in places]

    def knows_vm(self, name: str) -> bool:
        """Whether a repository that is shipped holds points of this VM, by its name, UUID or folder."""
        from kvm_backup.repository.lookup import folders_of_vm

        return any(
            folders_of_vm(self.shipping.parts.repository(local), name) for local in self.shipping.departures.locals()
        )

    def revision(self) -> object:
        """What differs once something else is shipped, or to somewhere else."""
        schedules, _problem = self.shipping.parts.schedule_file.read_or_last_good()
        return (
            sorted((name, remote.url, remote.of) for name, remote in self.shipping.remotes.items()),
            {name: own.ship_to for name, own in self.shipping.parts.settings.vm.items()},
            [(one.repository, one.vm_names, one.ship_to) for one in schedules if one.ship_to is not None],
        )
