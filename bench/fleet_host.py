"""A fleet that is not there: its VMs, their schedules and their restore points."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from kvm_backup.domain.names import checkpoint_name, disk_file, stamp, vm_folder
from kvm_backup.domain.point import (
    MANIFEST_FILE,
    Consistency,
    DiskMode,
    Manifest,
    Mode,
    StoredDisk,
    StoredFile,
    serialize,
)
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import Timing, parse_timing
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services.schedules.file import ScheduleFile

HOST = "bench"
GIB = 1 << 30
_ROLES = ("web", "db", "mail", "dns", "ldap", "git", "ci", "cache", "proxy", "erp", "files", "desk", "test", "app")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class FleetVm:
    """One VM; `size` in bytes. Of one that `fails` the runs of the last days failed; `never` has none at all."""

    name: str
    uuid: str
    size: int
    running: bool
    fails: bool
    never: bool


@dataclass(slots=True)
class FleetSchedule:
    """One schedule and the VMs it names."""

    id: str
    name: str
    type: str
    time: str
    mode: Mode
    vms: list[FleetVm] = field(default_factory=list)

    @property
    def timing(self) -> Timing:
        return parse_timing(self.type, self.time)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is made. The same seed gives the same fleet."""

    vms: list[FleetVm]
    schedules: list[FleetSchedule]
    seed: int


def make_fleet(vms: int, schedules: int, seed: int) -> Fleet:
    """Most VMs have one schedule, a few two, three in a hundred none; most schedules are daily, few hourly."""
    chance = random.Random(seed)
    machines = [
        FleetVm(
            name=f"{chance.choice(_ROLES)}-{number:05d}",
            uuid=str(UUID(int=chance.getrandbits(128), version=4)),
            size=chance.choice((20, 40, 40, 60, 80, 120, 250, 500)) * GIB,
            running=chance.random() < 0.9,
            fails=chance.random() < 0.008,
            never=chance.random() < 0.004,
        )
        for number in range(vms)
    ]
    plans = [_schedule(number, chance) for number in range(schedules)]
    for place, machine in enumerate(machines):
        if chance.random() < 0.97:
            plans[place % len(plans)].vms.append(machine)
        if chance.random() < 0.02:
            other = chance.choice(plans)
            if machine not in other.vms:
                other.vms.append(machine)
    return Fleet(machines, plans, seed)


def _schedule(number: int, chance: random.Random) -> FleetSchedule:
    kind = chance.choices(("daily", "weekly", "monthly", "hourly"), (84, 11, 3, 2))[0]
    minute, hour = chance.randrange(60), chance.choice((0, 1, 2, 3, 4, 5, 20, 21, 22, 23))
    time = {
        "hourly": f"{minute:02d}",
        "daily": f"{hour:02d}:{minute:02d}",
        "weekly": f"{chance.choice(_DAYS)}:{hour:02d}:{minute:02d}",
        "monthly": f"{chance.randrange(1, 32)}:{hour:02d}:{minute:02d}",
    }[kind]
    id_ = f"{chance.getrandbits(128):032x}"
    return FleetSchedule(id_, f"Sauvegarde {number:04d} ({kind})", kind, time, Mode.INCREMENTAL)


def write_domains(fleet: Fleet, path: Path) -> None:
    """The host of libvirt's test driver: test:///<path>."""
    path.write_text("<node>\n" + "\n".join(map(_domain, fleet.vms)) + "\n</node>\n", encoding="utf-8")


def _domain(vm: FleetVm) -> str:
    name = escape(vm.name)
    return (
        f"<domain type='test'><name>{name}</name><uuid>{vm.uuid}</uuid><memory>1048576</memory>"
        "<os><type>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='/images/{name}.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    )


def write_schedules(fleet: Fleet, file: ScheduleFile, zone: ZoneInfo, now: datetime) -> None:
    """scheduled_backups.json, with every next time in the future."""
    made = [
        Schedule(
            id=plan.id,
            name=plan.name,
            vm_names=tuple(vm.name for vm in plan.vms),
            schedule_type=plan.type,
            schedule_time=plan.time,
            backup_mode=plan.mode,
            created_at=now - timedelta(days=400),
        ).planned_after(now, zone)
        for plan in fleet.schedules
        if plan.vms
    ]
    file.update(lambda _before: made)


def write_points(
    fleet: Fleet, repository: LocalRepository, mirrors: Sequence[Mirror], points: int, now: datetime, waits_of: int
) -> tuple[int, int]:
    """A short chain of each VM, as manifests without images, and the record that remotes hold them, too; how many
    points, and their bytes.

    Of one VM in `waits_of` the newest point waits for the first remote.
    """
    chance = random.Random(fleet.seed + 1)
    shipped: list[str] = []
    count = stored = 0
    for place, vm in enumerate(fleet.vms):
        if vm.never:
            continue
        newest = now - (timedelta(days=4) if vm.fails else timedelta(minutes=chance.randrange(5, 180)))
        chain = list(_chain(vm, repository.id, newest, points, chance))
        waits = 1 if place % waits_of == 0 else 0
        shipped += [manifest.id for manifest in chain]
        count += len(chain)
        stored += sum(manifest.bytes_stored for manifest in chain)
        for number, held in enumerate((repository, *(mirror.repository for mirror in mirrors))):
            for manifest in chain[: -waits or None] if number == 1 else chain:
                folder = held.root / manifest.id
                folder.mkdir(mode=0o700, parents=True)
                (folder / MANIFEST_FILE).write_bytes(serialize(manifest))
    for mirror in mirrors:
        mirror.vouch(shipped)
        mirror.note_compared()
    return count, stored


def _chain(
    vm: FleetVm, repository_id: str, newest: datetime, points: int, chance: random.Random
) -> Iterator[Manifest]:
    parent: Manifest | None = None
    folder = vm_folder(vm.name, vm.uuid)
    for age in range(points - 1, -1, -1):
        created = (newest - timedelta(days=age)).replace(microsecond=0)
        mode = Mode.FULL if parent is None else Mode.INCREMENTAL
        stored = int(vm.size * (0.18 if parent is None else 0.004) * chance.uniform(0.5, 1.5))
        name = stamp(created)
        parent = Manifest(
            id=f"{folder}/{name}",
            uuid=str(UUID(int=chance.getrandbits(128), version=4)),
            repository=repository_id,
            vm_name=vm.name,
            vm_uuid=vm.uuid,
            created=created,
            finished=created + timedelta(seconds=90),
            mode=mode,
            requested_mode=Mode.INCREMENTAL,
            parent=parent.id if parent else None,
            parent_uuid=parent.uuid if parent else None,
            checkpoint=checkpoint_name(repository_id, name),
            consistency=Consistency.FILESYSTEM,
            disks=(
                StoredDisk(
                    target="vda",
                    mode=DiskMode(mode.value),
                    virtual_size=vm.size,
                    source_format="qcow2",
                    source_path=f"/images/{vm.name}.qcow2",
                    file=disk_file("vda"),
                    image_sha256=hashlib.sha256(name.encode()).hexdigest(),
                    bytes_read=stored * 3,
                    bytes_stored=stored,
                ),
            ),
            files=(StoredFile(name="domain.xml", bytes=4096, sha256="ab" * 32),),
            tool_version="0.1.0",
        )
        yield parent
