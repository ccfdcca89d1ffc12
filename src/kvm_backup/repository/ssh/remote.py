"""A repository on another server: all that services do with it.

It is reached through one account, or two: one that adds, and perhaps may do nothing else, and one that reads and
removes (docs/adr/0010-shipping-over-ssh.md).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.marker import is_encrypted
from kvm_backup.repository.encryption.reading import no_identities
from kvm_backup.repository.ssh import (
    arrival_by_adding,
    arrival_by_rsync,
    arrival_by_shell,
    founding,
    powers,
    remote_points,
    removal,
    same_folder,
    server_facts,
)
from kvm_backup.repository.ssh.access import Access
from kvm_backup.repository.ssh.account import Account
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.arrival_by_rsync import There
from kvm_backup.repository.ssh.connection import LOGIN_SECONDS
from kvm_backup.repository.ssh.digests import differing, differing_by_adding, tells_digests
from kvm_backup.repository.ssh.incomplete import SentFile, incomplete
from kvm_backup.repository.ssh.server_facts import ServerFacts
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.token import new_token
from kvm_backup.repository.ssh.transfer import Moved, NoWatch, Watch


class Remote:
    """Connected while the `with` block lasts.

    `prune_address` is the same folder through an account that may read and remove, when `address` may not; it is
    logged in to when it is first needed. `config` is another ssh configuration file. `now` tells the time in the
    zone of the plan's hours. `watch` hears how far each transfer is, and may end it. `identities` is asked for the
    private keys when something encrypted is read. `token` is part of the names under which points arrive: with the
    same one a shipment that was cut goes on, and who does not know it can plant nothing there (token.py).
    `login_timeout` is in seconds.

    Every call raises RemoteUnreachableError, HostKeyError, RemoteAccessError, RemoteSetupError, ToolMissingError and
    what the watch raises; what else, its own text tells.
    """

    def __init__(
        self,
        address: SshAddress,
        *,
        prune_address: SshAddress | None = None,
        config: Path | None = None,
        plan: BandwidthPlan | None = None,
        now: Callable[[], datetime] = datetime.now,
        watch: Watch | None = None,
        identities: Callable[[], Identities | None] = lambda: None,
        token: str | None = None,
        login_timeout: int = LOGIN_SECONDS,
    ) -> None:
        self.address = address
        token = token or new_token()
        self._identities = identities
        self._connections = ExitStack()

        def access(to: SshAddress) -> Access:
            return Access(
                to,
                self._connections,
                config=config,
                plan=plan or BandwidthPlan(),
                now=now,
                watch=watch or NoWatch(),
                token=token,
                login_timeout=login_timeout,
            )

        self._adding = access(address)
        other = prune_address is not None and prune_address != address
        self._pruning = access(prune_address) if prune_address and other else self._adding

    def __enter__(self) -> Self:
        """Logs in to the first account."""
        try:
            _ = self._adding.transfer
        except BaseException:
            self._connections.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    @property
    def account(self) -> Account:
        """What the account that adds allows."""
        return self._adding.account

    @cached_property
    def tells_digests(self) -> bool:
        """Whether an account has digests of encrypted files computed there."""
        if self._adding.has_shell or self._pruning.has_shell:
            return True
        return self.only_adds and tells_digests(self._adding.transfer)

    def found(self, local_root: Path) -> None:
        """Make it the copy of the local repository in that folder, unless it is. For `repository add`.

        Raises RepositoryFormatError when it is the copy of another one.
        """
        if self._adding.account is Account.ADDING:
            founding.found_by_adding(self._adding.transfer, local_root)
        else:
            founding.found(self._adding.transfer, local_root)

    def check_copies(self, local_root: Path) -> None:
        """Check that it is the copy of that local repository, before anything is shipped: a disk of its own may not
        be mounted there. Works with an account that only adds.

        Raises RepositoryNotFoundError when there is none, RepositoryFormatError when it is another's.
        """
        founding.check(self._adding.transfer, local_root)

    def require_apart(self, local_root: Path, *, prunes: bool = False) -> None:
        """Check that its folder is not that of the local repository, reached another way, nor one inside the other:
        what is removed at one of them would be gone at both. Works with an account that only adds; `prunes` asks
        that one which removes.

        Raises RemoteSetupError, StorageError, NoSpaceError.
        """
        same_folder.require_apart((self._pruning if prunes else self._adding).transfer, local_root)

    def require_another_point(self, folder: Path, point_id: str) -> None:
        """The same of one point, `folder` here. Raises as `require_apart`."""
        same_folder.require_another_point(self._adding.transfer, folder, point_id)

    @property
    def only_adds(self) -> bool:
        """Whether the account that adds can do no harm to what is there."""
        return self._adding.account is Account.ADDING

    def may_remove(self) -> bool:
        """Whether the account that prunes may remove what is there."""
        return powers.may_remove(self._pruning.transfer)

    @cached_property
    def server_facts(self) -> ServerFacts | None:
        """What the server tells of itself; None where no account has a shell."""
        for access in (self._adding, self._pruning):
            if access.has_shell:
                return server_facts.ask(access.transfer)
        return None

    def identity(self) -> str | None:
        """The repository's id, None where there is none yet.

        Raises RepositoryFormatError when what is there cannot be read, RemoteAccessError when the key may not read.
        """
        return founding.identity(self._pruning.transfer)

    def ship(self, shipment: Shipment, *, base: str | None = None) -> Shipped:
        """Bring a point there, checked there; when it is there already and whole, nothing crosses.

        A point that is there in another state, consolidated since or damaged, is replaced. `base` is the time of a
        point of the same VM that the server has and whose images this one's resemble: for a consolidated point the
        full one that it was made of.

        Raises BrokenChainError when its parent is not there, NoSpaceError, DamagedPointError when it is damaged here
        or does not arrive as it is here, PointChangedError when it is not that of the manifest any more,
        RemoteAccessError when it would have to be replaced and no account may.
        """
        if self._adding.has_shell:
            return arrival_by_shell.ship(self._adding.transfer, shipment, base=base)
        there = arrival_by_rsync.look(self._adding.transfer, shipment)
        if there is There.ALL:
            return Shipped(Moved(), already=True)
        if there is There.NOTHING and self._adding.account is Account.ADDING:
            return arrival_by_adding.ship(self._adding.transfer, shipment)
        if there is There.NOTHING:
            return arrival_by_rsync.ship(self._adding.transfer, shipment)
        if self._pruning.has_shell:
            return arrival_by_shell.ship(self._pruning.transfer, shipment, base=base)
        return arrival_by_rsync.replace(self._pruning.transfer, shipment, base=base)

    def differing(self, shipment: Shipment) -> list[str] | None:
        """The files of a point that are missing there or whose digests there are not those of the shipment.

        `shipment.folder` needs to hold nothing but the manifest. None when no account has them computed, or the
        points there are encrypted, and the shipment does not tell as what it was sent: fetch it then.
        """
        if not shipment.encrypted and self.is_encrypted:
            return None
        return self._by_digests(shipment)

    def unlike(self, shipment: Shipment) -> list[str]:
        """The files of a point that are not there as the shipment has them: by digests where an account has them
        computed, as an encrypted one needs, else by rsync's checksums, for which all of its files are here.

        Raises DamagedPointError and PointChangedError when the files here are no measure.
        """
        found = self._by_digests(shipment)
        return arrival_by_rsync.unlike(self._adding.transfer, shipment) if found is None else found

    def _by_digests(self, shipment: Shipment) -> list[str] | None:
        for access in (self._adding, self._pruning):
            if access.has_shell:
                return differing(access.transfer, shipment, access.address.below(shipment.manifest.id))
        if shipment.encrypted and self.tells_digests:
            return differing_by_adding(self._adding.transfer, shipment)
        return None

    @cached_property
    def is_encrypted(self) -> bool:
        """Whether the points there are encrypted. Raises RemoteAccessError when the key may not read."""
        content = founding.identity_file(self._pruning.transfer)
        return content is not None and is_encrypted(content)

    def refresh(self, mirror: Path) -> Moved:
        """Make `mirror` hold the manifests that are there now, and no others; decrypted, where they are encrypted.
        A point that a replacement moved aside before the server died is put back first, where an account has a shell.

        Raises RepositoryNotFoundError, RepositoryFormatError, EncryptionKeyError; the mirror is as it was then.
        """
        return remote_points.mirror_manifests(
            self._pruning.transfer, mirror, self._identities, has_shell=self._pruning.has_shell
        )

    def incomplete(self, sent: Mapping[str, Sequence[SentFile]], repository_id: str) -> list[str]:
        """Which of these points, by id, are not there any more as they were sent, as far as the names and sizes of
        their files tell.

        Raises RepositoryNotFoundError and RepositoryFormatError when it is not that repository now, RemoteAccessError
        when no account may both read and write, StorageError.
        """
        founding.require(self._pruning.transfer, repository_id)
        return incomplete(self._pruning.transfer, sent)

    def fetch(self, manifest: Manifest, folder: Path) -> Moved:
        """Fetch the files of a point into `folder`; after a cut it goes on where it was.

        Nothing is checked but what had to be decrypted, of which damaged files are left out: the caller verifies
        digests as of any point, and removes what differs before it fetches again.
        Raises EncryptionKeyError, NoSpaceError, StorageError.
        """
        if not self.is_encrypted:
            return remote_points.fetch_point(self._pruning.transfer, manifest, folder)
        identities = self._identities()
        if identities is None:
            raise no_identities(self.address)
        return remote_points.fetch_encrypted_point(self._pruning.transfer, manifest, folder, identities)

    def remove(self, point_id: str) -> None:
        """Remove a point; one that is gone is no error, and what a killed `remove` left goes, too.

        Children go first: the caller's order. Raises BrokenChainError where an account with a shell finds one left,
        which it cannot among encrypted ones.
        """
        removal.remove(self._pruning, point_id)

    def clear_incoming(self, older_than: timedelta) -> None:
        """Remove what cut transfers and removals left there, untouched for that long by the server's clock."""
        removal.clear_incoming(self._pruning, older_than)
