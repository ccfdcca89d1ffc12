"""Fetches files of points from another server, and takes none that is not what the manifest says."""

import hashlib
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError, PointChangedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, DiskMode, Manifest
from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.digest import image_sha256
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.failures import FolderMissingError
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.services.stores.fetched import place_manifest


def needed_for(chain: Sequence[Manifest]) -> list[Manifest]:
    """The points of a chain with those files alone that restoring its last point reads, full one first.

    A disk that a point holds whole needs nothing below it. Points of which nothing is needed are left out.
    """
    *below, last = chain
    needed = [last]
    open_disks = {disk.target for disk in last.disks if disk.mode is DiskMode.INCREMENTAL}
    for point in reversed(below):
        disks = tuple(disk for disk in point.disks if disk.target in open_disks)
        open_disks -= {disk.target for disk in disks if disk.mode is not DiskMode.INCREMENTAL}
        if disks:
            needed.insert(0, point.model_copy(update={"disks": disks, "files": ()}))
    return needed


def size_of(point: Manifest) -> int:
    """Bytes of the files of a point, without its manifest."""
    return sum(disk.bytes_stored for disk in point.disks if disk.file) + sum(file.bytes for file in point.files)


@dataclass(frozen=True, slots=True)
class FetchedPoint:
    """A point, or the part of it that is needed, in the folder that it is fetched to. `place` is the server's."""

    point: Manifest
    fetched: LocalRepository
    mirror: Mirror
    place: str

    @property
    def folder(self) -> Path:
        return self.fetched.path_of(self.point.id)

    def missing(self, control: CopyControl) -> int:
        """Bytes that are not here. What is here and wrong is removed. Raises what `control.check` raises."""
        wrong = self._wrong(control)
        here = 0
        for name in wrong:
            size = _size(self.folder / name)
            if size is not None and size < self._bytes(name):
                here += size
            else:
                self._remove([name])
        return sum(self._bytes(name) for name in wrong) - here

    def fetch(self, remote: Remote, control: CopyControl) -> list[str]:
        """Fetch what is not here; the names of files that are not as they should be, also after a second try.

        Raises what `Remote.fetch` raises, and the control.
        """
        self._fetch_all(remote)
        wrong = self._wrong(control)
        if wrong:
            self._remove(wrong)
            self._fetch_all(remote)
            wrong = self._wrong(control)
        return wrong

    def _fetch_all(self, remote: Remote) -> None:
        # What is there now shall come, not be taken for what is here.
        self._remove([MANIFEST_FILE])
        try:
            remote.fetch(self.point, self.folder)
        except FolderMissingError:
            if remote.identity() is None:
                raise
            return

    def require(self, wrong: Sequence[str]) -> None:
        """Raises for files that did not come as they should: PointChangedError, DamagedPointError."""
        if wrong:
            raise self._changed() if self._manifest_differs() else self._damaged(wrong)
        place_manifest(self.mirror, self.fetched, self.point.id)

    def _manifest_differs(self) -> bool:
        """Whether the manifest there is not the one that was last read."""
        try:
            there = durable.read_limited(self.folder / MANIFEST_FILE, MANIFEST_BYTES_MAX)
            known = durable.read_limited(
                self.mirror.repository.path_of(self.point.id) / MANIFEST_FILE, MANIFEST_BYTES_MAX
            )
        except KvmBackupError:
            return True
        return there != known

    def remove_files(self) -> None:
        """Make room; the manifest as it was last read stays, for the points that build on this one."""
        self._remove(self._names)
        place_manifest(self.mirror, self.fetched, self.point.id)

    def _wrong(self, control: CopyControl) -> list[str]:
        return [name for name in self._names if not self._is_whole(name, control)]

    def _remove(self, names: Iterable[str]) -> None:
        for path in (self.folder / name for name in names):
            try:
                if path.is_dir() and not path.is_symlink():
                    durable.remove_tree(path)  # that server puts a folder in the place of a file
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise durable.storage_error(error, path) from error

    @property
    def _names(self) -> list[str]:
        return [*(disk.file for disk in self.point.disks if disk.file), *(file.name for file in self.point.files)]

    def _bytes(self, name: str) -> int:
        images = {disk.file: disk.bytes_stored for disk in self.point.disks}
        return images[name] if name in images else next(one.bytes for one in self.point.files if one.name == name)

    def _is_whole(self, name: str, control: CopyControl) -> bool:
        path = self.folder / name
        if _size(path) != self._bytes(name):
            return False
        disk = next((disk for disk in self.point.disks if disk.file == name), None)
        if disk is not None:
            return disk.image_sha256 is not None and image_sha256(path, control) == disk.image_sha256
        wanted = next(one.sha256 for one in self.point.files if one.name == name)
        return hashlib.sha256(durable.read_limited(path, self._bytes(name))).hexdigest() == wanted

    def _changed(self) -> PointChangedError:
        return PointChangedError(
            phrase("{id} is not at {place} as it was when that was last read", id=self.point.id, place=self.place),
            hint=phrase(
                "Read it anew, then try again: kvm-backup repository rescan {name}", name=self.mirror.repository.name
            ),
            vm=self.point.vm_name,
        )

    def _damaged(self, names: Sequence[str]) -> DamagedPointError:
        return DamagedPointError(
            phrase("{id} is damaged at {place}: {names}", id=self.point.id, place=self.place, names=", ".join(names)),
            hint=phrase(
                "It was fetched twice and is not what its manifest says. Restore another point;"
                " 'kvm-backup verify --repository {name}' tells which are whole there.",
                name=self.mirror.repository.name,
            ),
            vm=self.point.vm_name,
        )


class FetchWatch:
    """The eye and hand of a run on rsync: `told` gets the bytes that transfers add to what they had reached."""

    def __init__(self, check: Callable[[], None], told: Callable[[int], None] = lambda _more: None) -> None:
        self._check = check
        self._told = told
        self._size = 0
        self._reached = 0

    def begin(self, size: int) -> None:
        """The next point has so many bytes to come."""
        self._size = size
        self._reached = 0

    def reached(self, total: int) -> None:
        """rsync's word, which counts what was here already as well, and begins anew with each transfer."""
        now = min(total, self._size)
        if now > self._reached:
            self._told(now - self._reached)
            self._reached = now

    def check(self) -> None:
        """Raises CancelledError, NoSpaceError."""
        self._check()

    def finish(self) -> None:
        """All of the point is here."""
        self.reached(self._size)


def _size(path: Path) -> int | None:
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
