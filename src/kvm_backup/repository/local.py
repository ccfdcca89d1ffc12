"""A repository in a local folder: format version 1 of docs/repository-format.md.

The files are the truth; everything else (the catalogue, libvirt's checkpoints) is checked against them.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from uuid import UUID, uuid4

from kvm_backup.domain.errors import (
    BrokenChainError,
    DamagedManifestError,
    DamagedPointError,
    KvmBackupError,
    PointNotFoundError,
    RepositoryFormatError,
    RepositoryNotFoundError,
    StorageError,
    TargetExistsError,
)
from kvm_backup.domain.names import (
    FOLDER_PATTERN,
    PARTIAL_PREFIX,
    POINT_ID_PATTERN,
    is_stamp,
    parse_stamp,
    stamp,
    vm_folder,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import (
    MANIFEST_BYTES_MAX,
    MANIFEST_FILE,
    Manifest,
    Mode,
    parse,
    serialize,
)
from kvm_backup.repository import durable
from kvm_backup.repository.elsewhere import elsewhere
from kvm_backup.repository.exchange import OLD_PREFIX, recover

REPOSITORY_FILE = "kvm-backup.json"
UNFINISHED_FILE = f".{REPOSITORY_FILE}.new-"
"""How the name of that file begins while it is written."""
FORMAT_VERSION = 1
ENCRYPTED_FORMAT_VERSION = 2
"""Of a copy whose files are encrypted; see repository/encryption."""
REMOVED_PREFIX = f"{PARTIAL_PREFIX}removed-"
"""A point that was taken away, while its files go."""
FILE_SYSTEM_FOLDER = "lost+found"
"""At the root of a file system (ext4), where a repository on a disk of its own lies."""


@dataclass(frozen=True, slots=True)
class DamagedPoint:
    """A folder that should be a restore point and cannot be read as one."""

    id: str
    path: Path
    error: KvmBackupError


class LocalRepository:
    """One repository. `name` is what settings and commands call it, `id` its UUID.

    A copy of it has the same id: `catalogue_key` is what the catalogue knows this one by.
    """

    def __init__(self, name: str, root: Path, repository_id: str, catalogue_key: str | None = None) -> None:
        self.name = name
        self.root = root
        self.id = repository_id
        self.catalogue_key = catalogue_key or repository_id

    @classmethod
    def create(cls, name: str, root: Path) -> Self:
        """Make a new repository in a folder that does not exist or is empty.

        Raises TargetExistsError when something is there already, StorageError when it cannot be made.
        """
        made = not os.path.lexists(root)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for unfinished in root.glob(f"{UNFINISHED_FILE}*"):
                unfinished.unlink()
            occupied = sorted(entry.name for entry in root.iterdir() if entry.name != FILE_SYSTEM_FOLDER)
        except OSError as error:
            raise durable.storage_error(error, root) from error
        if REPOSITORY_FILE in occupied:
            raise TargetExistsError(
                phrase("{root} is a repository already", root=root),
                hint=phrase("Use it as it is: name it in the settings, or give its path to --repository."),
            )
        if occupied:
            raise TargetExistsError(
                phrase("{root} is not empty ({occupied} is there)", root=root, occupied=occupied[0]),
                hint=phrase("Give an empty folder, or one that is not there yet."),
            )
        repository_id = str(uuid4())
        fields = {
            "format": FORMAT_VERSION,
            "id": repository_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            durable.replace_content(root / REPOSITORY_FILE, (json.dumps(fields, indent=2) + "\n").encode())
        except KvmBackupError:
            # An empty folder that stays would look like one where a disk should be mounted.
            if made:
                with suppress(OSError):
                    root.rmdir()
            raise
        durable.sync_folder(root.parent)
        return cls(name, root, repository_id)

    @classmethod
    def may_be_made(cls, root: Path) -> bool:
        """Whether nothing is there yet, or only what a killed `create` left.

        An empty folder is not enough: it may be where a disk should be mounted.
        """
        return not os.path.lexists(root) or (
            not (root / REPOSITORY_FILE).exists() and any(root.glob(f"{UNFINISHED_FILE}*"))
        )

    @classmethod
    def open(cls, name: str, root: Path) -> Self:
        """Open an existing repository. Raises RepositoryNotFoundError, RepositoryFormatError, StorageError."""
        try:
            content = durable.read_limited(root / REPOSITORY_FILE, 65536)
        except DamagedPointError as error:
            raise RepositoryNotFoundError(
                phrase("there is no repository in {root}", root=root),
                hint=phrase(
                    "Make one with 'kvm-backup repository init {root}'; a disk of its own may need mounting.",
                    root=root,
                ),
            ) from error
        try:
            fields = json.loads(content)
            version, repository_id = fields["format"], str(UUID(fields["id"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RepositoryFormatError(
                phrase("{file} cannot be read: {error}", file=root / REPOSITORY_FILE, error=error),
                hint=phrase(
                    "It was left as it is. The points beside it are plain files; qemu-img can still restore them."
                ),
            ) from error
        if version == ENCRYPTED_FORMAT_VERSION:
            raise RepositoryFormatError(
                phrase("the points in {root} are encrypted", root=root),
                hint=phrase(
                    "Read it as a repository on a server, by its ssh:// address and with identity_file; or decrypt "
                    "its files by hand with 'age -d'."
                ),
            )
        if version != FORMAT_VERSION:
            raise RepositoryFormatError(
                phrase(
                    "{root} has repository format {version!r}, this program knows {format_version}",
                    root=root,
                    version=version,
                    format_version=FORMAT_VERSION,
                ),
                hint=phrase("Use the version of KVM Backup that wrote it, or a newer one."),
            )
        return cls(name, root, repository_id)

    # Reading

    def folders(self) -> list[Path]:
        """The VM folders, by name."""
        try:
            entries = sorted(self.root.iterdir())
        except OSError as error:
            raise durable.storage_error(error, self.root) from error
        return [
            entry
            for entry in entries
            if re.fullmatch(FOLDER_PATTERN, entry.name) and entry.is_dir() and not entry.is_symlink()
        ]

    def folder_of(self, vm_uuid: str) -> Path | None:
        """The folder that holds the points of a VM, whatever the VM was called when it was made."""
        fitting = [
            (folder, self._owner(folder))
            for folder in self.folders()
            if folder.name.endswith((f"--{vm_uuid[:8]}", f"--{vm_uuid}"))
        ]
        for wanted in (vm_uuid, None):
            for folder, owner in fitting:
                if owner == wanted:
                    return folder
        return None

    def stamps(self, folder: Path) -> list[str]:
        """The points of a VM folder, oldest first, whether they can be read or not."""
        try:
            return sorted(
                entry.name
                for entry in folder.iterdir()
                if is_stamp(entry.name) and entry.is_dir() and not entry.is_symlink()
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise durable.storage_error(error, folder) from error

    def points(self, folder: Path) -> Iterator[Manifest | DamagedPoint]:
        """Every point of a VM folder, oldest first."""
        for name in self.stamps(folder):
            yield self.examine(f"{folder.name}/{name}")

    def examine(self, point_id: str) -> Manifest | DamagedPoint:
        """A point that is there, damaged or not."""
        try:
            return self.load(point_id)
        except (DamagedManifestError, DamagedPointError, StorageError) as error:
            return DamagedPoint(point_id, self.path_of(point_id), error)

    def all_points(self) -> Iterator[Manifest | DamagedPoint]:
        for folder in self.folders():
            yield from self.points(folder)

    def newest(self, folder: Path) -> Manifest | DamagedPoint | None:
        """The newest point that holds data (a snapshot is no link of a chain)."""
        for name in reversed(self.stamps(folder)):
            point = self.examine(f"{folder.name}/{name}")
            if isinstance(point, DamagedPoint) or point.mode is not Mode.SNAPSHOT:
                return point
        return None

    def load(self, point_id: str) -> Manifest:
        """A point's manifest. Raises PointNotFoundError, DamagedPointError, DamagedManifestError, StorageError."""
        folder = self.path_of(point_id)
        if folder.is_symlink() or not folder.is_dir():
            raise PointNotFoundError(
                phrase(
                    "there is no restore point {point_id} in repository {name}", point_id=point_id, name=self.name
                ),
                hint=phrase("See what there is with 'kvm-backup point list'."),
            )
        content = durable.read_limited(folder / MANIFEST_FILE, MANIFEST_BYTES_MAX)
        manifest = parse(content, f"{point_id}/{MANIFEST_FILE}")
        if manifest.id != point_id or manifest.repository != self.id:
            raise DamagedManifestError(
                phrase(
                    "the manifest in {folder} belongs to {id} of repository {repository}",
                    folder=folder,
                    id=manifest.id,
                    repository=manifest.repository,
                ),
                hint=phrase("A point was moved or copied here by hand; put it back where it belongs."),
            )
        return manifest

    def path_of(self, point_id: str) -> Path:
        """The folder of a point; the id is checked, so that it cannot lead out of the repository."""
        if not re.fullmatch(POINT_ID_PATTERN, point_id):
            raise PointNotFoundError(
                phrase("{point_id!r} is not the id of a restore point", point_id=point_id),
                hint=phrase("An id looks like web--1a2b3c4d/20261122T020000Z; 'kvm-backup point list' shows them."),
            )
        return self.root / point_id

    def elsewhere(self, point_id: str) -> tuple[str, ...] | None:
        """Which repositories hold a point's images when they are not here; see `elsewhere.elsewhere`."""
        return elsewhere(self.path_of(point_id))

    def chain(self, manifest: Manifest) -> list[Manifest]:
        """The points that `manifest` needs, full one first, itself last.

        Raises BrokenChainError when a parent is missing, damaged or not the one that it was made on.
        """
        links = [manifest]
        while (parent_id := links[0].parent) is not None:
            child = links[0]
            try:
                parent = self.load(parent_id)
            except (PointNotFoundError, DamagedPointError, DamagedManifestError, StorageError) as error:
                raise BrokenChainError(
                    phrase(
                        "{id} needs its parent {parent_id}, which cannot be used: {cause}",
                        id=child.id,
                        parent_id=parent_id,
                        cause=error.message,
                    ),
                    hint=phrase("Restore a point whose chain is whole; the next backup of this VM is a full one."),
                    vm=child.vm_name,
                ) from error
            if parent.uuid != child.parent_uuid:
                raise BrokenChainError(
                    phrase("{parent_id} is not the point that {id} was made on", parent_id=parent_id, id=child.id),
                    hint=phrase("It was replaced by another one of the same name; put the original back."),
                    vm=child.vm_name,
                )
            links.insert(0, parent)
        return links

    # Writing

    def begin_point(self, vm_name: str, vm_uuid: str, now: datetime) -> Path:
        """Make the hidden folder of a point that is being written; its name tells the stamp it will have.

        The stamp is later than every point of the VM, also when the clock was set back.
        The caller holds the VM's lock.
        """
        folder = self.folder_of(vm_uuid)
        if folder is None:
            folder = self.root / vm_folder(vm_name, vm_uuid)
            if folder.exists():
                folder = self.root / vm_folder(vm_name, vm_uuid, whole_uuid=True)
        earlier = self.stamps(folder)
        moment = now
        if earlier:
            try:
                moment = max(now, parse_stamp(earlier[-1]) + timedelta(seconds=1))
            except OverflowError as error:
                raise RepositoryFormatError(
                    phrase(
                        "the point {folder}/{earlier} leaves no room for a later one",
                        folder=folder.name,
                        earlier=earlier[-1],
                    ),
                    hint=phrase("That folder was not made by a backup; move it away."),
                    vm=vm_name,
                ) from error
        partial = folder / f"{PARTIAL_PREFIX}{stamp(moment)}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            partial.mkdir(mode=0o700)
            durable.sync_folder(self.root)
        except (OSError, KvmBackupError) as error:
            for made in (partial, folder):
                with suppress(OSError):
                    made.rmdir()
            if isinstance(error, KvmBackupError):
                raise
            raise durable.storage_error(error, partial) from error
        return partial

    def publish(self, partial: Path, manifest: Manifest) -> Path:
        """Make a point visible (invariant 1): manifest last, everything durable, then one rename."""
        durable.write_new(partial / MANIFEST_FILE, serialize(manifest))
        durable.sync_folder(partial)
        final = partial.with_name(partial.name.removeprefix(PARTIAL_PREFIX))
        durable.rename(partial, final)
        return final

    def withdraw(self, point_id: str) -> None:
        """Remove a point: with one rename it is no longer visible, then its files go. The caller holds the VM's lock.

        A point that is gone already is no error. Raises StorageError.
        """
        final = self.path_of(point_id)
        hidden = final.with_name(f"{REMOVED_PREFIX}{final.name}")
        if final.is_dir():
            durable.remove_tree(hidden)
            durable.rename(final, hidden)
        durable.remove_tree(hidden)

    def partials(self, folder: Path) -> list[Path]:
        """What runs that died left in a VM folder. The caller holds the VM's lock, so none of them is alive."""
        try:
            return sorted(
                entry
                for entry in folder.iterdir()
                if entry.name.startswith(PARTIAL_PREFIX) and entry.is_dir() and not entry.is_symlink()
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise durable.storage_error(error, folder) from error

    def discard(self, partial: Path) -> None:
        """Remove a point that was not published, and the VM's folder when nothing else is in it.

        The old folder of a point that a consolidation lost half way is no such point: it is put back.
        """
        if partial.name.startswith(OLD_PREFIX):
            recover(partial.parent)
        durable.remove_tree(partial)
        try:
            partial.parent.rmdir()
        except OSError:
            return  # other points are in it

    def _owner(self, folder: Path) -> str | None:
        """The UUID of the VM whose points a folder holds; None when no manifest tells."""
        for point in self.points(folder):
            if isinstance(point, Manifest):
                return point.vm_uuid
        return None
