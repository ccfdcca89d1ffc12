"""The composition root: the one place that reads settings and puts the parts together."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from kvm_backup.config.live import LiveSettings
from kvm_backup.config.settings import Settings, load
from kvm_backup.config.zone import find_zone
from kvm_backup.domain.errors import (
    HypervisorUnavailableError,
    KvmBackupError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import storage_error

if TYPE_CHECKING:
    # Imported where they are used: libvirt and SQLAlchemy cost a command that needs neither half a second.
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import URL

    from kvm_backup.bootstrap.examining import Examining
    from kvm_backup.bootstrap.places import Places
    from kvm_backup.bootstrap.points import Points
    from kvm_backup.bootstrap.queue import RunQueue
    from kvm_backup.bootstrap.remotes import Remotes
    from kvm_backup.bootstrap.repositories import Repositories
    from kvm_backup.bootstrap.rules import Rules
    from kvm_backup.bootstrap.shipping import Shipping
    from kvm_backup.bootstrap.work import RunWork
    from kvm_backup.database.audit import AuditLog
    from kvm_backup.database.engine import Database
    from kvm_backup.database.history import History
    from kvm_backup.database.inventory import Inventory
    from kvm_backup.database.statistics import Statistics
    from kvm_backup.domain.alert import Condition
    from kvm_backup.domain.request import RunRequest
    from kvm_backup.hypervisor.connection import Hypervisor
    from kvm_backup.repository.catalogue import Catalogue
    from kvm_backup.repository.encryption.keys import Identities
    from kvm_backup.repository.encryption.proof import ProvedRecipients
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.runtime.daemon import Daemon
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
    def from_environment(cls, ask_for_identities: AskForIdentities = _ask_nobody) -> Application:
        """Raises SettingsError."""
        settings = load()
        return cls(settings, LiveSettings(settings), ask_for_identities)

    @property
    def settings(self) -> Settings:
        """As they are now: some follow their file. Ask for them where they are used, and keep none."""
        return self.live.current() if self.live else self.at_start

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

    @cached_property
    def catalogue(self) -> Catalogue:
        from kvm_backup.repository.catalogue import Catalogue

        return Catalogue.open(self.state_dir() / "catalogue.db")

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

    @cached_property
    def facts(self) -> Facts:
        """What pages show. Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.services.facts import make_facts

        return make_facts(
            self.database,
            self.history,
            self.schedule_file,
            host=self.host,
            zone=self.zone,
            clock=lambda: datetime.now(UTC),
            daemon=self._not_ticking,
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
        from kvm_backup.services.survey.survey import make_survey

        return make_survey(
            host=self.host,
            zone=self.zone,
            inventory=self.inventory,
            statistics=self.statistics,
            history=self.history,
            schedule_file=self.schedule_file,
            hypervisor=lambda: self.hypervisor,
            excluded_disks=self.rules.excluded_disks,
            catalogue=lambda: self.catalogue,
            repositories=self.repositories.in_use,
            lasting_name=self.repositories.lasting_name,
            folders={"scratch": self.folders.scratch, "state": self.state_dir()},
            reserve=self.settings.backup.space_reserve,
            keep=timedelta(days=self.settings.database.keep_days),
            settings_problem=self._settings_problem,
            shipping=self.shipping.facts,
        )

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
    def host(self) -> str:
        """The name of this host in the history and of its queue."""
        return self.settings.host or socket.gethostname()

    @property
    def proved_recipients(self) -> ProvedRecipients:
        """The public keys whose private one was shown on this host. Raises StorageError."""
        from kvm_backup.repository.encryption.proof import FOLDER, ProvedRecipients

        return ProvedRecipients(self.state_dir() / FOLDER)

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

    @cached_property
    def shipping(self) -> Shipping:
        """What works with repositories on other servers."""
        from kvm_backup.bootstrap.shipping import Shipping

        return Shipping(self)

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

    def daemon(
        self, say: Callable[[str], None], beside: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Daemon:
        """The service, and what goes on beside it (Daemon.beside).

        `say` is told what a person should read, from several threads.
        """
        from kvm_backup.database.name_claim import NameClaim
        from kvm_backup.runtime.daemon import Activity, Daemon, OnStop, oldest_remembered
        from kvm_backup.runtime.observer import Observer
        from kvm_backup.runtime.queue import DurableQueue
        from kvm_backup.runtime.recovery import mark_lost_runs
        from kvm_backup.runtime.shipper import Shipper
        from kvm_backup.runtime.status import settle_schedule
        from kvm_backup.runtime.tick import Scheduler
        from kvm_backup.runtime.work import Work
        from kvm_backup.runtime.workflows import RunWorkflow
        from kvm_backup.services.run_log import make_log

        if self.live is not None:
            self.live.say = say
        activity = Activity(OnStop(self.settings.scheduler.on_stop))
        work = Work(
            history=self.history,
            log=make_log(self.log_file, host=self.host),
            find_vm=lambda name: self.hypervisor.vm(name),
            backup_service=lambda repository, listener, stop_requested: self.work.backup_service(
                self.repository(repository), listener, stop_requested
            ),
            tasks=replace(self.work.tasks, goes_on=activity.stopping),
            say=say,
        )
        state_dir = self.state_dir()
        claim = NameClaim(self.database, self.host)

        def settled(request: RunRequest) -> None:
            def later(error: KvmBackupError) -> None:
                say(f"{request.vm}: what it waits to ship is asked for within the hour: {error.message}")

            try:
                # A run that is cut off here is settled again; what was asked for is not asked for twice.
                self.queue.asking.enqueue_all(self.shipping.after(request, later))
                self.queue.asking.follow(request)
            except KvmBackupError as error:
                later(error)
            settle_schedule(self.schedule_file, self.history, request.schedule_id)

        def make_queue() -> DurableQueue:
            workflow = RunWorkflow(
                history=self.history,
                recorder=work.recorder,
                perform=work.perform,
                prune=lambda request, listener: self.work.prune_after_backup(
                    request.vm, request.repository, listener, activity.stopping
                ),
                enqueue=lambda request, delay: queue.client.enqueue(request, delay=delay),
                settled=settled,
                clock=lambda: datetime.now(UTC),
                stopping=activity.stopping,
                pause=activity.pause,
                say=say,
                script_timeout=self.settings.hooks.timeout,
            )
            queue = DurableQueue(
                database_url=self.queue.url,
                host=self.host,
                parallel=self.settings.scheduler.parallel,
                execute=activity.counted(workflow),
                say=say,
            )
            return queue

        def make_tick(queue: DurableQueue) -> Callable[[], object]:
            scheduler = Scheduler(
                file=self.schedule_file,
                history=self.history,
                enqueue=queue.client.enqueue,
                zone=self.zone,
                clock=lambda: datetime.now(UTC),
                say=say,
                host=self.host,
                repository=self.repositories.lasting_name(None),
                catch_up=self.settings.scheduler.catch_up,
            )

            def tick() -> object:
                claim.renew()
                scheduler.repository = self.repositories.lasting_name(None)
                return scheduler.tick()

            return tick

        def housekeeping(queue: DurableQueue, now: datetime) -> None:
            mark_lost_runs(
                self.history,
                self.own_runs,
                queue.client.live_runs,
                host=self.host,
                now=now,
                say=say,
                settled=lambda schedule: settle_schedule(self.schedule_file, self.history, schedule),
            )
            queue.client.forget_ended(oldest_remembered(now))
            oldest = now - timedelta(days=self.settings.database.keep_days)
            self.history.delete_older_than(oldest)
            self.access.forget_old(oldest)
            self.alerts.forget_old(oldest)
            self.shipping.fetched.forget_old()

        @contextmanager
        def observed() -> Iterator[None]:
            observer = Observer(self.survey, self.alerts, say)
            shipper = Shipper(
                ask=lambda: self.queue.asking.enqueue_all(self.shipping.unasked(say)),
                revision=self.shipping.revision,
                say=say,
            )
            with claim.held(), observer.watching(), shipper.watching(), beside():
                yield

        return Daemon(
            state_dir=state_dir,
            host=self.host,
            activity=activity,
            make_queue=make_queue,
            make_tick=make_tick,
            housekeeping=housekeeping,
            say=say,
            beside=observed,
        )

    def _settings_problem(self) -> KvmBackupError | None:
        """Why the settings are not those of their file."""
        if self.live is None:
            return None
        self.live.current()
        return self.live.problem

    def _not_ticking(self) -> Condition | None:
        """What is wrong with the service, as its lock and its last word tell."""
        from kvm_backup.domain.alert import not_ticking
        from kvm_backup.runtime.heartbeat import moment_of, read_heartbeat

        beat = read_heartbeat(self.settings.state_dir)
        return not_ticking(
            self.host,
            running=self.service_runs(),
            started=moment_of(beat.started) if beat else None,
            ticked=moment_of(beat.ticked) if beat else None,
            now=datetime.now(UTC),
        )

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

    def state_dir(self) -> Path:
        """The state folder, made if need be; QEMU's user must be able to pass through it to the scratch files."""
        path = self.settings.state_dir
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error
        return path


def _runtime_dir(state: Path) -> Path:
    """Where the sockets of runs lie: in the state folder, or below /run when its path is too long for a socket.

    Two state folders never share one, so that the clean-up of one cannot end a run of the other.
    """
    inside = state / "run"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_ROOM:
        return inside
    base = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108
    return base / f"kvm-backup-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
