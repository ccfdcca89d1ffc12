"""Prunes a VM on one remote by that one's own rule, as each shipment does at its end, but asked for and explained."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.retention import Keep, Verdict
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import Watch
from kvm_backup.services import events
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.prune import PointVerdict, Pruned, VmPoints
from kvm_backup.services.shipping.lack import Lack, shown
from kvm_backup.services.shipping.ship import LEFTOVERS
from kvm_backup.services.shipping.still_there import StillThere
from kvm_backup.services.shipping.watch import ShipWatch
from kvm_backup.services.verdict_words import explain
from kvm_backup.services.vm_lock import hold_shipment


@dataclass(frozen=True, slots=True)
class RemotePruneService:
    """Nothing is consolidated on a remote: what a kept point builds on stays.

    `lack` tells what its rule says of a VM's points. `prepare` is given the connection first: it raises unless the
    right repository is there, and brings the mirror up to date where others ship there. `settle` is called at the end
    of each prune that is no dry run. `local` is the repository that the remote copies, if one here.
    """

    mirror: Mirror
    local: LocalRepository | None
    connect: Callable[[Watch], Remote]
    lack: Callable[[VmPoints], Lack]
    prepare: Callable[[Remote], None]
    settle: Callable[[VmPoints], None]
    locks: Path
    lock_wait: float
    listener: events.Listener
    stop_requested: Callable[[], bool]

    @property
    def name(self) -> str:
        return self.mirror.repository.name

    def run(self, wanted: VmPoints, *, dry_run: bool = False) -> Pruned:
        """Prune one VM there; a dry run connects to nobody. Bytes are those that manifests tell.

        Raises PointNotFoundError when no manifest tells whose the points are, VmBusyError, CancelledError, and what
        `Remote` and its calls raise: what went before stays away.
        """
        began = time.monotonic()
        if wanted.vm_uuid is None:
            raise PointNotFoundError(
                phrase(
                    "no point in {folder} can be read, so that it is not known whose they are",
                    folder=wanted.folder.name,
                ),
                hint=phrase("Nothing was changed. Read it anew: kvm-backup repository rescan {name}", name=self.name),
                vm=wanted.vm,
            )
        told: list[str] = []
        if dry_run:
            lack, there = self.lack(wanted), self._there(wanted)
        else:
            with hold_shipment(
                self.locks, self.name, wanted.folder.name, wait=self.lock_wait, stop_requested=self.stop_requested
            ):
                lack, there = self._carry_out(wanted, told.append)
            self.settle(wanted)
        return self._report(wanted, lack, there, told, dry_run=dry_run, seconds=time.monotonic() - began)

    def _carry_out(self, wanted: VmPoints, tell: Callable[[str], None]) -> tuple[Lack, dict[str, Manifest]]:
        self.listener(events.StepStarted(wanted.vm, events.Step.PRUNE))
        with self.connect(ShipWatch(self.stop_requested, lambda _done, _total: None)) as remote:
            self.prepare(remote)
            lack = StillThere(self.mirror, self.local).settled(remote, lambda: self.lack(wanted), tell)
            there = self._there(wanted)
            for point in lack.to_remove:
                refuse_when_stopped(self.stop_requested)
                remote.remove(point)
                self.mirror.forget(point, by_rule=True)
            remote.clear_incoming(LEFTOVERS)
        return lack, there

    def _there(self, wanted: VmPoints) -> dict[str, Manifest]:
        view = self.mirror.repository
        points = view.points(view.root / wanted.folder.name)
        return {point.id: point for point in points if isinstance(point, Manifest)}

    def _report(
        self,
        wanted: VmPoints,
        lack: Lack,
        there: Mapping[str, Manifest],
        told: list[str],
        *,
        dry_run: bool,
        seconds: float,
    ) -> Pruned:
        assert wanted.vm_uuid is not None
        notices = (*told, *self._strange(lack))
        for notice in notices:
            self.listener(events.Notice(wanted.vm, notice))
        points = tuple(
            _verdict(verdict, there[verdict.id], kept=verdict.id not in lack.to_remove, dry_run=dry_run)
            for verdict in lack.verdicts_there
            if verdict.id in there
        )
        left = [_left_alone(there[point], lack) for point in [*lack.foreign, *lack.ahead] if point in there]
        points = tuple(sorted([*points, *left], key=lambda point: point.id))
        return Pruned(
            vm=wanted.vm,
            vm_uuid=wanted.vm_uuid,
            repository=self.name,
            dry_run=dry_run,
            points=points,
            bytes_before=sum(manifest.bytes_stored for manifest in there.values()),
            bytes_after=sum(there[point.id].bytes_stored for point in points if point.kept),
            notices=notices,
            seconds=seconds,
        )

    def _strange(self, lack: Lack) -> Iterator[str]:
        if lack.foreign:
            yield phrase(
                "{name}: left alone and not counted, since this host did not ship them: {points}",
                name=self.name,
                points=shown(lack.foreign),
            )
        if lack.ahead:
            yield phrase(
                "{name}: left alone and not counted, since they are dated in the future: {points}",
                name=self.name,
                points=shown(lack.ahead),
            )


def _left_alone(manifest: Manifest, lack: Lack) -> PointVerdict:
    is_foreign = manifest.id in lack.foreign
    return PointVerdict(
        id=manifest.id,
        created=manifest.created,
        kept=True,
        consolidated=False,
        reasons=("foreign",) if is_foreign else ("future",),
        explanation=phrase("left alone: not shipped by this host")
        if is_foreign
        else phrase("left alone: dated in the future"),
    )


def _verdict(verdict: Verdict, manifest: Manifest, *, kept: bool, dry_run: bool) -> PointVerdict:
    if kept and not verdict.kept:
        # A point builds on it there that does not any more here.
        explanation: str = phrase("kept: a point there still builds on it")
        reasons: tuple[str, ...] = (Keep.NEEDED.value,)
    else:
        explanation = explain(verdict, consolidated=False, dry_run=dry_run)
        reasons = tuple(dict.fromkeys(reason.keep.value for reason in verdict.reasons))
    return PointVerdict(
        id=verdict.id,
        created=manifest.created,
        kept=kept,
        consolidated=False,
        reasons=reasons,
        explanation=explanation,
    )
