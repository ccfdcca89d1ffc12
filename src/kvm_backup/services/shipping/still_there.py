"""Asks a server right before points go there by its rule: does it hold what shall stay?

What this host noted when it shipped is not enough for that: a server may have been set back, or lost files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest, serialize
from kvm_backup.repository.encryption.files import SUFFIX
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.incomplete import SentFile
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.links import images_are_here
from kvm_backup.services.shipping.lack import Lack, shown


@dataclass(frozen=True, slots=True)
class StillThere:
    """Of one remote. `local` is the repository that it copies, None where another host ships there."""

    mirror: Mirror
    local: LocalRepository | None

    def settled(self, remote: Remote, look: Callable[[], Lack], tell: Callable[[str], None]) -> Lack:
        """What `look` finds once the server holds all of what stays in its favour; `tell` gets what it does not.

        That is taken out of the mirror, so that it counts no more, and waits for the remote again where it is here.
        Names and sizes of all that stays are asked for; and all bytes of those images of the newest point that are
        not here, as far as an account has a shell to compute digests. Raises what `Remote` raises, StorageError,
        RemoteSetupError when the account that removes sees the local repository itself.
        """
        if self.local is not None and look().to_remove:
            remote.require_apart(self.local.root, prunes=True)
        while (lack := look()).to_remove:
            gone = self._incomplete(remote, lack.kept_there) or list(self._damaged(remote, lack.newest_there))
            if not gone:
                break
            for point in reversed(gone):
                self.mirror.forget(point)
            tell(
                phrase(
                    "{name} does not hold whole what was shipped to it, and nothing goes in favour of that: {points}",
                    name=self.mirror.repository.name,
                    points=shown(gone),
                )
            )
        return lack

    def _incomplete(self, remote: Remote, points: Sequence[Manifest]) -> list[str]:
        encrypted = remote.is_encrypted
        sent = {
            point.id: self._sealed(point) or [SentFile(f"{one.name}{SUFFIX}", None) for one in self._plain(point)]
            if encrypted
            else self._plain(point)
            for point in points
        }
        return remote.incomplete(sent, self.mirror.repository.id) if sent else []

    def _damaged(self, remote: Remote, points: Sequence[Manifest]) -> Iterator[str]:
        """Without a shell nobody can tell: then names and sizes must do."""
        for point in points:
            if self._is_here(point):
                continue
            sealed = self.mirror.arrived.known(point.id, serialize(point)) if remote.is_encrypted else ()
            differing = remote.differing(Shipment(self.mirror.repository.path_of(point.id), point, sealed)) or ()
            # Its mirrored manifest need not have the very bytes of that there.
            if set(differing) - {MANIFEST_FILE}:
                yield point.id

    def _is_here(self, point: Manifest) -> bool:
        return (
            self.local is not None
            and self.local.elsewhere(point.id) is None
            and self.local.path_of(point.id).is_dir()
            and self.local.examine(point.id) == point
            and images_are_here(self.local, point)
        )

    def _sealed(self, point: Manifest) -> list[SentFile]:
        return [SentFile(one.name, one.bytes) for one in self.mirror.arrived.known(point.id, serialize(point))]

    def _plain(self, point: Manifest) -> list[SentFile]:
        images = [SentFile(disk.file, disk.bytes_stored) for disk in point.disks if disk.file]
        files = [SentFile(stored.name, stored.bytes) for stored in point.files]
        return [*images, *files, SentFile(MANIFEST_FILE, None)]
