"""What runs do that are no backups: verify, restore, prune. Backups: backup.py."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError
from kvm_backup.domain.phrase import phrase, sentences
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.sizes import show_size
from kvm_backup.domain.task import PruneTask, RestoreTask, ShipTask, VerifyTask
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import DamagedPoint
from kvm_backup.services import events
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.prune import Pruned, VmPoints, points_in
from kvm_backup.services.restore_task import Restorer, agreed_before
from kvm_backup.services.shipping.ship import ShipService
from kvm_backup.services.stores.store import Errand, Store
from kvm_backup.services.verify import Verdict, chain_of

Outcome = tuple[events.Finished, KvmBackupError | None]
Wish = Callable[[], bool]

_NAMED = 3
"""How many damaged points a message names."""


class Pruner(Protocol):
    """What prunes the VMs of one repository."""

    def run(self, wanted: VmPoints, *, dry_run: bool = False) -> Pruned:
        """Prune one VM; a dry run changes nothing."""


@dataclass(frozen=True, slots=True)
class TaskService:
    """Does the tasks of runs. `hypervisor` connects to libvirt; `lock_wait` is in seconds.

    `prune_service` takes a repository's name, a listener and the wish to stop, `ship_service` the same for a remote.
    `goes_on` tells, of a run that is stopped, whether it is taken up again later.
    """

    open_store: Callable[[str], Store]
    hypervisor: Callable[[], Hypervisor]
    prune_service: Callable[[str, events.Listener, Wish], Pruner]
    ship_service: Callable[[str, events.Listener, Wish], ShipService]
    locks: Callable[[], Path]
    lock_wait: float
    goes_on: Wish = lambda: False

    def run(
        self,
        request: RunRequest,
        listener: events.Listener,
        stop_requested: Wish,
        *,
        again: bool = False,
        confirm: Callable[[str], bool] = agreed_before,
    ) -> Outcome:
        """Do what is asked. What goes wrong is not raised but returned, and told in the last event.

        `again` says that an earlier attempt has begun, and may have been killed. `confirm` is asked before a restore
        in place.
        """
        began = time.monotonic()
        listener(events.Started(request.vm, None, request.repository, request.kind.value))
        error: KvmBackupError | None = None
        try:
            refuse_when_stopped(stop_requested)
            finished, error = self._do(request, listener, stop_requested, again, confirm)
        except KvmBackupError as problem:
            error = problem
            finished = events.failed(request.vm, None, error, 0.0)
        except Exception as problem:  # noqa: BLE001 - the run ends with a record of it, and other runs go on
            error = events.unexpected(problem)
            finished = events.failed(request.vm, None, error, 0.0)
        finished = replace(finished, seconds=time.monotonic() - began)
        listener(finished)
        return finished, error

    def _do(
        self,
        request: RunRequest,
        listener: events.Listener,
        stop_requested: Wish,
        again: bool,
        confirm: Callable[[str], bool],
    ) -> Outcome:
        if isinstance(request.task, ShipTask):
            service = self.ship_service(request.repository, listener, stop_requested)
            shipped = service.run(points_in(service.local, request.task.folder))
            told = events.Finished(request.vm, None, detail=shipped.in_words())
            return replace(told, bytes_read=shipped.bytes, bytes_stored=shipped.sent), None
        store = self.open_store(request.repository)
        errand = Errand(request.vm, listener, stop_requested, self.goes_on)
        match request.task:
            case VerifyTask() as task:
                return self._verify(store, task, errand)
            case PruneTask() as task:
                pruning = self.prune_service(request.repository, listener, stop_requested)
                pruned = pruning.run(points_in(store.view, task.folder))
                listener(events.VmPruned(request.vm, pruned))
                return events.Finished(request.vm, None, detail=_pruned_in_words(pruned)), None
            case RestoreTask() as task:
                restorer = Restorer(store, self.hypervisor, self.locks(), self.lock_wait, errand, confirm)
                restored = restorer.restore(request, task, again=again)
                listener(events.PointRestored(request.vm, restored))
                written = sum(disk.bytes_written for disk in restored.disks)
                return events.Finished(request.vm, None, point=restored.point, bytes_stored=written), None
        raise ValueError(f"{request.kind} is none of these tasks")

    def _verify(self, store: Store, task: VerifyTask, errand: Errand) -> Outcome:
        chosen, foreign = _points_to_verify(store, task)
        errand.listener(events.StepStarted(errand.vm, events.Step.VERIFY))
        if foreign:
            message = phrase("not shipped by this host and not checked: {points}", points=_names(foreign))
            errand.listener(events.Notice(errand.vm, message))
        verdicts: list[Verdict] = []
        damaged: list[Verdict] = []
        try:
            for verdict in store.verify(chosen, errand, hypervisor=self.hypervisor, deep=task.deep):
                verdicts.append(verdict)
                if not verdict.good:
                    damaged.append(verdict)
                errand.listener(events.PointVerified(errand.vm, verdict))
        finally:
            # What a check has found that was cut off later counts as well.
            again = store.mend(damaged, errand)
        checked = sum(verdict.bytes_checked for verdict in verdicts)
        if not damaged:
            return events.Finished(errand.vm, None, point=task.point, bytes_read=checked), None
        error = _damage(damaged, len(verdicts), errand.vm, again)
        finished = replace(
            events.failed(errand.vm, None, error, 0.0),
            point=damaged[0].point,
            detail="\n".join(f"{verdict.point}: {_first_finding(verdict)}" for verdict in damaged),
            bytes_read=checked,
        )
        return finished, error


def _points_to_verify(store: Store, task: VerifyTask) -> tuple[list[Manifest | DamagedPoint], list[str]]:
    """Those, and the ids of points that are left out: what somebody else put there says nothing of this host's
    backups, and must not make their check fail. One that is named is checked, whoever made it."""
    repository = store.view
    if task.point is None:
        foreign = store.foreign
        there = list(repository.points(points_in(repository, task.folder).folder))
        chosen = [point for point in there if point.id not in foreign]
        return chosen, [point.id for point in there if point.id in foreign]
    point = repository.examine(task.point)
    return (chain_of(repository, point) if isinstance(point, Manifest) else [point]), []


def _damage(damaged: Sequence[Verdict], count: int, vm: str, again: Sequence[str]) -> DamagedPointError:
    hint: str = phrase(
        "Restore another point; the next backup of the VM starts a new chain by itself when it has to."
    )
    if again:
        known = phrase("Whole here, and sent there again by the next shipment: {points}.", points=_names(again))
        hint = (
            known if len(again) == len(damaged) else sentences(known, phrase("Of the others, restore other points."))
        )
    names = _names([verdict.point for verdict in damaged])
    return DamagedPointError(
        phrase("{damaged} of {count} points are damaged: {names}", damaged=len(damaged), count=count, names=names),
        hint=hint,
        vm=vm,
    )


def _names(points: Sequence[str]) -> str:
    return ", ".join(points[:_NAMED]) + (", …" if len(points) > _NAMED else "")


def _first_finding(verdict: Verdict) -> str:
    finding = verdict.findings[0]
    return f"{finding.file}: {finding.message}"


def _pruned_in_words(pruned: Pruned) -> str:
    kept = sum(point.kept for point in pruned.points)
    consolidated = sum(point.consolidated for point in pruned.points)
    values = {
        "kept": kept,
        "removed": len(pruned.points) - kept,
        "consolidated": consolidated,
        "size": show_size(abs(pruned.bytes_freed)),
    }
    # Whole texts: of a stored one, parts as short as "freed" would not be found again to be told in French.
    if pruned.bytes_freed >= 0:
        return phrase("points kept: {kept}, removed: {removed}, made full: {consolidated}; {size} freed", **values)
    return phrase("points kept: {kept}, removed: {removed}, made full: {consolidated}; {size} more used", **values)
