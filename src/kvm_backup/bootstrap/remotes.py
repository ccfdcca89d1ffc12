"""Adding repositories on other servers, and reading anew what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kvm_backup.config.registry import prepare_table
from kvm_backup.config.repository import DEFAULT_REPOSITORY, RepositorySettings
from kvm_backup.domain.errors import BadArgumentError, RemoteAccessError, RepositoryNotFoundError
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.ssh.address import SshAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm_backup.bootstrap import Application
    from kvm_backup.repository.local import DamagedPoint
    from kvm_backup.repository.mirror import Mirror
    from kvm_backup.repository.ssh.transfer import Watch
    from kvm_backup.services.remotes.joining import Joined
    from kvm_backup.services.remotes.meeting import Stranger


_ANY_ADDRESS = "ssh://host/folder"
_EXPECTED = {
    "name": phrase("use letters, digits, '.', '-' and '_', at most 64"),
    "bandwidth": phrase("a rate looks like 20MiB or 512KiB"),
    "bandwidth_hours": phrase("hours look like 08:00-18:30 2MiB or 22:00-06:00 unlimited"),
    "recipients": phrase("each line must be the public key of an age identity, age1…"),
    "identity_file": phrase("it must be an absolute path"),
}


@dataclass(frozen=True, slots=True)
class NewRemote:
    """What somebody wants to add. `of` None is the default repository, `options` are further keys of the table."""

    name: str
    url: str
    prune_url: str | None
    of: str | None
    only_read: bool
    options: dict[str, str | Sequence[str]]

    def table(self, of: str | None) -> dict[str, str | Sequence[str]]:
        """The [[repository]] table. Raises BadArgumentError."""
        fields = {"url": str(SshAddress.parse(self.url)), "of": of or ""}
        fields["prune_url"] = str(SshAddress.parse(self.prune_url)) if self.prune_url else ""
        return {"name": self.name, **{key: text for key, text in fields.items() if text}, **self.options}


@dataclass(frozen=True, slots=True)
class Added:
    """A remote that is in the settings now, of which `points` are known to be there. `keeps_all`: images would go
    from here by its `keep_local`, and never will, since nobody there can tell that it holds what is encrypted."""

    name: str
    address: SshAddress
    joined: Joined
    points: int
    file: Path
    keeps_all: bool


@dataclass(frozen=True, slots=True)
class Remotes:
    """`add` wants the host keys to be known: ask `strangers` first, and let a person compare them."""

    parts: Application

    def strangers(self, new: NewRemote) -> Iterator[Stranger]:
        """The servers whose keys somebody must accept first, one by one.

        Raises BadArgumentError and SettingsError for what cannot be added, before any server is asked, and as
        services.remotes.meeting.
        """
        from kvm_backup.services.remotes.meeting import strangers

        remote = self.configured(new) or self._checked(new)
        return strangers(dict.fromkeys([remote.address, remote.prune_address]), self.parts.settings.ssh_config)

    def configured(self, new: NewRemote) -> RepositorySettings | None:
        """The remote that is in the settings with this very name and address. Raises BadArgumentError."""
        known = self.parts.settings.remotes().get(new.name)
        return known if known is not None and known.url == str(SshAddress.parse(new.url)) else None

    def meet(self, remote: RepositorySettings) -> None:
        """Log in to the servers of a configured remote, whose keys are known by now. Raises KvmBackupError."""
        with self.parts.shipping.connection(remote) as connection, suppress(RemoteAccessError):
            connection.identity()

    def unfit(self, new: NewRemote) -> dict[str, str]:
        """What is wrong with it by the key of its table, each in a phrase, without asking any server."""
        found: dict[str, str] = {}
        for key, url in (("url", new.url), ("prune_url", new.prune_url)):
            try:
                if url is not None:
                    SshAddress.parse(url)
            except BadArgumentError as error:
                found[key] = error.message
        if any(new.name in known for known in (self.parts.settings.repositories(), self.parts.settings.remotes())):
            found["name"] = phrase("a repository called {name!r} is there already", name=new.name)
        fields = {"name": new.name, "url": _ANY_ADDRESS, "of": new.of or DEFAULT_REPOSITORY} | new.options
        try:
            RepositorySettings.model_validate(fields)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                key = next((part for part in problem["loc"] if isinstance(part, str)), "")
                found.setdefault(key, _EXPECTED.get(key, phrase("it cannot be used like that")))
        return found

    def add(self, new: NewRemote, watch: Watch | None = None) -> Added:
        """Log in, make the folder there a copy or find that it is one to read from, and add it to the settings.

        `watch` may end what takes too long. Raises KvmBackupError; the settings are unchanged then.
        """
        from kvm_backup.services.remotes.joining import Locals, join_as_copy, join_to_read
        from kvm_backup.services.remotes.rereading import reread

        if self.parts.live is not None:
            self.parts.live.require_file()
        remote = self._checked(new)
        if remote.recipients:
            self.parts.proved_recipients.require(remote.recipients)
        state = self.parts.state_dir()
        here = Locals(self.parts.settings.default_repository, self.parts.repositories.configured, self._known_id)
        # What only a copy has says that a copy is wanted, as naming the repository does.
        wanted = new.of or (here.default if {"keep_local", "recipients"} & new.options.keys() else None)
        with self.parts.shipping.connection(remote, watch) as connection:
            joined = (
                join_to_read(connection)
                if new.only_read
                else join_as_copy(connection, here, wanted, remote.recipients)
            )
            points = 0
            if joined.readable and not joined.made:
                assert remote.url is not None
                mirror = reread(connection, new.name, remote.url, state, joined.repository_id)
                if joined.of is not None:
                    self._vouch(joined.of, mirror)
                points = self._catalogued(mirror)[0]
            would_go = joined.of is not None and remote.keep_local is not KeepLocal.ALL
            keeps_all = bool(would_go and remote.recipients and not connection.tells_digests)
        # The file may have been changed since, by somebody who was asked something longer.
        file = prepare_table(new.table(joined.of)).write()
        if self.parts.live is not None:
            self.parts.live.take()
        return Added(new.name, remote.address, joined, points, file, keeps_all)

    def rescan(self, name: str) -> tuple[int, list[DamagedPoint]]:
        """Read anew what a remote holds: how many points, and those whose manifests cannot be read. That works, too,
        while the local repository that it copies is lost.

        Raises KvmBackupError; what was known of it stays then.
        """
        from kvm_backup.services.remotes.rereading import reread

        remote = self.parts.shipping.remote(name)
        expected = None
        if remote.of is not None:
            with suppress(RepositoryNotFoundError):
                expected = self.parts.repositories.configured(remote.of).id
        assert remote.url is not None
        with self.parts.shipping.connect(name) as connection:
            mirror = reread(connection, name, remote.url, self.parts.state_dir(), expected)
        if remote.of is not None and expected is not None:
            self._vouch(remote.of, mirror)
        return self._catalogued(mirror)

    def _vouch(self, of: str, mirror: Mirror) -> None:
        """What is there just as here is this host's own, whoever brought it there. Raises StorageError."""
        from kvm_backup.services.shipping.lack import own_points

        mirror.vouch(own_points(self.parts.repositories.configured(of), mirror))

    def _catalogued(self, mirror: Mirror) -> tuple[int, list[DamagedPoint]]:
        damaged = self.parts.catalogue.refresh(mirror.repository, everything=True)
        return len(self.parts.catalogue.points(mirror.repository)), damaged

    def _checked(self, new: NewRemote) -> RepositorySettings:
        if new.only_read and new.of:
            raise BadArgumentError(
                phrase("--of and --only-read exclude each other"),
                hint=phrase("Nothing is shipped to a repository that is only read."),
            )
        of = None if new.only_read else new.of or self.parts.settings.default_repository
        return prepare_table(new.table(of)).settings.remotes()[new.name]

    def _known_id(self, name: str) -> str | None:
        """The id of a local repository; None where there is none and none was: nothing is made for the question.

        Raises RepositoryNotFoundError when one that was there is away.
        """
        from kvm_backup.repository.local import LocalRepository

        path = self.parts.settings.repositories().get(name)
        if path is None:
            return None
        try:
            return LocalRepository.open(name, path).id
        except RepositoryNotFoundError:
            if self.parts.repositories.would_make(name):
                return None
            raise
