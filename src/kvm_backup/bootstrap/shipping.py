"""The parts that work with repositories on other servers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, NoReturn

from kvm_backup.config.retention import effective_rule
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError, RepositoryNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.shipping import remotes_of_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_backup.bootstrap import Application
    from kvm_backup.config.repository import RepositorySettings
    from kvm_backup.domain.retention import RetentionRule
    from kvm_backup.domain.vm import Vm
    from kvm_backup.repository.encryption.keys import Identities
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.repository.mirror import Mirror
    from kvm_backup.repository.ssh.remote import Remote
    from kvm_backup.repository.ssh.transfer import Watch
    from kvm_backup.services.events import Listener
    from kvm_backup.services.prune import VmPoints
    from kvm_backup.services.shipping.departures import Departures
    from kvm_backup.services.shipping.facts import ShippingFacts
    from kvm_backup.services.shipping.prune import RemotePruneService
    from kvm_backup.services.shipping.sealing import Sealing
    from kvm_backup.services.shipping.ship import ShipService
    from kvm_backup.services.shipping.witness import RemoteWitness
    from kvm_backup.services.stores.fetched import FetchedFolders
    from kvm_backup.services.stores.mending import Mending
    from kvm_backup.services.stores.remote import RemoteStore


@dataclass(frozen=True)
class Shipping:
    """What an application offers that has remotes. Names are those of the settings."""

    parts: Application

    @property
    def remotes(self) -> dict[str, RepositorySettings]:
        return self.parts.settings.remotes()

    def remote(self, name: str) -> RepositorySettings:
        """Raises RepositoryNotFoundError."""
        try:
            return self.remotes[name]
        except KeyError as error:
            raise RepositoryNotFoundError(
                phrase("no repository on another server is called {name!r}", name=name),
                hint=phrase(
                    "See 'kvm-backup repository list'; add one with 'kvm-backup repository add NAME ssh://…'."
                ),
            ) from error

    def mirror(self, name: str) -> Mirror:
        """What a remote is known to hold. Raises RepositoryNotFoundError when that was never read."""
        from kvm_backup.repository.mirror import Mirror

        remote = self.remote(name)
        assert remote.url is not None
        if remote.of is None:
            return Mirror.open_existing(name, remote.url, self.parts.state_dir())
        return Mirror.open(name, remote.url, self.parts.state_dir(), self.parts.repository(remote.of).id)

    def known(self, name: str) -> Mirror:
        """What a remote is known to hold, also while the local repository that it copies is lost.

        Raises RepositoryNotFoundError when that was never read.
        """
        from kvm_backup.repository.mirror import Mirror

        remote = self.remote(name)
        assert remote.url is not None
        try:
            return Mirror.open_existing(name, remote.url, self.parts.state_dir())
        except RepositoryNotFoundError:
            return self.mirror(name)

    def store(self, name: str) -> RemoteStore:
        """What reads from a remote. Raises RepositoryNotFoundError when that was never read."""
        from kvm_backup.services.stores.remote import RemoteStore

        return RemoteStore(
            mirror=self.known(name),
            address=str(self.remote(name).address),
            connect=partial(self.connect, name),
            folders=self.fetched,
            space_reserve=self.parts.settings.backup.space_reserve,
            mending=self._mending(name),
        )

    def _mending(self, name: str) -> Mending | None:
        """None where nothing is shipped there, or cannot be since the local repository is away."""
        from kvm_backup.services.prune import points_in
        from kvm_backup.services.stores.mending import Mending

        local = self.remote(name).of
        try:
            service = self.service(name)
        except KvmBackupError:
            return None
        assert local is not None

        def kept(folder: str) -> set[str]:
            points = points_in(service.local, folder)
            if name not in self.remotes_of(local, points):
                return set()
            return {verdict.id for verdict in service.lack(points).verdicts if verdict.kept}

        return Mending(service.local, service.mirror, kept)

    @property
    def fetched(self) -> FetchedFolders:
        """What was fetched, below the scratch folder."""
        from kvm_backup.services.stores.fetched import FetchedFolders

        folders = self.parts.folders
        return FetchedFolders(folders.scratch, folders.locks, self.parts.settings.backup.lock_wait)

    def prune_service(self, name: str, listener: Listener, stop_requested: Callable[[], bool]) -> RemotePruneService:
        """What prunes a remote by its own rule. Raises RepositoryNotFoundError, and BadArgumentError for one that
        another host ships to when the settings do not say what shall stay there.
        """
        from kvm_backup.services.shipping.lack import surplus_of
        from kvm_backup.services.shipping.prune import RemotePruneService

        parts = RemotePruneService(
            mirror=self.known(name),
            local=None,
            connect=partial(self.connect, name),
            lack=lambda wanted: surplus_of(
                self.known(name).repository,
                wanted.folder.name,
                self.rule(name, wanted.vm, wanted.vm_uuid or ""),
                self.parts.zone,
                datetime.now(UTC),
            ),
            prepare=partial(self._prepare_foreign, name),
            settle=lambda _wanted: None,
            locks=self.parts.folders.locks,
            lock_wait=self.parts.settings.backup.lock_wait,
            listener=listener,
            stop_requested=stop_requested,
        )
        remote = self.remote(name)
        if remote.of is not None:
            ship = self.service(name, listener, stop_requested)
            return replace(
                parts,
                local=ship.local,
                lack=ship.lack,
                prepare=ship.check_copies,
                settle=lambda wanted: ship.settle(replace(wanted, folder=ship.local.root / wanted.folder.name)),
            )
        if not remote.retention.model_dump(exclude_none=True):
            raise BadArgumentError(
                phrase("what shall stay in repository {name} is not said, and another host ships there", name=name),
                hint=phrase("Say it in the settings, in its table [repository.retention]: last = 30, for instance."),
            )
        return parts

    def _prepare_foreign(self, name: str, remote: Remote) -> None:
        """Another host may have shipped there since; or it is a repository of this one. Raises KvmBackupError."""
        from kvm_backup.repository.local import LocalRepository

        self.parts.remotes.rescan(name)
        there = self.known(name).repository.id
        for local, path in self.parts.settings.repositories().items():
            with suppress(RepositoryNotFoundError):
                here = LocalRepository.open(local, path)
                if here.id == there:
                    remote.require_apart(here.root, prunes=True)

    def refuse(self, name: str) -> NoReturn:
        """Raises for a remote that was named where a repository on this host belongs."""
        local = self.remote(name).of
        raise BadArgumentError(
            phrase("repository {name} is on another server, this takes one on this host", name=name),
            hint=phrase(
                "Backups are written to repository {local}, and shipped to {name} from there. What {name} holds can"
                " be listed, verified, restored and pruned.",
                local=local,
                name=name,
            )
            if local
            else phrase("It is only read from: its points can be listed, verified and restored."),
        )

    def connect(self, name: str, watch: Watch | None = None) -> Remote:
        """A connection, to be entered. Raises RepositoryNotFoundError, StorageError, NoSpaceError."""
        return self.connection(self.remote(name), watch)

    def connection(self, remote: RepositorySettings, watch: Watch | None = None) -> Remote:
        """The same to a remote that need not be in the settings yet. Raises StorageError, NoSpaceError."""
        from kvm_backup.repository.mirror import mirror_path
        from kvm_backup.repository.ssh.remote import Remote
        from kvm_backup.repository.ssh.token import kept_token

        assert remote.url is not None
        return Remote(
            remote.address,
            prune_address=remote.prune_address,
            config=self.parts.settings.ssh_config,
            plan=remote.plan,
            now=lambda: datetime.now(self.parts.zone),
            watch=watch,
            identities=partial(self.identities, remote),
            token=kept_token(mirror_path(self.parts.state_dir(), remote.name, remote.url)),
        )

    def identities(self, remote: RepositorySettings) -> Identities | None:
        """The private keys to read a remote with, from its file, else from whoever sits there; None without any.

        Raises EncryptionKeyError, StorageError.
        """
        from kvm_backup.repository.encryption.keys import Identities
        from kvm_backup.repository.encryption.reading import ENCRYPTED_FOLDER, require_key
        from kvm_backup.repository.mirror import mirror_path

        if remote.identity_file is not None:
            return Identities.load(remote.identity_file)
        assert remote.url is not None
        known = mirror_path(self.parts.state_dir(), remote.name, remote.url) / ENCRYPTED_FOLDER
        return self.parts.ask_for_identities(str(remote.address), partial(require_key, known))

    def sealing(self, name: str, local: LocalRepository) -> Sealing:
        """How points leave for a remote."""
        from kvm_backup.services.shipping.sealing import Sealing

        return Sealing(
            remote=name,
            local=local,
            recipients=self.remote(name).recipients,
            require_proved=self.parts.proved_recipients.require,
            space_reserve=self.parts.settings.backup.space_reserve,
            remotes=lambda: {each for each, remote in self.remotes.items() if remote.recipients},
        )

    def service(
        self,
        name: str,
        listener: Listener = lambda _event: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> ShipService:
        """What ships to a remote. Raises RepositoryNotFoundError, also when nothing is shipped there."""
        from kvm_backup.services.shipping.ship import ShipService

        remote = self.remote(name)
        if remote.of is None:
            raise RepositoryNotFoundError(
                phrase("nothing is shipped to {name}: its settings have no 'of'", name=name),
                hint=phrase("It is a repository of another host, to restore from."),
            )
        local = self.parts.repository(remote.of)
        return ShipService(
            name=name,
            local=local,
            sealing=self.sealing(name, local),
            mirror=self.mirror(name),
            connect=partial(self.connect, name),
            rule_for=partial(self.rule, name),
            zone=self.parts.zone,
            clock=lambda: datetime.now(UTC),
            locks=self.parts.folders.locks,
            lock_wait=self.parts.settings.backup.lock_wait,
            may_remove=remote.prune_url is not None,
            may_compare=not remote.recipients or remote.identity_file is not None,
            settle=partial(self._let_go, remote.of, listener, stop_requested),
            listener=listener,
            stop_requested=stop_requested,
        )

    def _let_go(self, local: str, listener: Listener, stop_requested: Callable[[], bool], points: VmPoints) -> None:
        """Let images of a VM go that need not stay here (keep_local). Raises as KeepLocalService.apply does."""
        from kvm_backup.domain.keep_local import keeps_most
        from kvm_backup.services.keep_local import KeepLocalService

        service = KeepLocalService(
            repository=self.parts.repository(local),
            catalogue=self.parts.catalogue,
            locks=self.parts.folders.locks,
            lock_wait=self.parts.settings.backup.lock_wait,
            listener=listener,
            stop_requested=stop_requested,
        )
        names = self.remotes_of(local, points)
        keep = keeps_most(self.remotes[name].keep_local for name in names)
        service.apply(points, {name: self.witness(name, service.repository) for name in names}, keep)

    def witness(self, name: str, local: LocalRepository) -> RemoteWitness:
        """What is asked whether a remote holds points whole. Raises RepositoryFormatError, StorageError."""
        from kvm_backup.services.shipping.witness import RemoteWitness

        return RemoteWitness(self.mirror(name), self.sealing(name, local), partial(self.connect, name))

    @cached_property
    def facts(self) -> ShippingFacts:
        """What pages, alerts and metrics know. Raises DatabaseError, NewerDatabaseError."""
        from kvm_backup.database.unshippable_points import UnshippablePoints
        from kvm_backup.database.waiting_points import WaitingPoints
        from kvm_backup.services.shipping.facts import ShippingFacts

        return ShippingFacts(
            store=WaitingPoints(self.parts.database, self.parts.host),
            unshippable=UnshippablePoints(self.parts.database, self.parts.host),
            departures=self.departures,
            history=self.parts.history,
            catalogue=lambda: self.parts.catalogue,
            remotes=lambda: {name: remote.of for name, remote in self.remotes.items()},
            mirror=lambda name: self.mirror(name).repository,
            host=self.parts.host,
            clock=lambda: datetime.now(UTC),
        )

    @cached_property
    def departures(self) -> Departures:
        """What waits, and the runs that ship it."""
        from kvm_backup.services.shipping.departures import Departures

        return Departures(
            host=self.parts.host,
            locals=lambda: sorted({remote.of for remote in self.remotes.values() if remote.of is not None}),
            open_repository=self.parts.repository,
            remotes_of=self.remotes_of,
            service=self.service,
            shipment=self.parts.requests.shipment,
            history=lambda: self.parts.history,
        )

    def remotes_of(self, local: str, points: VmPoints) -> list[str]:
        """Where the points of a VM go that are in a local repository.

        Raises SchedulesFileError, StorageError: what the schedules say must be known.
        """
        copies = self.copies_of(local)
        if not copies:
            return []
        own = self.parts.rules.of_vm(points.vm, points.vm_uuid)
        schedules = self.parts.rules.schedules_of_vm(points.vm, points.vm_uuid, self.parts.repository(local))
        return remotes_of_vm(copies, own.ship_to if own else None, [schedule.ship_to for schedule in schedules])

    def copies_of(self, local: str) -> list[str]:
        """The remotes that copy a local repository."""
        return [name for name, remote in self.remotes.items() if remote.of == local]

    def rule(self, name: str, vm_name: str, vm_uuid: str) -> RetentionRule:
        """What a remote keeps of a VM: of each key what is said of the remote, else what holds for the local one."""
        from kvm_backup.config.retention import overridden

        remote = self.remote(name)
        if remote.of is None:
            return effective_rule(self.parts.settings.retention, remote.retention, [], None)
        here = self.parts.rules.retention(self.parts.repository(remote.of), vm_name, vm_uuid)
        return overridden(here, remote.retention)

    def unshippable(self, local: LocalRepository, vm: Vm) -> frozenset[str]:
        """The ids of a VM's points that a remote cannot get. What cannot be found out now counts as none: no backup
        fails for it.
        """
        return self._found_out(local, vm, self.departures.unshippable)

    def closed(self, local: LocalRepository, vm: Vm) -> frozenset[str]:
        """The ids of a VM's points that a remote holds encrypted for none of today's recipients; else as
        `unshippable`."""
        return self._found_out(local, vm, self.departures.closed)

    def _found_out(
        self, local: LocalRepository, vm: Vm, ask: Callable[[VmPoints, str], frozenset[str]]
    ) -> frozenset[str]:
        from kvm_backup.services.prune import points_of

        if not self.remotes:
            return frozenset()
        with suppress(KvmBackupError):
            points = points_of(local, vm.name, vm.uuid)
            if points is not None:
                return ask(points, local.name)
        return frozenset()

    def waiting(self, local: str, points: VmPoints) -> dict[str, str]:
        """The ids of points that local retention must leave alone, with the remotes that they wait for."""
        return self.departures.waiting(points, local) if self.remotes else {}
