"""The composition root: the one place that reads settings and puts the parts together."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from kvm_backup.config.live import LiveSettings
from kvm_backup.config.settings import Settings, load
from kvm_backup.config.zone import find_zone
from kvm_backup.domain.errors import (
    HypervisorUnavailableError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import storage_error

if TYPE_CHECKING:
    # Imported where they are used: libvirt and SQLAlchemy cost a command that needs neither half a second.
    from collections.abc import Callable

    from sqlalchemy import URL

    from kvm_backup.bootstrap.examining import Examining
    from kvm_backup.bootstrap.places import Places
    from kvm_backup.bootstrap.points import Points
    from kvm_backup.bootstrap.queue import RunQueue
    from kvm_backup.bootstrap.remotes import Remotes
    from kvm_backup.bootstrap.repositories import Repositories
    from kvm_backup.bootstrap.rules import Rules
    from kvm_backup.bootstrap.shipments import Shipments
    from kvm_backup.bootstrap.shipping import Shipping
    from kvm_backup.bootstrap.work import RunWork
    from kvm_backup.database.audit import AuditLog
    from kvm_backup.database.engine import Database
    from kvm_backup.database.history import History
    from kvm_backup.database.inventory import Inventory
    from kvm_backup.database.statistics import Statistics
    from kvm_backup.hypervisor.connection import Hypervisor
    from kvm_backup.repository.catalogue import Catalogue
    from kvm_backup.repository.encryption.keys import Identities
    from kvm_backup.repository.encryption.proof import ProvedRecipients
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.services.access import AccessServices
    from kvm_backup.services.accounts import AccountService
    from kvm_backup.services.alerts import AlertService
    from kvm_backup.services.api_tokens import ApiTokenService
    from kvm_backup.services.calendar import CalendarService
    from kvm_backup.services.facts import Facts
    from kvm_backup.services.folders import Folders
    from kvm_backup.services.log_reader import LogReader
    from kvm_backup.services.overview import OverviewService
    from kvm_backup.services.own_runs import OwnRuns
    from kvm_backup.services.requests import Requests
    from kvm_backup.services.run_log import LogFile
    from kvm_backup.services.schedules.commands import ScheduleService
    from kvm_backup.services.schedules.file import ScheduleFile
    from kvm_backup.services.sign_in import SignInService
    from kvm_backup.services.stores.store import Store
    from kvm_backup.services.survey.survey import Survey

    AskForIdentities = Callable[[str, Callable[[Identities], None]], Identities | None]

_SOCKET_PATH_ROOM = 60
"""How long the runtime folder's path may be, so that the sockets below it fit in the kernel's 107 bytes."""


def _ask_nobody(_place: str, _require_key: Callable[[Identities], None]) -> None:
    return None


@dataclass(frozen=True)
class Application:
    """What a front end works with. Parts are made when they are first asked for, so that `--help` is quick."""

    at_start: Settings
    live: LiveSettings | None = None
    ask_for_identities: AskForIdentities = _ask_nobody
    """Asks a person for the private keys of an encrypted repository, which a function refuses when they are others;
    None where nobody can answer."""

    @classmethod
    def from_environment(
        cls, ask_for_identities: AskForIdentities = _ask_nobody, *, makes_settings: bool = False
    ) -> Application:
        """`makes_settings` is for what writes the settings file: one that is named may be missing yet.

        Raises SettingsError.
        """
        settings = load(may_make=makes_settings)
        return cls(settings, LiveSettings(settings), ask_for_identities)

    @property
    def settings(self) -> Settings:
        """As they are now: some follow their file. Ask for them where they are used, and keep none."""
        return self.live.current() if self.live else self.at_start

    def state_dir(self) -> Path:
        """The state folder, made if need be; QEMU's user must be able to pass through it to the scratch files."""
        path = self.settings.state_dir
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error
        return path

    @cached_property
    def folders(self) -> Folders:
        from kvm_backup.services.folders import Folders

        state = self.state_dir()
        return Folders(
            locks=state / "locks",
            scratch=self.settings.scratch_dir or state / "scratch",
            runtime=self.settings.runtime_dir or _runtime_dir(state),
        )

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone of all wall-clock times. Raises SettingsError."""
        return find_zone(self.settings.timezone)

    @cached_property
    def host(self) -> str:
        """The name of this host in the history and of its queue."""
        return self.settings.host or socket.gethostname()

    @cached_property
    def hypervisor(self) -> Hypervisor:
        """Raises HypervisorUnavailableError."""
        try:
            from kvm_backup.hypervisor.connection import Hypervisor
        except ImportError as error:
            raise HypervisorUnavailableError(
                phrase("libvirt's Python module cannot be used: {error}", error=error),
                hint=phrase("Install it: apt-get install python3-libvirt."),
            ) from error

        return Hypervisor.connect(self.settings.libvirt.uri)

    @property
    def repositories(self) -> Repositories:
        """What opens them."""
        from kvm_backup.bootstrap.repositories import Repositories

        return Repositories(self)

    def repository(self, name: str | None = None) -> LocalRepository:
        """Raises as Repositories.open."""
        return self.repositories.open(name)

    def store(self, name: str | None = None) -> Store:
        """What points are read from. Raises as Repositories.store."""
        return self.repositories.store(name)

    @cached_property
    def catalogue(self) -> Catalogue:
        from kvm_backup.repository.catalogue import Catalogue

        return Catalogue.open(self.state_dir() / "catalogue.db")

    @property
    def points(self) -> Points:
        """The restore points of VMs, as the catalogue knows them."""
        from kvm_backup.bootstrap.points import Points

        return Points(self)

    @property
    def rules(self) -> Rules:
        """What settings and schedules say of single VMs."""
        from kvm_backup.bootstrap.rules import Rules

        return Rules(self)

    @cached_property
    def shipping(self) -> Shipping:
        """What works with repositories on other servers."""
        from kvm_backup.bootstrap.shipping import Shipping

        return Shipping(self)

    @property
    def shipments(self) -> Shipments:
        """The runs that ship what waits."""
        from kvm_backup.bootstrap.shipments import Shipments

        return Shipments(self.shipping)

    @property
    def remotes(self) -> Remotes:
        """What adds repositories on other servers."""
        from kvm_backup.bootstrap.remotes import Remotes

        return Remotes(self)

    @property
    def examining(self) -> Examining:
        """What doctor says of repositories on other servers."""
        from kvm_backup.bootstrap.examining import Examining

        return Examining(self)

    @property
    def places(self) -> Places:
        """The repositories as the dashboard shows them."""
        from kvm_backup.bootstrap.places import Places

        return Places(self)

    @property
    def proved_recipients(self) -> ProvedRecipients:
        """The public keys whose private one was shown on this host. Raises StorageError."""
        from kvm_backup.repository.encryption.proof import FOLDER, ProvedRecipients

        return ProvedRecipients(self.state_dir() / FOLDER)

    @cached_property
    def schedule_file(self) -> ScheduleFile:
        from kvm_backup.services.schedules.file import ScheduleFile

        return ScheduleFile(self.state_dir(), self.zone)

    @cached_property
    def schedules(self) -> ScheduleService:
        from kvm_backup.services.schedules.commands import ScheduleService

        return ScheduleService(
            file=self.schedule_file,
            zone=self.zone,
            clock=lambda: datetime.now(UTC),
            list_vms=lambda: self.hypervisor.list_vms(),
            lasting_repository=self.repositories.of_schedule,
            check_ship_to=self.repositories.check_ship_to,
        )

    @cached_property
    def database_url(self) -> URL:
        """Of the database that the history and the queue of runs are in. Raises DatabaseError."""
        from kvm_backup.database.engine import parse_url, sqlite_url

        url = self.settings.database.url
        return parse_url(url.get_secret_value()) if url else sqlite_url(self.state_dir() / "kvm-backup.db")

    @cached_property
    def database(self) -> Database:
        """Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.database.engine import Database

        return Database.open(self.database_url)

    @cached_property
    def history(self) -> History:
        """Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.database.history import History

        return History(self.database, clock=lambda: datetime.now(UTC), zone=self.zone)

    def swept_history(self) -> History:
        """The history, in which the runs of commands that were killed are marked so. Raises DatabaseError."""
        self.own_runs.sweep(self.history)
        return self.history

    @cached_property
    def own_runs(self) -> OwnRuns:
        """The runs that commands do in their own processes."""
        from kvm_backup.services.own_runs import OwnRuns

        return OwnRuns(self.state_dir() / "locks" / "runs")

    @cached_property
    def log_file(self) -> LogFile:
        from kvm_backup.services.run_log import LogFile

        log = self.settings.log
        path = log.path or self.state_dir() / "logs" / "kvm-backup.jsonl"
        return LogFile(path, max_bytes=log.max_bytes, backups=log.backups)

    def log_reader(self, run_id: str, since: datetime | None = None) -> LogReader:
        """What reads the lines of one run, which was asked for at `since`."""
        from kvm_backup.services.log_reader import LogReader

        return LogReader(self.log_file, run_id, since)

    @cached_property
    def requests(self) -> Requests:
        """What makes requests for runs, to be given to `RunWork.start` or `RunQueue.enqueue`."""
        from kvm_backup.services.requests import Requests

        return Requests(
            host=self.host,
            clock=lambda: datetime.now(UTC),
            open_repository=self.repository,
            view=lambda name: self.store(name).view,
            is_far=lambda name: name in self.shipping.remotes,
            lasting_name=self.repositories.lasting_name,
            hypervisor=lambda: self.hypervisor,
        )

    @cached_property
    def work(self) -> RunWork:
        """What does runs."""
        from kvm_backup.bootstrap.work import RunWork

        return RunWork(self)

    @cached_property
    def queue(self) -> RunQueue:
        """What is asked of the service."""
        from kvm_backup.bootstrap.queue import RunQueue

        return RunQueue(self)

    def service_runs(self) -> bool:
        """Whether the service works on this state folder."""
        from kvm_backup.runtime.heartbeat import service_runs

        return service_runs(self.settings.state_dir)

    @cached_property
    def facts(self) -> Facts:
        """What pages show. Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.bootstrap.surveying import not_ticking
        from kvm_backup.services.facts import make_facts

        return make_facts(
            self.database,
            self.history,
            self.schedule_file,
            host=self.host,
            zone=self.zone,
            clock=lambda: datetime.now(UTC),
            daemon=partial(not_ticking, self),
        )

    @property
    def inventory(self) -> Inventory:
        return self.facts.inventory

    @property
    def statistics(self) -> Statistics:
        return self.facts.statistics

    @property
    def alerts(self) -> AlertService:
        return self.facts.alerts

    @property
    def calendar(self) -> CalendarService:
        return self.facts.calendar

    @property
    def overview(self) -> OverviewService:
        return self.facts.overview

    @cached_property
    def survey(self) -> Survey:
        """What finds the facts out, in the service. Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.bootstrap.surveying import survey_of

        return survey_of(self)

    @cached_property
    def access(self) -> AccessServices:
        """Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.services.access import make_access

        return make_access(self.database, clock=lambda: datetime.now(UTC))

    @property
    def accounts(self) -> AccountService:
        return self.access.accounts

    @property
    def sign_in(self) -> SignInService:
        return self.access.sign_in

    @property
    def api_tokens(self) -> ApiTokenService:
        return self.access.api_tokens

    @property
    def audit(self) -> AuditLog:
        return self.access.audit


def _runtime_dir(state: Path) -> Path:
    """Where the sockets of runs lie: in the state folder, or below /run when its path is too long for a socket.

    Two state folders never share one, so that the clean-up of one cannot end a run of the other.
    """
    inside = state / "run"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_ROOM:
        return inside
    base = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108
    return base / f"kvm-backup-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
