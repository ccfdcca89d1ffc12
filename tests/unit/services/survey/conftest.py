"""A small host: VMs of libvirt's test driver, a repository, schedules, and the survey that looks at them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.database.inventory import Inventory
from kvm_backup.database.statistics import Statistics
from kvm_backup.domain.alert import Condition, Situation, conditions
from kvm_backup.domain.errors import HypervisorUnavailableError, KvmBackupError
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.schedule import Schedule
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.schedules.file import ScheduleFile
from kvm_backup.services.survey.survey import Survey, make_survey
from tests.unit.builders import Shelf

WEB = "1a2b3c4d-0000-4000-8000-000000000001"
DB = "1a2b3c4e-0000-4000-8000-000000000002"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def domain_xml(name: str, uuid: str) -> str:
    """A VM with one disk and a drive."""
    return (
        f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1048576</memory><os><type>hvm</type></os>"
        f"<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/images/{name}'/>"
        "<target dev='vda'/></disk><disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"
        "</devices></domain>"
    )


@dataclass
class World:
    """The host and its survey. `now` is moved by tests."""

    folder: Path
    now: datetime = NOW
    libvirt_away: bool = False
    opened: dict[str, Callable[[], LocalRepository]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    reserve: int = 0
    settings_problem: KvmBackupError | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        host = self.folder / "host.xml"
        host.write_text(f"<node>{domain_xml('web', WEB)}{domain_xml('db', DB)}</node>")
        self.libvirt = Hypervisor.connect(f"test://{host}")
        self.shelves = {uuid: Shelf(self.folder / "shelf", name, uuid) for uuid, name in ((WEB, "web"), (DB, "db"))}
        self.opened["default"] = lambda: LocalRepository.open("default", self.folder / "shelf")
        self.restart()

    def restart(self) -> None:
        """As if the service had ended and begun again."""
        zone = ZoneInfo("UTC")
        self.database = Database.open(sqlite_url(self.folder / "kvm-backup.db"))
        self.history = History(self.database, lambda: self.now)
        self.inventory = Inventory(self.database, "alpha")
        self.statistics = Statistics(self.database, "alpha", zone)
        self.schedules = ScheduleFile(self.folder, zone)
        self.catalogue = Catalogue.open(self.folder / "catalogue.db")
        self.survey: Survey = make_survey(
            host="alpha",
            zone=zone,
            inventory=self.inventory,
            statistics=self.statistics,
            history=self.history,
            schedule_file=self.schedules,
            hypervisor=self._hypervisor,
            excluded_disks=lambda _vm: frozenset(),
            catalogue=lambda: self.catalogue,
            repositories=lambda _schedules: self.opened,
            lasting_name=lambda name: name or "default",
            folders=self.folders,
            reserve=self.reserve,
            keep=timedelta(days=730),
            settings_problem=lambda: self.settings_problem,
        )
        self.survey.begin(self.now)

    def _hypervisor(self) -> Hypervisor:
        if self.libvirt_away:
            raise HypervisorUnavailableError("libvirtd does not answer", hint="Start it.")
        return self.libvirt

    def look(self, **later: float) -> bool:
        """One look, some time later."""
        self.now += timedelta(**later)
        return self.survey.look(self.now)

    def vm(self, uuid: str = WEB) -> VmRecord:
        """A VM as pages would see it."""
        return self.inventory.get(uuid)

    def schedule(self, *vm_names: str, time: str = "02:00", **changes: Any) -> Schedule:
        """Another daily schedule."""
        made = Schedule(uuid4().hex, f"nightly {len(self.schedules.read())}", vm_names, "daily", time)
        made = replace(made, **changes)
        self.schedules.update(lambda before: [*before, made])
        return made

    def point(self, uuid: str = WEB, parent: Manifest | None = None, **changes: Any) -> Manifest:
        """A restore point that was made just now."""
        shelf = self.shelves[uuid]
        created = {"created": self.now, "finished": self.now + timedelta(seconds=3)}
        return shelf.add(parent, **(created | changes))

    def run(
        self,
        state: RunState = RunState.SUCCEEDED,
        *,
        point: str | None = None,
        uuid: str | None = WEB,
        error: KvmBackupError | None = None,
        seconds: float = 60.0,
        detail: str | None = None,
        **changes: Any,
    ) -> Run:
        """A run that has just ended."""
        name = changes.pop("vm_name", "db" if uuid == DB else "web")
        ended = self.now
        run = Run(
            id=uuid4().hex,
            vm_name=name,
            vm_uuid=uuid,
            kind=RunKind.BACKUP,
            trigger=Trigger.SCHEDULE,
            host="alpha",
            repository="default",
            requested_mode=Mode.INCREMENTAL,
            state=RunState.QUEUED,
            created=ended - timedelta(seconds=seconds),
        )
        run = self.history.create(replace(run, **changes))
        self.history.start(run.id)
        told = RunResult(point=point, detail=detail)
        if error is not None:
            told = replace(told, error=error.message, error_code=error.code, hint=error.hint)
        assert self.history.finish(run.id, state, told)
        return self.history.get(run.id)

    def situation(self) -> Situation:
        return self.survey.situation()

    def wrong(self) -> list[Condition]:
        """What alerts would tell."""
        return list(conditions(self.situation()))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")
