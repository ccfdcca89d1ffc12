"""Prunes a VM on one remote by that one's own rule, as each shipment does at its end, but asked for and explained."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.services import events
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.prune import PointVerdict, Pruned, VmPoints
from kvm_backup.services.shipping.lack import Lack
from kvm_backup.services.shipping.ship import LEFTOVERS, ShipService
from kvm_backup.services.shipping.watch import ShipWatch
from kvm_backup.services.verdict_words import explain
from kvm_backup.services.vm_lock import hold_shipment


@dataclass(frozen=True, slots=True)
class RemotePruneService:
    """Works where `ship` ships to. Nothing is consolidated there: what a kept point builds on stays."""

    ship: ShipService

    def run(self, wanted: VmPoints, *, dry_run: bool = False) -> Pruned:
        """Prune one VM there; a dry run connects to nobody. Bytes are those that manifests tell.

        Raises PointNotFoundError when no manifest tells whose the points are, VmBusyError, CancelledError, and what
        `Remote` and its calls raise: what went before stays away.
        """
        ship = self.ship
        began = time.monotonic()
        if wanted.vm_uuid is None:
            raise PointNotFoundError(
                phrase(
                    "no point in {folder} can be read, so that it is not known whose they are",
                    folder=wanted.folder.name,
                ),
                hint=phrase("Nothing was changed. Read it anew: kvm-backup repository rescan {name}", name=ship.name),
                vm=wanted.vm,
            )
        if dry_run:
            lack, there = ship.lack(wanted), self._there(wanted)
        else:
            with hold_shipment(
                ship.locks, ship.name, wanted.folder.name, wait=ship.lock_wait, stop_requested=ship.stop_requested
            ):
                lack, there = ship.lack(wanted), self._there(wanted)
                self._remove(wanted, lack.to_remove)
            ship.settle(replace(wanted, folder=ship.local.root / wanted.folder.name))
        return self._report(wanted, lack, there, dry_run=dry_run, seconds=time.monotonic() - began)

    def _there(self, wanted: VmPoints) -> dict[str, Manifest]:
        view = self.ship.mirror.repository
        points = view.points(view.root / wanted.folder.name)
        return {point.id: point for point in points if isinstance(point, Manifest)}

    def _remove(self, wanted: VmPoints, points: Iterable[str]) -> None:
        ship = self.ship
        ship.listener(events.StepStarted(wanted.vm, events.Step.PRUNE))
        watch = ShipWatch(ship.stop_requested, lambda _done, _total: None)
        with ship.connect(watch) as remote:
            remote.check_copies(ship.local.root)
            for point in points:
                refuse_when_stopped(ship.stop_requested)
                remote.remove(point)
                ship.mirror.forget(point)
            remote.clear_incoming(LEFTOVERS)

    def _report(
        self, wanted: VmPoints, lack: Lack, there: Mapping[str, Manifest], *, dry_run: bool, seconds: float
    ) -> Pruned:
        assert wanted.vm_uuid is not None
        verdicts = [verdict for verdict in lack.verdicts if verdict.id in there]
        points = tuple(
            PointVerdict(
                id=verdict.id,
                created=there[verdict.id].created,
                kept=verdict.kept,
                consolidated=False,
                reasons=tuple(dict.fromkeys(reason.keep.value for reason in verdict.reasons)),
                explanation=explain(verdict, consolidated=False, dry_run=dry_run),
            )
            for verdict in verdicts
        )
        kept = sum(there[point.id].bytes_stored for point in points if point.kept)
        return Pruned(
            vm=wanted.vm,
            vm_uuid=wanted.vm_uuid,
            repository=self.ship.name,
            dry_run=dry_run,
            points=points,
            bytes_before=sum(manifest.bytes_stored for manifest in there.values()),
            bytes_after=kept,
            notices=(),
            seconds=seconds,
        )
