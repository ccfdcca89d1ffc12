"""How a point arrives where the account has a shell.

Its files grow in `.incoming-<time>-<token>`, each in place, so that a cut costs nothing: the next attempt appends to
what is there without reading it. Then the server computes the digests that the manifest holds; one rename makes the
point. A point that is there with another manifest, consolidated since, is replaced: its files cross as the difference
to what the server has, and two renames put it in place.

Another account on the same folder may have lost its key to a thief who adds what he likes. The token is a name that
he does not know, and nothing is written where links could lead elsewhere.
"""

from collections.abc import Callable

from kvm_backup.domain.errors import KvmBackupError, NoSpaceError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Completed
from kvm_backup.repository.ssh import scripts
from kvm_backup.repository.ssh.connection import patience_for
from kvm_backup.repository.ssh.digests import differing
from kvm_backup.repository.ssh.failures import linked
from kvm_backup.repository.ssh.mending import mended
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_ABSENT = "absent"
_RESERVE = 1 << 20
"""Bytes that stay free on the server."""


def ship(transfer: Transfer, shipment: Shipment, *, base: str | None = None) -> Shipped:
    """Bring a point to the server; when it is there already and whole, nothing crosses.

    `base` is the time of a point of the same VM that the server has: what the images share with its images does not
    cross. For a consolidated point that is the full one it was made of.

    Raises BrokenChainError when the parent is not there, NoSpaceError, DamagedPointError when it does not arrive as
    it is here, RemoteUnreachableError and its like, and what the watch raises.
    """
    return _Arrival(transfer, shipment).ship(base)


class _Arrival:
    def __init__(self, transfer: Transfer, shipment: Shipment) -> None:
        self._transfer = transfer
        self._shipment = shipment
        self._connection = transfer.connection
        self._address = transfer.connection.address
        self._stamp = shipment.manifest.stamp
        self._folder = self._address.below(shipment.manifest.folder)
        self._hidden = transfer.incoming(self._stamp)
        self._incoming = f"{self._folder}/{self._hidden}"

    def ship(self, base: str | None) -> Shipped:
        self._told(scripts.PREPARE, self._folder, self._stamp, self._hidden)
        manifest = self._shipment.manifest_file
        there = self._told(scripts.LOOK, self._folder, self._stamp, manifest).stdout.strip()
        if there == self._shipment.manifest_sha256:
            if not differing(self._transfer, self._shipment, f"{self._folder}/{self._stamp}"):
                self._told(scripts.TIDY, self._folder, self._stamp, self._hidden)
                return Shipped(Moved(), already=True)
            base = base or self._stamp
        # Nothing of an encrypted file is like anything in another one.
        moved = self._send(None if self._shipment.encrypted else base)
        shipped = mended(self._transfer, self._shipment, self._incoming, differing, moved)
        self._publish("" if there == _ABSENT else there)
        return shipped

    def _send(self, base: str | None) -> Moved:
        only = self._shipment.only()
        room = self._room(base)
        if base is None:
            return self._transfer.up(self._shipment.folder, self._incoming, "--append", *only)
        self._told(scripts.BASIS, self._folder, self._hidden, base, room, *self._shipment.images)
        return self._transfer.up(
            self._shipment.folder,
            self._incoming,
            *self._shipment.as_delta(),
            f"--copy-dest={self._incoming}.basis/",
            *only,
        )

    def _room(self, base: str | None) -> str:
        """Whether there is room to join what has arrived with the older files; raises when not even without."""
        told = self._told(
            scripts.ROOM,
            self._address.path,
            self._shipment.manifest.folder,
            self._hidden,
            base or "",
            *self._shipment.names,
        )
        try:
            df, sizes = told.stdout.splitlines()
            free = int(df.split()[3]) * 1024
            arrived, older = map(int, sizes.split())
        except (IndexError, ValueError):
            return scripts.JOIN
        needed = max(0, self._shipment.size - arrived) + _RESERVE
        if free < needed:
            raise NoSpaceError(
                phrase(
                    "{place}: {id} needs {needed} MiB there, and {free} are free",
                    place=self._address,
                    id=self._shipment.manifest.id,
                    needed=-(-needed >> 20),
                    free=free >> 20,
                ),
                hint=phrase(
                    "Free space there, or have fewer points stay there (its retention) and prune it; nothing was "
                    "sent."
                ),
                vm=self._shipment.manifest.vm_name,
            )
        return scripts.JOIN if free >= self._shipment.size + older + _RESERVE else scripts.LINK

    def _publish(self, replaced: str) -> None:
        done = self._run(
            scripts.PUBLISH,
            self._folder,
            self._stamp,
            self._hidden,
            self._shipment.parent_stamp,
            replaced,
            self._shipment.manifest_file,
        )
        if done.status == scripts.PARENT_MISSING:
            raise self._shipment.parent_missing(str(self._address))
        if done.status == scripts.CHANGED:
            raise self._shipment.changed_there(str(self._address))
        self._judge(done)

    def _told(self, script: str, *arguments: str) -> Completed:
        done = self._run(script, *arguments, watch=self._transfer.watch.check)
        self._judge(done)
        return done

    def _run(self, script: str, *arguments: str, watch: Callable[[], None] = lambda: None) -> Completed:
        # It may join what arrived with an older point, and waits until all of it is on disk.
        return self._connection.run(script, *arguments, watch=watch, timeout=patience_for(2 * self._shipment.size))

    def _judge(self, done: Completed) -> None:
        if done.status == scripts.LINKED:
            raise linked(self._address, self._shipment.manifest.folder)
        if done.status != 0:
            error: KvmBackupError = self._connection.failure(done)
            error.vm = self._shipment.manifest.vm_name
            raise error
