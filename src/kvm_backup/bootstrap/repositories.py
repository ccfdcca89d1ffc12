"""The repositories that settings and schedules name, and what reads from them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kvm_backup.config.repository import DEFAULT_REPOSITORY
from kvm_backup.config.settings import settings_file
from kvm_backup.domain.errors import (
    InvalidScheduleError,
    KvmBackupError,
    RepositoryNotFoundError,
    TargetExistsError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import replace_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.schedule import Schedule
    from kvm_backup.repository.local import LocalRepository
    from kvm_backup.services.stores.store import Store

_MADE_ONCE = "repository-made"
"""Notes that the default repository was there: one that is gone is not made again, its points are elsewhere."""


@dataclass(frozen=True, slots=True)
class Repositories:
    """Opens them by name, or by path where a command may."""

    parts: Application

    def open(self, name: str | None = None) -> LocalRepository:
        """A configured repository by name, or one by its path. The default one is made on first use.

        Raises RepositoryNotFoundError, RepositoryFormatError, StorageError.
        """
        from kvm_backup.repository.local import LocalRepository

        if name is not None and "/" in name and name not in self.parts.settings.repositories():
            return LocalRepository.open(Path(name).name, Path(name).absolute())
        return self.configured(name)

    def configured(self, name: str | None = None) -> LocalRepository:
        """A repository of the settings by its name, which is all that a page may name: where else root reads and
        writes is said on the command line. Raises as `open` does.
        """
        from kvm_backup.repository.local import LocalRepository

        wanted = name or self.parts.settings.default_repository
        configured = self.parts.settings.repositories()
        path = configured.get(wanted)
        if wanted in self.parts.shipping.remotes:
            self.parts.shipping.refuse(wanted)
        if path is None:
            raise RepositoryNotFoundError(
                phrase("no repository is called {wanted!r}", wanted=wanted),
                hint=phrase(
                    "Configured: {names}. Add one with 'kvm-backup repository init PATH'.",
                    names=", ".join(sorted({*configured, *self.parts.shipping.remotes})),
                ),
            )
        state_default = self.parts.settings.state_dir / "repository"
        made_once = self.parts.settings.state_dir / _MADE_ONCE if wanted == DEFAULT_REPOSITORY else None
        if self.would_make(wanted):
            self.parts.state_dir()
            # Two first runs may meet here: whoever comes second finds what the other made.
            with suppress(TargetExistsError):
                LocalRepository.create(wanted, path)
        try:
            opened = LocalRepository.open(wanted, path)
            if path == state_default and made_once and not made_once.exists():
                # A state folder that is full must not keep anybody from the points.
                with suppress(KvmBackupError):
                    replace_content(made_once, f"{opened.id}\n".encode())
            return opened
        except RepositoryNotFoundError as error:
            raise RepositoryNotFoundError(
                phrase("repository {wanted} is configured, but there is none in {path}", wanted=wanted, path=path),
                hint=self._hint_for_missing(wanted),
            ) from error

    def _hint_for_missing(self, name: str) -> str:
        file = settings_file()
        if file is None or all(one.name != name for one in self.parts.settings.repository):
            return phrase("Is its disk mounted? Mount it first; a new repository in its place would hold no points.")
        return phrase(
            "Is its disk mounted? Mount it first; a new repository in its place would hold no points. If it is gone "
            "for good, remove the [[repository]] table named {name!r} from {file}.",
            name=name,
            file=file,
        )

    def would_make(self, name: str) -> bool:
        """Whether the first use of a repository makes it: it is the default one, and there never was one."""
        from kvm_backup.repository.local import LocalRepository

        place, made_once = self.parts.settings.state_dir / "repository", self.parts.settings.state_dir / _MADE_ONCE
        return (
            name == DEFAULT_REPOSITORY
            and self.parts.settings.repositories()[name] == place
            and not made_once.exists()
            and LocalRepository.may_be_made(place)
        )

    def listed(self) -> dict[str, Path]:
        """The folders of those on this host that somebody asked for, by name: without the one in the state folder
        where another is the default one, nothing copies it, and it holds no point.
        """
        settings = self.parts.settings
        found = dict(settings.repositories())
        wanted = settings.default_repository == DEFAULT_REPOSITORY or self.parts.shipping.copies_of(
            DEFAULT_REPOSITORY
        )
        if not wanted and found[DEFAULT_REPOSITORY] == settings.state_dir / "repository" and self._holds_nothing():
            del found[DEFAULT_REPOSITORY]
        return found

    def _holds_nothing(self) -> bool:
        """Of the one in the state folder; False where it cannot be looked into."""
        try:
            return self.would_make(DEFAULT_REPOSITORY) or not any(self.configured(DEFAULT_REPOSITORY).folders())
        except KvmBackupError:
            return False

    def store(self, name: str | None = None) -> Store:
        """What points are read from: one that `open` takes, or one on another server, by name. Raises as it does."""
        return self._remote_store(name) or self._local_store(self.open(name))

    def configured_store(self, name: str | None = None) -> Store:
        """The same for what a page may name, as of `configured`."""
        return self._remote_store(name) or self._local_store(self.configured(name))

    def _remote_store(self, name: str | None) -> Store | None:
        return self.parts.shipping.store(name) if name is not None and name in self.parts.shipping.remotes else None

    def _local_store(self, repository: LocalRepository) -> Store:
        from kvm_backup.services.stores.store import LocalStore

        return LocalStore(repository, frozenset(self.parts.shipping.remotes))

    def lasting_name(self, repository: str | None) -> str:
        """What names a repository also from another folder, for a retry or the service."""
        wanted = repository or self.parts.settings.default_repository
        if wanted not in self.parts.settings.repositories() and "/" in wanted:
            return str(Path(wanted).absolute())
        return wanted

    def root_of(self, repository: str) -> Path:
        """The folder of a repository by its name or path, whether there is one or not."""
        return self.parts.settings.repositories().get(repository, Path(repository)).resolve()

    def of_schedule(self, wanted: str) -> str:
        """Raises InvalidScheduleError."""
        if wanted not in self.parts.settings.repositories() and "/" not in wanted:
            configured = ", ".join(sorted(self.parts.settings.repositories()))
            expected = phrase("one of {choices}, or a path with a / in it", choices=configured)
            raise InvalidScheduleError("repository", wanted, expected)
        return self.lasting_name(wanted)

    def check_ship_to(self, names: Sequence[str], repository: str | None) -> None:
        """Raises InvalidScheduleError for a remote to which nothing of that local repository goes."""
        root = self.root_of(self.lasting_name(repository))
        fitting = [
            name
            for name, remote in self.parts.settings.remotes().items()
            if remote.of is not None and self.root_of(remote.of) == root
        ]
        for name in names:
            if name not in fitting:
                choices = ", ".join([*sorted(fitting), "none", "default"])
                expected = phrase("repositories on other servers that copy this one: {choices}", choices=choices)
                raise InvalidScheduleError("ship_to", name, expected)

    def in_use(self, schedules: Iterable[Schedule]) -> dict[str, Callable[[], LocalRepository]]:
        """What opens each repository that settings or schedules name, by its lasting name."""
        from kvm_backup.repository.local import LocalRepository

        configured, in_state = self.parts.settings.repositories(), self.parts.settings.state_dir / "repository"
        names = [*configured, *(self.lasting_name(schedule.repository) for schedule in schedules)]
        return {
            name: partial(self.open, name)
            for name in names
            # The one in the state folder is made by the first run that uses it.
            if configured.get(name) != in_state or not LocalRepository.may_be_made(in_state)
        }
