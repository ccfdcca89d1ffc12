"""What every kind of restore shares: reading a point's files and writing its disks."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvm_backup import process
from kvm_backup.domain.errors import (
    BadArgumentError,
    DamagedImageError,
    DamagedPointError,
    NoSpaceError,
    PointNotFoundError,
    TargetExistsError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DOMAIN_XML_FILE, Manifest, StoredDisk
from kvm_backup.domain.sizes import show_size
from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.restore import planned_restore_bytes, restore_chain
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.control import RunControl
from kvm_backup.services.events import Listener, Progress, Step, StepStarted
from kvm_backup.services.links import Link, check_link, disk_links
from kvm_backup.services.snapshot import frozen_image

ImageFormat = Literal["qcow2", "raw"]


@dataclass(frozen=True, slots=True)
class DiskTarget:
    """Where a disk of the point is written. `device` says that `path` is a block device, overwritten in place."""

    disk: str
    path: Path
    image_format: ImageFormat
    device: bool = False


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that was written; sizes in bytes."""

    disk: str
    path: str
    image_format: str
    virtual_size: int
    bytes_written: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `name` is the VM that was defined, when one was."""

    point: str
    vm: str
    disks: tuple[RestoredDisk, ...]
    files: tuple[str, ...]
    seconds: float
    name: str | None = None
    notices: tuple[str, ...] = ()


class PointReader:
    """Reads one point for a restore: every link of its chain is checked before anything is written."""

    def __init__(
        self,
        repository: LocalRepository,
        manifest: Manifest,
        hypervisor: Callable[[], Hypervisor],
        listener: Listener,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.manifest = manifest
        self._repository = repository
        self._hypervisor = hypervisor
        self._listener = listener
        self._stop_requested = stop_requested
        chain = repository.chain(manifest)
        self._links: dict[str, list[Link]] = {
            disk.target: disk_links(repository, chain, disk.target) for disk in manifest.disks if disk.file
        }

    def domain_xml(self) -> str:
        """The VM's XML as it was. Raises DamagedPointError."""
        return self.small_file(DOMAIN_XML_FILE).decode("utf-8", "strict")

    def small_file(self, name: str) -> bytes:
        """A file other than a disk, checked against its digest. Raises DamagedPointError."""
        stored = next((stored for stored in self.manifest.files if stored.name == name), None)
        if stored is None:
            raise DamagedPointError(
                phrase("{id} holds no {name}", id=self.manifest.id, name=name), hint=phrase("Restore another point.")
            )
        content = durable.read_limited(self._repository.path_of(self.manifest.id) / name, stored.bytes)
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise DamagedPointError(
                phrase("{id}/{name} does not match its digest", id=self.manifest.id, name=name),
                hint=phrase("Restore another point; 'kvm-backup verify --all' tells which are whole."),
            )
        return content

    def has(self, name: str) -> bool:
        return any(stored.name == name for stored in self.manifest.files)

    def planned_bytes(self, target: str) -> int:
        """What writing a disk will take at most, in bytes. Raises DamagedPointError."""
        links = self._links.get(target)
        if links is None:
            disk = self.manifest.disk(target)
            return 0 if disk is None else disk.virtual_size
        try:
            return planned_restore_bytes([link.path for link in links], self._control(Step.VERIFY, 0))
        except DamagedImageError:
            for link in links:
                # This names the file.
                check_link(link, self._control(Step.VERIFY, 0))
            raise

    def check_links(self) -> None:
        """Digest and identity of every file that will be read. Raises DamagedPointError, PointNotFoundError."""
        self._step(Step.VERIFY)
        for disk in self.manifest.disks:
            if disk.file is None:
                self._image_on_host(disk)
        links = {link.path: link for chain in self._links.values() for link in chain}
        control = self._control(Step.VERIFY, sum(link.disk.bytes_stored for link in links.values()))
        for link in links.values():
            check_link(link, control)
        control.finish()

    def write_disks(
        self, targets: Iterable[DiskTarget], still_there: Callable[[], None] | None = None
    ) -> tuple[RestoredDisk, ...]:
        """Write disks. A file that cannot be completed is removed here, those before it are the caller's to remove.

        `still_there` is called now and then, and raises to stop.
        """
        self._step(Step.RESTORE)
        wanted = list(targets)
        total = sum(self.planned_bytes(target.disk) for target in wanted)
        control = self._control(Step.RESTORE, total, still_there)
        restored = tuple(self._write(target, control) for target in wanted)
        control.finish()
        return restored

    def _write(self, target: DiskTarget, control: CopyControl) -> RestoredDisk:
        links = self._links.get(target.disk)
        if links is None:
            return self._convert_from_host(target, control)
        done = restore_chain(
            [link.path for link in links], target.path, target_format=target.image_format, control=control
        )
        return RestoredDisk(target.disk, str(target.path), target.image_format, done.virtual_size, done.bytes_written)

    def _convert_from_host(self, target: DiskTarget, control: CopyControl) -> RestoredDisk:
        """A snapshot's image may be in use as a backing file, so it is opened without taking its lock."""
        disk = next(disk for disk in self.manifest.disks if disk.target == target.disk)
        path, image_format = self._image_on_host(disk)
        process.run(
            ["qemu-img", "convert", "-U", "-T", "none", "-t", "none", "-W", "-f", image_format]
            + (["-n"] if target.device else [])
            + ["-O", target.image_format, path, target.path],
            timeout=24 * 3600,
            meanwhile=control.check,
        )
        size = target.path.stat().st_blocks * 512
        return RestoredDisk(target.disk, str(target.path), target.image_format, disk.virtual_size, size)

    def _image_on_host(self, disk: StoredDisk) -> tuple[Path, str]:
        frozen = frozen_image(self._hypervisor(), self.manifest, disk)
        if frozen is None:
            raise PointNotFoundError(
                phrase(
                    "the image of disk {target} of snapshot {id} is no longer on this host",
                    target=disk.target,
                    id=self.manifest.id,
                ),
                hint=phrase("Nothing was written. Restore a full or incremental point."),
            )
        return frozen

    def _control(self, step: Step, total: int, still_there: Callable[[], None] | None = None) -> RunControl:
        vm = self.manifest.vm_name
        return RunControl(
            stop_requested=self._stop_requested,
            still_there=still_there,
            on_progress=lambda done, of: self._listener(Progress(vm, step, done, of)),
            total=total,
        )

    def _step(self, step: Step) -> None:
        self._listener(StepStarted(self.manifest.vm_name, step))


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raises TargetExistsError for the first path where something stands already."""
    for path in paths:
        if os.path.lexists(path):
            raise TargetExistsError(
                phrase("{path} exists already", path=path),
                hint=phrase("Nothing was written. Give another place, or move that file away."),
            )


def require_folder(folder: Path) -> None:
    """Raises BadArgumentError where neither is a folder nor can one be made, for a file is in its way."""
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not existing.is_dir():
        raise BadArgumentError(
            phrase("{path} is not a folder", path=existing),
            hint=phrase("Nothing was written. Give another place, or move that file away."),
        )


def require_space(folder: Path, needed: int) -> None:
    """Raises NoSpaceError when `needed` bytes do not fit on the file system of `folder`."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise NoSpaceError(
            phrase(
                "the restore needs up to {needed} in {folder}, {free} are free",
                needed=show_size(needed),
                folder=folder,
                free=show_size(free),
            ),
            hint=phrase("Nothing was written. Free space there, or restore to another file system."),
        )


def unpack_tpm(content: bytes, folder: Path) -> None:
    """Put an emulated TPM's state back into its folder; only plain files, only by their last name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isreg() else None
            if source is not None and Path(member.name).name not in ("", ".", ".."):
                durable.replace_content(folder / Path(member.name).name, source.read())
