"""What leaves for a remote: the files of a point as they are, or encrypted, where its settings have recipients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.marker import identity_folder
from kvm_backup.repository.encryption.staging import Staging, remove_unneeded, stagings
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.control import SpaceWatch

TOLD_FROM = 256 << 20
"""Bytes. To encrypt fewer takes about a second: a run that ships hundreds of small points tells nothing of it."""


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
    def shipment(
        self, manifest: Manifest, check: Callable[[], None], told: Callable[[int, int], None]
    ) -> Iterator[Shipment]:
        """What is to be sent of a point; `check` is called while it is encrypted, and raises to end that. `told` gets
        how many bytes are encrypted, and of how many, where that takes longer than a moment.

        Raises DamagedPointError, PointChangedError, EncryptionKeyError, VmBusyError, NoSpaceError, StorageError.
        """
        folder = self.local.path_of(manifest.id)
        if not self.recipients:
            yield Shipment(folder, manifest)
            return
        staging = Staging.of(folder, self.remote)
        space = SpaceWatch(phrase("encrypted files"), self.local.root, self.space_reserve)
        control = _Control(check, space, told)

        def room(needed: int) -> None:
            space.check(needed)
            control.begin(needed)

        try:
            with staging.filled(manifest, self.recipients, room=room, control=control) as made:
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
    """Ends the encryption when the run shall end, or the disk is nearly full; tells how far it is."""

    def __init__(self, check: Callable[[], None], space: SpaceWatch, told: Callable[[int, int], None]) -> None:
        self._check = check
        self._space = space
        self._told = told
        self._done = 0
        self._total = 0

    def begin(self, total: int) -> None:
        """So many bytes are to be encrypted."""
        self._total = total
        self._tell()

    def advance(self, done: int) -> None:
        self._done += done
        self._tell()

    def _tell(self) -> None:
        if self._total >= TOLD_FROM:
            self._told(min(self._done, self._total), self._total)

    def check(self) -> None:
        self._check()
        self._space.check()
