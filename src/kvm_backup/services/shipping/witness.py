"""Asks a remote which points it holds whole now, right before images go from here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kvm_backup.domain.errors import DamagedPointError, PointChangedError, RemoteAccessError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import Watch
from kvm_backup.services.keep_local import Answer
from kvm_backup.services.shipping.sealing import Sealing
from kvm_backup.services.shipping.watch import EndingWatch


@dataclass(frozen=True, slots=True)
class RemoteWitness:
    """One remote. `connect` makes its connection; `sealing` tells how points leave for it."""

    mirror: Mirror
    sealing: Sealing
    connect: Callable[[Watch], Remote]

    def ask(self, points: Sequence[Manifest], check: Callable[[], None]) -> Iterator[Answer]:
        """What the server holds of each point: by digests where an account there has them computed, else by rsync's
        checksums. Raises what `check` and `Remote` raise, and RemoteAccessError when what is there is encrypted and
        no account has. Nothing is told of a server that does not hold the copy of the local repository,
        since a disk of its own may not be mounted there; nor of one that holds the very files that are here.
        """
        with self.connect(EndingWatch(check)) as remote, self.sealing.identity() as identity:
            remote.check_copies(identity)
            remote.require_apart(self.sealing.local.root)
            if self.sealing.recipients and not remote.tells_digests:
                raise RemoteAccessError(
                    phrase(
                        "its points are encrypted, and no account there has a shell that could tell. Images never go "
                        "so: keep_local is without effect"
                    ),
                    hint=phrase('Give it a prune_url with a shell, or set keep_local = "all".'),
                )
            for point in points:
                yield self._ask(remote, point)

    def _ask(self, remote: Remote, point: Manifest) -> Answer:
        folder = self.sealing.local.path_of(point.id)
        # A folder of the VM may be mounted there, or a link.
        remote.require_another_point(folder, point.id)
        sealed = self.mirror.arrived.known(point.id, serialize(point)) if self.sealing.recipients else ()
        if self.sealing.recipients and not sealed:
            return Answer(
                point, unknown=phrase("it is encrypted, and was shipped before digests of such files were kept")
            )
        if self.sealing.recipients and not self._opens(point):
            return Answer(point, closed=True)
        try:
            lacking = remote.unlike(Shipment(folder, point, sealed))
        except (DamagedPointError, PointChangedError) as error:
            return Answer(point, unknown=error.message)
        return Answer(point, lacking=tuple(lacking))

    def _opens(self, point: Manifest) -> bool:
        """Whether it is encrypted there for somebody who is a recipient today: the key of one who is none any more
        may be lost."""
        return not self.mirror.arrived.recipients(point.id, serialize(point)).isdisjoint(self.sealing.recipients)
