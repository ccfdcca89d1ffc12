"""Ships what waits of a VM to one remote: each point is sent and checked there, and only then noted as shipped.

Killed anywhere, the next attempt goes on where this one was. The VM's lock is not held while bytes move: a point that
is consolidated or removed here meanwhile is looked at anew.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import (
    BrokenChainError,
    CancelledError,
    KvmBackupError,
    PointChangedError,
    VmBusyError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.domain.shipping import Shippable
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import Watch
from kvm_backup.services import events
from kvm_backup.services.control import refuse_when_stopped
from kvm_backup.services.prune import VmPoints
from kvm_backup.services.shipping.closed import closed_points
from kvm_backup.services.shipping.comparing import Comparison
from kvm_backup.services.shipping.identity import require_same_point
from kvm_backup.services.shipping.lack import Lack, lack_of, shown, stuck_in_words
from kvm_backup.services.shipping.sealing import Sealing
from kvm_backup.services.shipping.still_there import StillThere
from kvm_backup.services.shipping.watch import ShipWatch
from kvm_backup.services.vm_lock import hold_shipment

_ROUNDS = 100
"""How often a run looks for more: points may be made while it ships, but it ends some time."""
_CHANGES = 5
"""How often a point may have been changed here while it was sent, before the run leaves it for the next try."""
LEFTOVERS = timedelta(days=7)
"""What a cut transfer left there may go when nobody came back to it for so long."""


@dataclass(frozen=True, slots=True)
class ShippedVm:
    """What one run of shipping did. `sent` are bytes on the wire, `bytes` those of the points' files. `stuck` are the
    ids of what cannot be shipped; `next_full`: for that the next backup is a full one.
    """

    points: tuple[str, ...] = ()
    bytes: int = 0
    sent: int = 0
    removed: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    next_full: bool = False

    def in_words(self) -> str:
        """For the run's result."""
        if not self.stuck:
            return self._arrived()
        values = {"arrived": self._arrived(), "count": len(self.stuck)}
        if self.next_full:
            return phrase("{arrived}; cannot be shipped: {count}, so the next backup will be a full one", **values)
        return phrase("{arrived}; cannot be shipped: {count}", **values)

    def _arrived(self) -> str:
        values = {"count": len(self.points), "sent": show_size(self.sent), "removed": len(self.removed)}
        if self.removed:
            return phrase("points shipped: {count}, {sent} sent; removed there: {removed}", **values)
        return phrase("points shipped: {count}, {sent} sent", **values)


@dataclass(frozen=True, slots=True)
class ShipService:
    """Ships to one remote. `connect` makes its connection, `sealing` what is sent there; `rule_for` gives the rule of
    the remote; `may_remove` tells that an account there may, `may_compare` that nobody need be asked for a key to
    read what is there; `settle` is called at the end, to let go of what need not stay here (keep_local).
    """

    name: str
    local: LocalRepository
    mirror: Mirror
    connect: Callable[[Watch], Remote]
    sealing: Sealing
    rule_for: Callable[[str, str], RetentionRule]
    zone: ZoneInfo
    clock: Callable[[], datetime]
    locks: Path
    lock_wait: float
    may_remove: bool
    may_compare: bool
    settle: Callable[[VmPoints], None]
    listener: events.Listener
    stop_requested: Callable[[], bool]

    def lack(self, wanted: VmPoints) -> Lack:
        """What waits of a VM; nothing of one whose points belong to nobody known. Raises StorageError."""
        if wanted.vm_uuid is None:
            return Lack()
        rule = self.rule_for(wanted.vm, wanted.vm_uuid)
        return lack_of(self.local, self.mirror, wanted.folder.name, rule, self.zone, self.clock())

    def closed(self, wanted: VmPoints) -> frozenset[str]:
        """The ids of a VM's points that are there, and that none of today's recipients opens. Raises StorageError."""
        return closed_points(self.local, self.mirror, self.sealing.recipients, wanted.folder.name)

    def check_copies(self, remote: Remote) -> None:
        """Raises as the connection's own, when it is not the copy of the local repository, kept otherwise, or that
        repository itself."""
        with self.sealing.identity() as identity:
            remote.check_copies(identity)
        remote.require_apart(self.local.root)

    def run(self, wanted: VmPoints) -> ShippedVm:
        """Ship all that waits of a VM, apply the remote's retention, and let go of what need not stay here.

        That it cannot let go now is only told. Raises VmBusyError, CancelledError, and what `Remote` and its calls
        raise: what arrived before stays.
        """
        with hold_shipment(
            self.locks, self.name, wanted.folder.name, wait=self.lock_wait, stop_requested=self.stop_requested
        ):
            try:
                done = _Shipping(self, wanted).run()
            except CancelledError:
                raise
            except KvmBackupError:
                with suppress(KvmBackupError):
                    self.mirror.distrust()
                raise
        try:
            self.settle(wanted)
        except CancelledError:
            raise
        except VmBusyError:
            pass  # another run goes on; it is noted, and tried again by itself
        except KvmBackupError as error:
            cause = phrase("images that need not stay here could not be removed: {cause}", cause=error.message)
            self.listener(events.Notice(wanted.vm, cause))
        return done


class _Shipping:
    """One run on one VM."""

    def __init__(self, service: ShipService, wanted: VmPoints) -> None:
        self._service = service
        self._vm = wanted
        self._done = ShippedVm()
        self._watch = ShipWatch(service.stop_requested, self._tell_progress)
        self._step = events.Step.SHIP
        self._comparison = Comparison(service.mirror, service.zone, service.clock, service.may_compare)

    def run(self) -> ShippedVm:
        lack = self._look()
        if self._needs_the_server(lack):
            lack = self._bring_up_to_date(lack)
        self._service.sealing.clear(self._vm.folder, {one.manifest.id for one in lack.to_ship})
        if lack.stuck:
            unsure = self._service.mirror.compared is None
            self._notice(stuck_in_words(self._service.name, lack, unsure=unsure))
            self._done = replace(self._done, stuck=lack.stuck, next_full=lack.newest_stuck and not unsure)
        return self._done

    def _needs_the_server(self, lack: Lack) -> bool:
        unsure = lack.stuck and self._comparison.is_due
        return bool(lack.to_ship or unsure or (lack.to_remove and self._service.may_remove))

    def _bring_up_to_date(self, lack: Lack) -> Lack:
        """Log in, compare, send and remove; what is lacking then."""
        service = self._service
        service.sealing.check()
        self._begin(events.Step.SHIP)
        with service.connect(self._watch) as remote:
            service.check_copies(remote)
            if self._comparison.is_due:
                if problem := self._comparison.make(remote):
                    self._notice(problem)
                lack = self._look()
            if lack.again:
                self._notice(
                    phrase(
                        "shipped to {name} before, missing or damaged there now, and sent again: {points}",
                        name=service.name,
                        points=shown(lack.again),
                    )
                )
            lack = self._send_all(remote, lack)
            self._watch.finish()
            if service.may_remove:
                self._remove(remote)
        return lack

    def _look(self) -> Lack:
        lack = self._service.lack(self._vm)
        self._service.mirror.vouch(sorted(lack.held))
        return lack

    def _send_all(self, remote: Remote, lack: Lack) -> Lack:
        """Send until nothing waits any more: points are made, consolidated and removed here meanwhile."""
        changes = 0
        for _ in range(_ROUNDS):
            if not lack.to_ship:
                break
            self._watch.expect(lack.bytes)
            try:
                for one in lack.to_ship:
                    refuse_when_stopped(self._service.stop_requested)
                    self._send(remote, one)
            except PointChangedError:
                changes += 1
                if changes > _CHANGES:
                    raise
            except BrokenChainError:
                changes += 1
                if changes > _CHANGES or not self._forget(one.manifest.parent):
                    raise
            lack = self._look()
        return lack

    def _forget(self, point: str | None) -> bool:
        """The server says that a point is not there, nor is what builds on it. Whether that is news."""
        view = self._service.mirror.repository
        there = {known.id: known for known in view.points(view.root / self._vm.folder.name)}
        if point is None or point not in there:
            return False
        gone = {point}
        for known in there.values():  # oldest first
            if isinstance(known, Manifest) and known.parent in gone:
                gone.add(known.id)
        for one in sorted(gone, reverse=True):
            self._service.mirror.forget(one)
        self._notice(
            phrase("{id} is not at {name} any more; what is here is sent again", id=point, name=self._service.name)
        )
        return True

    def _send(self, remote: Remote, one: Shippable) -> None:
        manifest = one.manifest
        require_same_point(self._service.mirror, manifest)
        self._watch.begin(manifest.bytes_stored)
        with self._service.sealing.shipment(manifest, self._watch.check, self._tell_encrypted) as shipment:
            self._go_on_shipping()
            shipped = remote.ship(shipment, base=one.base.stamp if one.base else None)
        content = serialize(manifest)
        if shipment.encrypted:
            self._service.mirror.arrived.note(
                manifest.id, content, shipment.encrypted, self._service.sealing.recipients
            )
        self._service.mirror.record(manifest.id, content)
        self._service.sealing.sent(manifest)
        if shipped.repaired:
            self._notice(
                phrase(
                    "{id}: what was on the way in {names} had changed there and was sent again",
                    id=manifest.id,
                    names=", ".join(shipped.repaired),
                )
            )
        self._done = replace(
            self._done,
            points=(*self._done.points, manifest.id),
            bytes=self._done.bytes + manifest.bytes_stored,
            sent=self._done.sent + shipped.moved.sent,
        )

    def _remove(self, remote: Remote) -> None:
        """What the rule there keeps no longer; that it stays a day longer harms nobody."""
        still_there = StillThere(self._service.mirror, self._service.local)
        try:
            for point in still_there.settled(remote, self._look, self._notice).to_remove:
                refuse_when_stopped(self._service.stop_requested)
                remote.remove(point)
                self._service.mirror.forget(point, by_rule=True)
                self._done = replace(self._done, removed=(*self._done.removed, point))
            remote.clear_incoming(LEFTOVERS)
        except CancelledError:
            raise
        except KvmBackupError as error:
            self._notice(phrase("old points could not be removed: {cause}", cause=error.message))

    def _notice(self, message: str) -> None:
        self._service.listener(events.Notice(self._vm.vm, message))

    def _begin(self, step: events.Step) -> None:
        self._step = step
        self._service.listener(events.StepStarted(self._vm.vm, step))

    def _tell_encrypted(self, done: int, total: int) -> None:
        if self._step is not events.Step.ENCRYPT:
            self._begin(events.Step.ENCRYPT)
        self._service.listener(events.Progress(self._vm.vm, events.Step.ENCRYPT, done, total))

    def _go_on_shipping(self) -> None:
        if self._step is not events.Step.SHIP:
            self._begin(events.Step.SHIP)
            self._watch.tell()

    def _tell_progress(self, done: int, total: int) -> None:
        self._service.listener(events.Progress(self._vm.vm, events.Step.SHIP, done, total))
