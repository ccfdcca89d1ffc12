"""The inventory in memory while the service runs: what changes is judged and written, nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from kvm_backup.database.inventory import Inventory
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.protection import DueTimesAt, Judgement, judge


@dataclass(slots=True)
class Ledger:
    """The VMs of this host by their UUIDs. Used by one thread."""

    inventory: Inventory
    zone: ZoneInfo
    _records: dict[str, VmRecord] = field(default_factory=dict)
    _by_name: dict[str, str] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _again: dict[str, datetime] = field(default_factory=dict)
    _judged: datetime | None = None
    names: int = 0
    """Another one once a VM came, went or was renamed."""

    def load(self) -> None:
        """Begin with what the database holds. Raises DatabaseError."""
        self._records = self.inventory.load()
        self._by_name = {record.name: uuid for uuid, record in self._records.items() if not record.gone}
        self._changed.clear()
        self._judged = None

    def __iter__(self) -> Iterator[VmRecord]:
        """All of them; they may be changed and removed meanwhile."""
        return iter(list(self._records.values()))

    def get(self, uuid: str) -> VmRecord | None:
        return self._records.get(uuid)

    def find(self, uuid: str | None, name: str) -> VmRecord | None:
        """The VM that a run names; its name may be a UUID, too."""
        for key in (uuid, self._by_name.get(name), name):
            if key is not None and key in self._records:
                return self._records[key]
        return None

    def put(self, record: VmRecord) -> None:
        """Take a VM as it is now."""
        before = self._records.get(record.uuid)
        if before != record:
            self.names += before is None or (before.name, before.gone) != (record.name, record.gone)
            self._records[record.uuid] = record
            self._changed.add(record.uuid)
            if not record.gone:
                self._by_name[record.name] = record.uuid

    def remove(self, uuid: str) -> None:
        """Forget a VM."""
        record = self._records.pop(uuid)
        self.names += 1
        if self._by_name.get(record.name) == uuid:
            del self._by_name[record.name]
        self._changed.add(uuid)

    def save(self, now: datetime) -> bool:
        """Judge what changed or whose time has come, and write what differs; whether anything did.

        Raises DatabaseError; what could not be written is written the next time.
        """
        self._judge(now)
        if not self._changed:
            return False
        changed = [self._records[uuid] for uuid in self._changed if uuid in self._records]
        self.inventory.save(changed, [uuid for uuid in self._changed if uuid not in self._records])
        self._changed.clear()
        return True

    def _judge(self, now: datetime) -> None:
        every = self._judged is None or now < self._judged
        due = DueTimesAt(now, self.zone)
        for uuid in list(self._records) if every else self._whose_turn_it_is(now):
            record = self._records[uuid]
            promises = () if record.gone else record.promises
            judged = judge(promises, record.points.newest, due, now, record.runs.usual)
            if judged.again is None:
                self._again.pop(uuid, None)
            else:
                self._again[uuid] = judged.again
            self.put(_judged(record, judged))
        self._judged = now

    def _whose_turn_it_is(self, now: datetime) -> set[str]:
        turned = {uuid for uuid, again in self._again.items() if again <= now}
        return (turned | self._changed) & self._records.keys()


def _judged(record: VmRecord, judgement: Judgement) -> VmRecord:
    return replace(
        record,
        protection=judgement.protection,
        overdue=judgement.overdue,
        promised=judgement.promised,
        missed=judgement.missed,
        next_due=judgement.next_due,
    )
