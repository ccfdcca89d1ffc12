"""What doctor is given of the repositories on other servers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.sizes import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm_backup.bootstrap import Application
    from kvm_backup.config.repository import RepositorySettings
    from kvm_backup.domain.waiting import RemoteState
    from kvm_backup.repository.ssh.remote import Remote
    from kvm_backup.services.checks import Check
    from kvm_backup.services.remotes.examination import Copied, Examined
    from kvm_backup.services.remotes.key_check import KeyCheck
    from kvm_backup.services.shipping.departures import Departure

_LOGIN_SECONDS = 10
_SECONDS = 40.0
"""How long a server may take with all that it is asked."""


@dataclass(frozen=True, slots=True)
class Examining:
    """Asks every server that the settings name, and changes nothing there."""

    parts: Application

    def checks(self) -> Iterator[Check]:
        """What doctor says of all remotes; nothing where there is none."""
        from kvm_backup.services.remotes.examination import examine

        remotes = self.parts.shipping.remotes
        if not remotes:
            return
        waiting = _Waiting(self.parts)
        rsync = _rsync_here()
        examined, unusable = [], []
        for name, remote in remotes.items():
            try:
                examined.append(self._examined(remote, rsync, waiting))
            except KvmBackupError as error:
                unusable.append(_problem(name, phrase("folder"), error))
        yield from unusable
        yield from examine(examined)

    def _examined(self, remote: RepositorySettings, rsync: str | None, waiting: _Waiting) -> Examined:
        from kvm_backup.services.remotes.examination import Examined

        copied = self._copied(remote, waiting) if remote.of is not None else None
        return Examined(
            name=remote.name,
            connect=partial(self._connect, remote),
            copied=copied,
            known_id=self._known_id(remote.name),
            prunes_by=str(remote.prune_address) if remote.prune_url else None,
            rsync_here=rsync,
            check_keys=self._keys(remote),
            others=[*waiting.checks(remote.name)] if copied else [],
        )

    def _copied(self, remote: RepositorySettings, waiting: _Waiting) -> Copied:
        """Raises KvmBackupError when the local repository is away."""
        from kvm_backup.services.remotes.examination import Copied

        assert remote.of is not None
        local = self.parts.repositories.configured(remote.of)
        sealing = self.parts.shipping.sealing(remote.name, local)
        return Copied(remote.of, local.id, sealing.identity, waiting.bytes(remote.name))

    def _known_id(self, name: str) -> str | None:
        with suppress(KvmBackupError):
            return self.parts.shipping.known(name).repository.id
        return None

    def _connect(self, remote: RepositorySettings) -> Remote:
        from kvm_backup.repository.ssh.remote import Remote
        from kvm_backup.services.remotes.deadline import Deadline

        hint = phrase("That server is slow or hangs: look at it. Shipping goes on as soon as it answers.")
        return Remote(
            remote.address,
            prune_address=remote.prune_address,
            config=self.parts.settings.ssh_config,
            watch=Deadline(_SECONDS, hint),
            login_timeout=_LOGIN_SECONDS,
        )

    def _keys(self, remote: RepositorySettings) -> KeyCheck:
        from kvm_backup.repository.encryption.reading import ENCRYPTED_FOLDER
        from kvm_backup.repository.mirror import mirror_path
        from kvm_backup.services.remotes.examination import titled
        from kvm_backup.services.remotes.key_check import KeyCheck

        assert remote.url is not None
        return KeyCheck(
            title=titled(remote.name, phrase("keys")),
            place=str(remote.address),
            recipients=remote.recipients,
            identity_file=remote.identity_file,
            require_proved=self.parts.proved_recipients.require,
            known=mirror_path(self.parts.state_dir(), remote.name, remote.url) / ENCRYPTED_FOLDER,
        )


@dataclass(slots=True)
class _Waiting:
    """What waits for each remote, by its name."""

    parts: Application
    departures: list[Departure] = field(init=False, default_factory=list)
    states: dict[str, RemoteState] = field(init=False, default_factory=dict)
    problem: KvmBackupError | None = None

    def __post_init__(self) -> None:
        def hidden(error: KvmBackupError) -> None:
            self.problem = self.problem or error

        try:
            self.departures = self.parts.shipments.everything_that_waits(hidden)
            self.states = {state.name: state for state in self.parts.shipping.facts.states()}
        except KvmBackupError as error:
            self.problem = error

    def bytes(self, name: str) -> int:
        return sum(one.lack.bytes for one in self.departures if one.remote == name)

    def checks(self, name: str) -> Iterator[Check]:
        from kvm_backup.services.checks import Check, Health
        from kvm_backup.services.remotes.examination import titled

        title = titled(name, phrase("waiting points"))
        if self.problem is not None:
            yield Check(title, Health.WARNING, self.problem.message, self.problem.hint)
            return
        points = sum(len(one.lack.to_ship) for one in self.departures if one.remote == name)
        if not points:
            yield Check(title, Health.OK, phrase("none"))
            return
        told = phrase("{points} ({size})", points=points, size=show_size(self.bytes(name)))
        state = self.states.get(name)
        if state is not None and state.trouble is not None:
            told = phrase("{told}; the last try failed: {error}", told=told, error=state.trouble.error)
            yield Check(title, Health.WARNING, told, state.trouble.hint)
        elif state is not None and state.late:
            hint = phrase("One waits for more than a day. See why: kvm-backup ship --waiting")
            yield Check(title, Health.WARNING, told, hint)
        elif not self.parts.service_runs():
            hint = phrase("The service does not run. Ship them now: kvm-backup ship --to {name}", name=name)
            yield Check(title, Health.WARNING, told, hint)
        else:
            yield Check(title, Health.OK, told)


def _rsync_here() -> str | None:
    from kvm_backup import process
    from kvm_backup.repository.ssh.server_facts import version_of_rsync

    with suppress(KvmBackupError):
        return version_of_rsync(process.run(["rsync", "--version"]).stdout)
    return None


def _problem(name: str, what: str, error: KvmBackupError) -> Check:
    from kvm_backup.services.checks import Check, Health
    from kvm_backup.services.remotes.examination import titled

    return Check(titled(name, what), Health.PROBLEM, error.message, error.hint)
