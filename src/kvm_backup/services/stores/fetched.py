"""Folders of what was fetched from another server: small repositories below the scratch folder, one for each VM.

A run that was killed or cut off leaves its folder, and the next one that reads that VM's points from there goes on
with it. What nobody came back for within a day is removed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import CancelledError, KvmBackupError, VmBusyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE
from kvm_backup.repository import durable
from kvm_backup.repository.local import REPOSITORY_FILE, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services import events
from kvm_backup.services.stores.store import Errand
from kvm_backup.services.vm_lock import hold_fetched

FETCHED_FOLDER = "fetched"
_KEPT_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class FetchedFolders:
    """Those of this host. `lock_wait` is in seconds, `now` is Unix time."""

    scratch: Path
    locks: Path
    lock_wait: float
    now: Callable[[], float] = time.time

    @property
    def root(self) -> Path:
        return self.scratch / FETCHED_FOLDER

    @contextmanager
    def hold(self, mirror: Mirror, vm_folder: str, errand: Errand) -> Iterator[LocalRepository]:
        """The folder for a VM's points of the server that `mirror` is of, with all their manifests.

        It is removed at the end, unless what was fetched can be gone on with: the block failed, or the run was
        stopped and `goes_on`. Raises VmBusyError, CancelledError, StorageError.
        """
        name = _name(mirror, vm_folder)
        with hold_fetched(self.locks, name, vm_folder, wait=self.lock_wait, stop_requested=errand.stop_requested):
            self.forget_old(but=name)
            repository = self._prepared(self.root / name, mirror, vm_folder)
            try:
                yield repository
            except CancelledError:
                if not errand.goes_on():
                    durable.remove_tree(repository.root)
                raise
            except KvmBackupError:
                self._keep(repository, errand)
                raise
            durable.remove_tree(repository.root)

    def forget_old(self, but: str = "") -> None:
        """Remove folders that no run holds and none came back to for a day. Raises StorageError."""
        try:
            entries = sorted(self.root.iterdir()) if self.root.is_dir() else []
        except OSError as error:
            raise durable.storage_error(error, self.root) from error
        for entry in entries:
            if entry.name == but or self.now() - _touched(entry) < _KEPT_SECONDS:
                continue
            with suppress(VmBusyError), hold_fetched(self.locks, entry.name, entry.name, wait=0.0):
                durable.remove_tree(entry)

    def _prepared(self, root: Path, mirror: Mirror, vm_folder: str) -> LocalRepository:
        try:
            # QEMU's user passes through the scratch folder; nobody else has a part in what is fetched.
            self.scratch.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(error, root) from error
        identity = durable.read_limited(mirror.root / REPOSITORY_FILE, MANIFEST_BYTES_MAX)
        durable.replace_content(root / REPOSITORY_FILE, identity)
        repository = LocalRepository(mirror.repository.name, root, mirror.repository.id)
        for stamp in mirror.repository.stamps(mirror.root / vm_folder):
            place_manifest(mirror, repository, f"{vm_folder}/{stamp}")
        return repository

    @staticmethod
    def _keep(repository: LocalRepository, errand: Errand) -> None:
        fetched = any(path.name != MANIFEST_FILE for path in repository.root.glob("*/*/*"))
        if not fetched:
            durable.remove_tree(repository.root)
            return
        errand.listener(
            events.Notice(
                errand.vm,
                phrase(
                    "what was fetched stays in {folder} for a day; the same once more goes on from there",
                    folder=repository.root,
                ),
            )
        )


def place_manifest(mirror: Mirror, fetched: LocalRepository, point_id: str) -> None:
    """Write the manifest of a point as the mirror holds it; one that cannot be read is left out.

    Raises StorageError.
    """
    with suppress(KvmBackupError):
        content = durable.read_limited(mirror.repository.path_of(point_id) / MANIFEST_FILE, MANIFEST_BYTES_MAX)
        folder = fetched.path_of(point_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace_content(folder / MANIFEST_FILE, content)


def _name(mirror: Mirror, vm_folder: str) -> str:
    return f"{mirror.root.name}--{vm_folder}"


def _touched(folder: Path) -> float:
    """When something in it last changed. Not by the times that rsync sets, which are the server's files'."""
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            newest = max(newest, path.stat(follow_symlinks=False).st_ctime)
    return newest
