"""The mirror of a remote: the manifests that it holds, in a folder of the state folder.

A point is there in the very state that its manifest in the mirror tells. What of it this host has shipped, and what
its rule has removed there, the ledger beside them tells, which no server can change.
The folder is like a repository without images, so that LocalRepository lists it. Whoever ships, prunes or refreshes
a VM's points holds that remote's lock on them; readers need none, for every change is one rename.
"""

import hashlib
import json
import os
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from kvm_backup.domain.errors import DamagedPointError, RepositoryFormatError, RepositoryNotFoundError, StorageError
from kvm_backup.domain.names import PARTIAL_PREFIX
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.arrived import ArrivedFiles
from kvm_backup.repository.ledger import Ledger
from kvm_backup.repository.local import FORMAT_VERSION, REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.unsettled import Unsettled

_FOLDER = "remotes"
_COMPARED_MARK = ".compared"
_READ_MARK = ".read"
"""Their times are when the mirror was; rsync leaves them, since its filters do not name them."""


def mirror_path(state_dir: Path, name: str, url: str) -> Path:
    """Where the mirror of a remote lies; one that gets another address gets another mirror.

    `url` is as the settings hold it, where each address is written in one way.
    """
    return state_dir / _FOLDER / f"{name}--{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _require_folder(name: str, root: Path) -> None:
    """Raises StorageError when something else lies where the mirror of a remote is, or belongs."""
    for path in (root.parent, root):
        if os.path.lexists(path) and not path.is_dir():
            raise StorageError(
                phrase("{path} is no folder; what is known of the remote {name} belongs there", path=path, name=name),
                hint=phrase(
                    "Move it away, then read the remote anew: kvm-backup repository rescan {name}", name=name
                ),
            )


@dataclass(frozen=True, slots=True)
class Origins:
    """Who brought points that are at a remote, as far as this host knows: their ids, each in one of the sets.

    `shipped`: this host. `back`: somebody, after this host had removed them there by the remote's rule; a server that
    was set back brings what this host shipped, a thief what he likes. `foreign`: somebody else.
    """

    shipped: frozenset[str]
    back: frozenset[str]
    foreign: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Unvouched(Container[str]):
    """Answers for the ids it is asked for: a page that shows one VM must not look at the points of ten thousand."""

    shipped: frozenset[str]

    def __contains__(self, point_id: object) -> bool:
        return point_id not in self.shipped


class Mirror:
    """`root` is its folder. `repository` reads it; its points have no files but their manifests. `arrived` knows the
    encrypted files that were sent there, `unsettled` the VMs whose images here are to be looked at again."""

    def __init__(self, name: str, root: Path, repository_id: str) -> None:
        self.root = root
        self._ledger = Ledger(root)
        self.arrived = ArrivedFiles(root)
        self.unsettled = Unsettled(root)
        self.repository = LocalRepository(name, root, repository_id, catalogue_key=f"{repository_id}@{root.name}")

    @classmethod
    def open(cls, name: str, url: str, state_dir: Path, repository_id: str) -> Self:
        """The mirror of the copy of the local repository with that id; an empty one when there is none yet.

        Raises RepositoryFormatError when it is one of another repository, StorageError.
        """
        root = mirror_path(state_dir, name, url)
        try:
            mirror = cls.open_existing(name, url, state_dir)
        except RepositoryNotFoundError:
            mirror = cls(name, root, repository_id)
            mirror._make()
        if mirror.repository.id != repository_id:
            raise RepositoryFormatError(
                phrase("the remote {name} held the points of another repository when it was last read", name=name),
                hint=phrase("Read it anew: kvm-backup repository rescan {name}", name=name),
            )
        return mirror

    @classmethod
    def open_existing(cls, name: str, url: str, state_dir: Path) -> Self:
        """The mirror of a remote that was read or shipped to before, whatever repository it is a copy of.

        Raises RepositoryNotFoundError when it was not, RepositoryFormatError, StorageError.
        """
        root = mirror_path(state_dir, name, url)
        _require_folder(name, root)
        try:
            repository = LocalRepository.open(name, root)
        except RepositoryNotFoundError as error:
            raise RepositoryNotFoundError(
                phrase("the remote {name} was not read yet", name=name),
                hint=phrase("Read it: kvm-backup repository rescan {name}", name=name),
            ) from error
        except RepositoryFormatError as error:
            raise RepositoryFormatError(
                error.message, hint=phrase("Read it anew: kvm-backup repository rescan {name}", name=name)
            ) from error
        return cls(name, root, repository.id)

    def holds(self, point_id: str, manifest: bytes) -> bool:
        """Whether the remote holds the point in the state that these bytes of its manifest tell."""
        try:
            return durable.read_limited(self._manifest(point_id), MANIFEST_BYTES_MAX) == manifest
        except DamagedPointError:
            return False

    def record(self, point_id: str, manifest: bytes) -> None:
        """Note, durably, that this host has shipped a point there in this state.

        Raises StorageError, NoSpaceError.
        """
        self.vouch([point_id])
        self.show(point_id, manifest)

    def vouch(self, point_ids: Iterable[str]) -> None:
        """Note, durably, that these points there are this host's own. Raises StorageError, NoSpaceError."""
        known = self.shipped_by_us()
        self._ledger.note_shipped(point_id for point_id in point_ids if point_id not in known)

    def show(self, point_id: str, manifest: bytes) -> None:
        """Note, durably, that the remote holds a point in this state, whoever shipped it; one that it held before is
        replaced. Raises StorageError, NoSpaceError.
        """
        file = self._manifest(point_id)
        point = file.parent
        if point.is_dir():
            durable.replace_content(file, manifest)
            return
        partial = point.with_name(f"{PARTIAL_PREFIX}{point.name}")
        durable.remove_tree(partial)
        try:
            partial.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise durable.storage_error(error, partial) from error
        durable.write_new(partial / MANIFEST_FILE, manifest)
        durable.sync_folder(partial)
        durable.rename(partial, point)
        durable.sync_folder(self.root)

    def forget(self, point_id: str, *, by_rule: bool = False) -> None:
        """Note that a point is gone there; one that is not noted is no error. `by_rule`: this host removed it there,
        by the remote's rule. Raises StorageError, NoSpaceError.
        """
        if by_rule:
            self._ledger.note_removed([point_id])
        self.repository.withdraw(point_id)
        self.arrived.forget(point_id)
        with suppress(OSError):  # other points of the VM are in it
            self.repository.path_of(point_id).parent.rmdir()

    def shipped_by_us(self) -> frozenset[str]:
        """The ids of what this host has shipped there and not removed by the rule since, also of points that are gone
        from there in another way. Raises StorageError.
        """
        return self._ledger.shipped()

    def origins(self, point_ids: Iterable[str]) -> Origins:
        """Who brought these points, which are there. Raises StorageError."""
        there = frozenset(point_ids)
        shipped = there & self.shipped_by_us()
        back = (there & self.removed_by_rule()) - shipped
        return Origins(shipped, back, there - shipped - back)

    def unvouched(self) -> Container[str]:
        """Which ids of points that are there are foreign, or back: whoever may write there may have put them there.
        None on a host that has shipped nothing there. Raises StorageError."""
        shipped = self.shipped_by_us()
        return _Unvouched(shipped) if shipped else frozenset()

    def removed_by_rule(self) -> frozenset[str]:
        """The ids of what this host has removed there by the remote's rule. Raises StorageError."""
        return self._ledger.removed()

    @property
    def read(self) -> datetime | None:
        """When all of it was last read from the remote; None when it never was, only added to."""
        return self._time_of(_READ_MARK)

    def note_read(self) -> None:
        """Note that it was read now, and so compared. Raises StorageError."""
        self._touch(_READ_MARK)
        self.note_compared()

    @property
    def compared(self) -> datetime | None:
        """When somebody last made sure that it tells what is there, as far as the account may read; None when that
        never was, or something went wrong there since."""
        return self._time_of(_COMPARED_MARK)

    def note_compared(self) -> None:
        """Note that it was compared now. Raises StorageError."""
        self._touch(_COMPARED_MARK)

    def distrust(self) -> None:
        """Have it compared before the next shipment. Raises StorageError."""
        mark = self.root / _COMPARED_MARK
        try:
            mark.unlink(missing_ok=True)
        except OSError as error:
            raise durable.storage_error(error, mark) from error

    def _touch(self, name: str) -> None:
        mark = self.root / name
        try:
            mark.touch(mode=0o600)
        except OSError as error:
            raise durable.storage_error(error, mark) from error

    def _time_of(self, name: str) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC)
        except OSError:
            return None

    def _manifest(self, point_id: str) -> Path:
        return self.repository.path_of(point_id) / MANIFEST_FILE

    def _make(self) -> None:
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(error, self.root) from error
        identity = {"format": FORMAT_VERSION, "id": self.repository.id}
        durable.replace_content(self.root / REPOSITORY_FILE, (json.dumps(identity, indent=2) + "\n").encode())
        durable.sync_folder(self.root.parent)
