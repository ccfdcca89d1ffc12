"""What leaves for a remote: the files of a point as they are, or encrypted, where its settings have recipients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.marker import identity_folder
from kvm_backup.repository.encryption.staging import Staging, remove_unneeded, stagings
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.control import SpaceWatch


@dataclass(frozen=True, slots=True)
class Sealing:
    """How points leave for the remote of that name. `require_proved` raises for recipients whose private key nobody
    has shown; `space_reserve` is in bytes; `remotes` are the names of those that something is encrypted for.
    """

    remote: str
    local: LocalRepository
    recipients: Sequence[str]
    require_proved: Callable[[Sequence[str]], None]
    space_reserve: int
    remotes: Callable[[], set[str]]

    def identity(self) -> AbstractContextManager[Path]:
        """A folder with the kvm-backup.json that the copy has. Raises StorageError."""
        return identity_folder(self.local.root, self.recipients) if self.recipients else nullcontext(self.local.root)

    def check(self) -> None:
        """Raises EncryptionKeyError when nobody has shown that what is sent can be decrypted again."""
        if self.recipients:
            self.require_proved(self.recipients)

    @contextmanager
    def shipment(self, manifest: Manifest, check: Callable[[], None]) -> Iterator[Shipment]:
        """What is to be sent of a point; `check` is called while it is encrypted, and raises to end that.

        Raises DamagedPointError, PointChangedError, EncryptionKeyError, VmBusyError, NoSpaceError, StorageError.
        """
        folder = self.local.path_of(manifest.id)
        if not self.recipients:
            yield Shipment(folder, manifest)
            return
        staging = Staging.of(folder, self.remote)
        space = SpaceWatch("encrypted files", self.local.root, self.space_reserve)
        control = _Control(check, space)
        try:
            with staging.filled(manifest, self.recipients, room=space.check, control=control) as made:
                yield Shipment(staging.folder, manifest, made)
        except DamagedPointError:
            # Whatever is wrong with these files, the next try shall not begin with them.
            with suppress(KvmBackupError):
                staging.remove()
            raise

    def sent(self, manifest: Manifest) -> None:
        """The point is there, and noted as such. Raises StorageError."""
        if self.recipients:
            Staging.of(self.local.path_of(manifest.id), self.remote).remove()

    def clear(self, vm_folder: Path, waiting: set[str]) -> None:
        """Remove encrypted files that nothing waits for; `waiting` are the ids of points that this remote waits for.

        Raises StorageError.
        """
        if not stagings(vm_folder):
            return
        others = self.remotes() - {self.remote}

        def needed(staging: Staging) -> bool:
            if staging.remote == self.remote:
                return bool(self.recipients) and f"{vm_folder.name}/{staging.stamp}" in waiting
            return staging.remote in others and staging.point.is_dir()

        remove_unneeded(vm_folder, needed)


class _Control:
    """Ends the encryption when the run shall end, or the disk is nearly full."""

    def __init__(self, check: Callable[[], None], space: SpaceWatch) -> None:
        self._check = check
        self._space = space

    def advance(self, done: int) -> None:
        """Only what crosses the wire counts."""

    def check(self) -> None:
        self._check()
        self._space.check()
