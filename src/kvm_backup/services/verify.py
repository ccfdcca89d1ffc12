"""Verify: is a restore point what it was when it was made, and can it be read to the last cluster?"""

import hashlib
import json
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvm_backup import process
from kvm_backup.domain.errors import (
    DamagedManifestError,
    DamagedPointError,
    KvmBackupError,
    PointNotFoundError,
    StorageError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DiskMode, Manifest, StoredDisk
from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.verify import check_image
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository import durable
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.services.links import Link, is_unnamed
from kvm_backup.services.snapshot import frozen_image

_SMALL_FILE_MAX = 256 * 1024 * 1024
_CHECK_LEAKS_ONLY = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. Offsets are in bytes, where known: in the file, and on the guest's disk."""

    point: str
    file: str
    kind: str
    message: str
    file_offset: int | None = None
    disk_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying one point found; it is good when there are no findings."""

    point: str
    vm: str
    deep: bool
    findings: tuple[Finding, ...]
    bytes_checked: int
    seconds: float = field(compare=False)
    elsewhere: tuple[str, ...] | None = None
    """The repositories that hold the point's images, which are not here and were not checked."""
    chain_elsewhere: tuple[str, ...] | None = None
    """The same of points that it builds on, when its own images are here."""

    @property
    def good(self) -> bool:
        return not self.findings


def verify_points(
    repository: LocalRepository,
    points: Iterable[Manifest | DamagedPoint],
    *,
    hypervisor: Callable[[], Hypervisor],
    deep: bool,
    control: CopyControl,
    remotes: Container[str] | None = None,
) -> Iterator[Verdict]:
    """Verify each point by itself: its own files, and that its parent is there and is the right one.

    Parents are verified as points of their own; hand in whole chains for a verdict on a chain. Only a snapshot asks
    `hypervisor`, for its images. Of a point whose images are elsewhere the other files are verified. There is no
    verdict on a point that a prune takes away meanwhile. `remotes`: the names that the settings know; None where no
    images can be elsewhere.
    """
    for point in points:
        began = time.monotonic()
        if isinstance(point, DamagedPoint):
            yield Verdict(
                point=point.id,
                vm=point.id.partition("--")[0],
                deep=deep,
                findings=(Finding(point.id, "manifest.json", point.error.code, point.error.message),),
                bytes_checked=0,
                seconds=time.monotonic() - began,
            )
            continue
        names = repository.elsewhere(point.id)
        findings = tuple(_findings(repository, point, names, hypervisor, deep, control, remotes))
        if findings and names is None and (names := repository.elsewhere(point.id)) is not None:
            # Its images were let go while they were read.
            findings = tuple(_findings(repository, point, names, hypervisor, deep, control, remotes))
        if findings and (now := _replaced(repository, point)) is not None:
            findings = tuple(_findings(repository, now, names, hypervisor, deep, control, remotes))
        if findings and not repository.path_of(point.id).is_dir():
            continue
        yield Verdict(
            point=point.id,
            vm=point.vm_name,
            deep=deep,
            findings=findings,
            bytes_checked=point.bytes_stored if names is None else sum(stored.bytes for stored in point.files),
            seconds=time.monotonic() - began,
            elsewhere=names,
            chain_elsewhere=_below(repository, point) if names is None else None,
        )


def _replaced(repository: LocalRepository, point: Manifest) -> Manifest | None:
    """The point as it is now, when a prune made it a full one while it was verified by its old manifest."""
    now = repository.examine(point.id) if repository.path_of(point.id).is_dir() else None
    return now if isinstance(now, Manifest) and now != point else None


def chain_of(repository: LocalRepository, point: Manifest) -> list[Manifest | DamagedPoint]:
    """The point and what it needs, as far as that can be followed, full one first."""
    links: list[Manifest | DamagedPoint] = [point]
    while isinstance(first := links[0], Manifest) and first.parent is not None:
        try:
            links.insert(0, repository.examine(first.parent))
        except PointNotFoundError:
            break
    return links


def _below(repository: LocalRepository, point: Manifest) -> tuple[str, ...] | None:
    """Where the images are that a point builds on, if some are not here."""
    below = (link.id for link in chain_of(repository, point) if isinstance(link, Manifest) and link.id != point.id)
    found = [names for names in map(repository.elsewhere, below) if names is not None]
    return tuple(sorted({name for names in found for name in names})) if found else None


def _findings(
    repository: LocalRepository,
    point: Manifest,
    elsewhere: tuple[str, ...] | None,
    hypervisor: Callable[[], Hypervisor],
    deep: bool,
    control: CopyControl,
    remotes: Container[str] | None,
) -> Iterator[Finding]:
    folder = repository.path_of(point.id)
    yield from parent_findings(repository, point)
    for stored in point.files:
        problem = _small_file_problem(folder / stored.name, stored.bytes, stored.sha256)
        if problem:
            yield Finding(point.id, stored.name, "changed", problem)
    if elsewhere is not None:
        if not elsewhere:
            yield Finding(point.id, ELSEWHERE_FILE, "images-lost", phrase("no repository holds its images any more"))
        elif remotes is not None and is_unnamed(elsewhere, remotes):
            where = ", ".join(elsewhere)
            message = phrase(
                "its images are only where the settings name no repository any more: {names}", names=where
            )
            yield Finding(point.id, ELSEWHERE_FILE, "images-unnamed", message)
        return
    for disk in point.disks:
        if disk.file is None:
            yield from _host_findings(hypervisor, point, disk, control)
            continue
        link = Link(point, disk, folder / disk.file)
        try:
            damage = check_image(
                link.path,
                expected_sha256=disk.image_sha256,
                expected_identity=link.identity,
                deep=deep,
                control=control,
            )
        except StorageError as error:
            # A sector that the storage cannot read is what verify is there to find; the other points go on.
            yield Finding(point.id, disk.file, "unreadable", error.message)
            continue
        for item in damage:
            yield Finding(point.id, disk.file, item.kind, item.message, item.file_offset, item.disk_offset)
        if not damage:
            problem = _qemu_img_problem(control, link.path)
            if problem:
                yield Finding(point.id, disk.file, "qemu-img-check", problem)


def parent_findings(repository: LocalRepository, point: Manifest) -> Iterator[Finding]:
    """What is wrong with the parent of a point, by its manifest alone."""
    if point.parent is None:
        return
    try:
        parent = repository.load(point.parent)
    except PointNotFoundError:
        message = phrase("its parent {parent} is not there", parent=point.parent)
        yield Finding(point.id, "manifest.json", "parent-missing", message)
        return
    except (DamagedManifestError, DamagedPointError, StorageError) as error:
        message = phrase("its parent cannot be read: {cause}", cause=error.message)
        yield Finding(point.id, "manifest.json", "parent-damaged", message)
        return
    if parent.uuid != point.parent_uuid:
        message = phrase("{parent} is not the point that this one was made on", parent=point.parent)
        yield Finding(point.id, "manifest.json", "parent-foreign", message)
        return
    for disk in point.disks:
        held = parent.disk(disk.target)
        if disk.mode is DiskMode.INCREMENTAL and (held is None or held.file is None):
            message = phrase("its parent {parent} holds no disk {disk}", parent=point.parent, disk=disk.target)
            yield Finding(point.id, disk.file or disk.target, "parent-foreign", message)


def _small_file_problem(path: Path, size: int, sha256: str) -> str | None:
    try:
        content = durable.read_limited(path, min(size, _SMALL_FILE_MAX))
    except KvmBackupError as error:
        return error.message
    if len(content) != size:
        return phrase("it should have {size} bytes", size=size)
    if hashlib.sha256(content).hexdigest() != sha256:
        return phrase("its content does not match its digest")
    return None


def _host_findings(
    hypervisor: Callable[[], Hypervisor], point: Manifest, disk: StoredDisk, control: CopyControl
) -> Iterator[Finding]:
    """A snapshot's disk stays on the host; its image is in use, so only its presence and structure can be checked."""
    try:
        frozen = frozen_image(hypervisor(), point, disk)
    except KvmBackupError as error:
        yield Finding(point.id, disk.host_path or "", "unreadable", error.message)
        return
    if frozen is None:
        gone = phrase("the snapshot's image is no longer on this host")
        yield Finding(point.id, disk.host_path or "", "missing", gone)
        return
    path, image_format = frozen
    if image_format == "qcow2":
        problem = _qemu_img_problem(control, path, "-U")
        if problem:
            yield Finding(point.id, str(path), "qemu-img-check", problem)


def _qemu_img_problem(control: CopyControl, path: Path, *options: str) -> str | None:
    # Without its backing file, which is checked with the point that it belongs to.
    image = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(path)}}
    done = process.run(
        ["qemu-img", "check", "-q", *options, f"json:{json.dumps(image)}"],
        check=False,
        timeout=3600,
        meanwhile=control.check,
    )
    if done.status in (0, _CHECK_LEAKS_ONLY if options else 0):
        return None
    return process.last_line(done.stderr) or process.last_line(done.stdout) or f"qemu-img check: {done.status}"
