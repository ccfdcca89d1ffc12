"""The composition root: the one place that reads settings and puts the parts together."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kvm_backup.config.settings import DEFAULT_REPOSITORY, Settings, load
from kvm_backup.domain.errors import RepositoryNotFoundError, TargetExistsError
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.durable import storage_error
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.backup import BackupService
from kvm_backup.services.events import Listener
from kvm_backup.services.folders import Folders
from kvm_backup.services.options import BackupOptions

if TYPE_CHECKING:
    from kvm_backup.repository.catalogue import Catalogue

_SOCKET_PATH_ROOM = 60
"""How long the runtime folder's path may be, so that the sockets below it fit in the kernel's 107 bytes."""


@dataclass(frozen=True)
class Application:
    """What a front end works with. Parts are made when they are first asked for, so that `--help` is quick."""

    settings: Settings

    @classmethod
    def from_environment(cls) -> "Application":
        """Raises SettingsError."""
        return cls(load())

    @cached_property
    def hypervisor(self) -> Hypervisor:
        """Raises HypervisorUnavailableError."""
        return Hypervisor.connect(self.settings.libvirt.uri)

    @cached_property
    def catalogue(self) -> "Catalogue":
        """Raises StorageError."""
        # A backup does without it, and SQLAlchemy takes longer to load than all else.
        from kvm_backup.repository.catalogue import Catalogue

        return Catalogue.open(self._state_dir() / "catalogue.db")

    @cached_property
    def folders(self) -> Folders:
        state = self._state_dir()
        return Folders(
            locks=state / "locks",
            scratch=self.settings.scratch_dir or state / "scratch",
            runtime=self.settings.runtime_dir or _runtime_dir(state),
        )

    def repository(self, name: str | None = None) -> LocalRepository:
        """A configured repository by name, or one by its path. The default one is made on first use.

        Raises RepositoryNotFoundError, RepositoryFormatError, StorageError.
        """
        wanted = name or self.settings.default_repository
        configured = self.settings.repositories()
        path = configured.get(wanted)
        if path is None:
            if "/" in wanted:
                return LocalRepository.open(Path(wanted).name, Path(wanted).absolute())
            raise RepositoryNotFoundError(
                f"no repository is called {wanted!r}",
                hint=f"Configured: {', '.join(sorted(configured))}. Add one with 'kvm-backup repository init PATH'.",
            )
        state_default = self.settings.state_dir / "repository"
        if wanted == DEFAULT_REPOSITORY and path == state_default and LocalRepository.may_be_made(path):
            self._state_dir()
            # Two first runs may meet here: whoever comes second finds what the other made.
            with suppress(TargetExistsError):
                return LocalRepository.create(wanted, path)
        try:
            return LocalRepository.open(wanted, path)
        except RepositoryNotFoundError as error:
            raise RepositoryNotFoundError(
                f"repository {wanted} is configured, but there is none in {path}",
                hint="Is its disk mounted? Mount it first; a new repository in its place would hold no points.",
            ) from error

    def excluded_disks(self, vm: Vm) -> frozenset[str]:
        settings = self.settings.vm.get(vm.name) or self.settings.vm.get(vm.uuid)
        return settings.exclude_disks if settings else frozenset()

    def backup_service(
        self, repository: LocalRepository, listener: Listener, stop_requested: Callable[[], bool]
    ) -> BackupService:
        """A service that backs VMs up into one repository."""
        return BackupService(
            hypervisor=self.hypervisor,
            repository=repository,
            folders=self.folders,
            options_for=self._backup_options,
            clock=lambda: datetime.now(UTC),
            listener=listener,
            stop_requested=stop_requested,
        )

    def _backup_options(self, vm: Vm) -> BackupOptions:
        backup = self.settings.backup
        own = self.settings.vm.get(vm.name) or self.settings.vm.get(vm.uuid)
        freeze = backup.freeze if own is None or own.freeze is None else own.freeze
        return BackupOptions(
            freeze_timeout=backup.freeze_timeout if freeze else None,
            compression_level=backup.compression_level,
            space_reserve=backup.space_reserve,
            lock_wait=backup.lock_wait,
            excluded_disks=self.excluded_disks(vm),
            snapshots_kept=self.settings.snapshot.keep,
        )

    def _state_dir(self) -> Path:
        """The state folder; QEMU's user must be able to pass through it to the scratch files."""
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
