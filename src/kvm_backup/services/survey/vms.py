"""What libvirt says of the VMs of this host."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kvm_backup.domain.disk import why_left_out
from kvm_backup.domain.errors import HypervisorError, KvmBackupError, VmNotFoundError
from kvm_backup.domain.inventory import HostFacts, VmDisk, VmRecord
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.services.survey.ledger import Ledger

_STATES_EVERY = timedelta(minutes=1)
_DISKS_EVERY = timedelta(hours=1)


@dataclass(slots=True)
class VmWatch:
    """Reads names and states each minute in one call; disks, which takes a call for each, hourly and of new VMs."""

    ledger: Ledger
    hypervisor: Callable[[], Hypervisor]
    excluded_disks: Callable[[Vm], frozenset[str]]
    facts: HostFacts = field(default_factory=HostFacts)
    away: KvmBackupError | None = None
    _states_at: datetime | None = None
    _disks_at: datetime | None = None

    def look(self, now: datetime) -> None:
        """Bring the ledger in line with libvirt when it is time. While libvirt is away all stays as it was."""
        if not is_time(self._states_at, _STATES_EVERY, now):
            return
        self._states_at = now
        try:
            if is_time(self._disks_at, _DISKS_EVERY, now):
                found = {vm.uuid: vm for vm in self.hypervisor().list_vms()}
                self._disks_at = now
                for vm in found.values():
                    self._take(vm)
                self._note_gone(set(found), now)
            else:
                self._look_at_states(now)
        except KvmBackupError as error:
            self.away = error
            since = self.facts.away_since or now
            self.facts = replace(self.facts, away_since=since, away_error=error.message)
        else:
            self.away = None
            self.facts = replace(self.facts, listed=now, away_since=None, away_error=None)

    def look_again(self) -> None:
        """Let the next look read names and states, without waiting for its turn: there may be a new VM."""
        self._states_at = None

    def look_at(self, uuid: str) -> None:
        """Look at one VM with its disks, if libvirt has it and answers."""
        with suppress(KvmBackupError):
            self._take(self.hypervisor().vm(uuid))

    def _look_at_states(self, now: datetime) -> None:
        states = self.hypervisor().states()
        for uuid, (name, state) in states.items():
            known = self.ledger.get(uuid)
            if known is None or known.gone or known.name != name:
                with suppress(VmNotFoundError, HypervisorError):
                    self._take(self.hypervisor().vm(uuid))
            elif known.state is not state:
                self.ledger.put(replace(known, state=state))
        self._note_gone(set(states), now)

    def _take(self, vm: Vm) -> None:
        known = self.ledger.get(vm.uuid) or VmRecord(vm.uuid, vm.name)
        excluded = self.excluded_disks(vm)
        disks = tuple(
            VmDisk(disk.target, disk.format, disk.virtual_size, why_left_out(disk, excluded)) for disk in vm.disks
        )
        size = sum(disk.virtual_size or 0 for disk in disks if disk.left_out is None)
        self.ledger.put(replace(known, name=vm.name, state=vm.state, gone_since=None, disks=disks, virtual_size=size))

    def _note_gone(self, present: set[str], now: datetime) -> None:
        for record in self.ledger:
            if record.uuid in present or (record.gone and record.points.points):
                continue
            if record.points.points:
                self.ledger.put(replace(record, gone_since=now))
            else:
                self.ledger.remove(record.uuid)


def is_time(last: datetime | None, every: timedelta, now: datetime) -> bool:
    """Whether it was long enough ago; also when the clock was set back."""
    return last is None or not timedelta() <= now - last < every
