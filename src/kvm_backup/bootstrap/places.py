"""The repositories as the dashboard shows them: from settings and tables; no server and no manifest is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kvm_backup.config.retention import effective_rule, overridden
from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.growth import SpaceSample
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.domain.run import Run, RunKind
from kvm_backup.domain.waiting import (
    NEEDS_SOMEBODY,
    RemoteFacts,
    RemoteState,
    ShippingTrouble,
    Unshippable,
    UnshippableSum,
    Waiting,
    WaitingSum,
)

if TYPE_CHECKING:
    from kvm_backup.bootstrap import Application
    from kvm_backup.config.repository import RepositorySettings

_RECENT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A repository on this host. `points` is None where it cannot be looked into, and `problem` says why."""

    name: str
    path: str
    default: bool
    points: int | None
    space: SpaceSample | None
    copies: Sequence[str]
    problem: KvmBackupError | None = None


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """A repository on another server. `rate` is the limit now in bytes a second, None without one."""

    name: str
    url: str
    prune_url: str | None
    of: str | None
    keep_local: KeepLocal
    plan: BandwidthPlan
    rate: int | None
    rule: RetentionRule
    encrypted: bool
    facts: RemoteFacts
    waiting: WaitingSum
    going: Sequence[Run]
    trouble: ShippingTrouble | None = None
    looked_at: bool = True
    """Whether anybody has looked yet what waits for it."""
    unshippable: UnshippableSum = field(default_factory=UnshippableSum)

    @property
    def state(self) -> str:
        """In one word: refused, failing, shipping, new, queued, only-read, lacking or done."""
        if self.trouble is not None and not self.going:
            return "refused" if self.trouble.error_code in NEEDS_SOMEBODY else "failing"
        if self.going:
            return "shipping"
        if self.of is not None and not self.looked_at:
            return "new"
        if self.of is None:
            return "only-read"
        if self.waiting.points:
            return "queued"
        return "lacking" if self.unshippable.points else "done"


@dataclass(frozen=True, slots=True)
class QueueLine:
    """What waits of one VM for one remote, and the run that ships it, where one waits or goes on."""

    waiting: Waiting
    run: Run | None


@dataclass(frozen=True, slots=True)
class Queue:
    """One page of what waits; `total` lines in all."""

    lines: Sequence[QueueLine]
    total: int


@dataclass(frozen=True, slots=True)
class Places:
    """Each call is a few short queries. Raises DatabaseError."""

    parts: Application

    def here(self) -> list[LocalPlace]:
        """The repositories on this host, by name."""
        now = datetime.now(UTC)
        samples = {name: found[-1] for name, found in self.parts.statistics.space(now - _RECENT).items()}
        return [self._local(name, samples.get(name)) for name in sorted(self.parts.repositories.listed())]

    def there(self) -> list[RemotePlace]:
        """The repositories on other servers, by name."""
        facts, states = self.parts.shipping.facts.store.remotes(), self._states()
        going: dict[str, list[Run]] = {}
        for run in self.parts.history.running(self.parts.host, RunKind.SHIP):
            going.setdefault(run.repository, []).append(run)
        return [
            self._remote(name, remote, facts.get(name), states.get(name), going.get(name, []))
            for name, remote in sorted(self.parts.shipping.remotes.items())
        ]

    def queue(
        self, *, remote: str | None = None, search: str | None = None, offset: int = 0, limit: int = 50
    ) -> Queue:
        """What waits: what is being shipped first, then whatever waits longest."""
        store, history, host = self.parts.shipping.facts.store, self.parts.history, self.parts.host
        going = {_place(run): run for run in history.running(host, RunKind.SHIP)}
        lines = store.page(first=[*going], remote=remote, search=search, offset=offset, limit=limit)
        runs = {
            _place(run): run
            for run in history.unfinished_among(host, [line.vm_uuid for line in lines])
            if run.kind is RunKind.SHIP
        }
        found = [QueueLine(line, runs.get(line.place) or going.get(line.place)) for line in lines]
        return Queue(found, store.count(remote=remote, search=search))

    def unshippable(
        self, *, remote: str | None = None, search: str | None = None, limit: int = 50
    ) -> tuple[list[Unshippable], int]:
        """The first of what cannot be shipped, by the VM's name, and how many lines there are in all."""
        store = self.parts.shipping.facts.unshippable
        return store.page(remote=remote, search=search, limit=limit), store.count(remote=remote, search=search)

    def run_of(self, remote: str, folder: str) -> Run | None:
        """The run that ships a VM to a remote, where one waits or goes on."""
        waiting = self.parts.shipping.facts.store.get(remote, folder)
        runs = self.parts.history.unfinished_among(self.parts.host, [waiting.vm_uuid] if waiting else [])
        return next((run for run in runs if run.kind is RunKind.SHIP and _place(run) == (remote, folder)), None)

    def _states(self) -> dict[str, RemoteState]:
        return {state.name: state for state in self.parts.shipping.facts.states()}

    def _local(self, name: str, space: SpaceSample | None) -> LocalPlace:
        settings = self.parts.settings
        path, default = str(settings.repositories()[name]), name == settings.default_repository
        copies = self.parts.shipping.copies_of(name)
        try:
            points = self.parts.catalogue.count(self.parts.repositories.configured(name).catalogue_key)
        except KvmBackupError as error:
            return LocalPlace(name, path, default, None, space, copies, error)
        return LocalPlace(name, path, default, points, space, copies)

    def _remote(
        self,
        name: str,
        remote: RepositorySettings,
        facts: RemoteFacts | None,
        state: RemoteState | None,
        going: Sequence[Run],
    ) -> RemotePlace:
        if remote.of is None:
            rule = effective_rule(self.parts.settings.retention, remote.retention, [], None)
        else:
            rule = overridden(self.parts.rules.usual_retention(remote.of), remote.retention)
        return RemotePlace(
            name=name,
            url=remote.url or "",
            prune_url=remote.prune_url,
            of=remote.of,
            keep_local=remote.keep_local,
            plan=remote.plan,
            rate=remote.plan.limit_at(datetime.now(self.parts.zone)),
            rule=rule,
            encrypted=bool(remote.recipients),
            facts=facts or RemoteFacts(name),
            looked_at=facts is not None,
            waiting=state.waiting if state else WaitingSum(),
            going=going,
            trouble=state.trouble if state else None,
            unshippable=state.unshippable if state else UnshippableSum(),
        )


def _place(run: Run) -> tuple[str, str]:
    return run.repository, getattr(run.task, "folder", "")
