"""Copy a session's disks into the hidden folder of a point."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kvm_backup.domain.errors import (
    BitmapIncompleteError,
    DamagedImageError,
    DamagedPointError,
    KvmBackupError,
    SourceReadError,
    StorageError,
)
from kvm_backup.domain.names import disk_file
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DiskMode, Manifest, StoredDisk
from kvm_backup.engine.capture import capture_disk, contradiction, planned_bytes
from kvm_backup.engine.qcow2.format import Identity
from kvm_backup.engine.source import NbdSource
from kvm_backup.services.control import RunControl
from kvm_backup.services.held_maps import Below
from kvm_backup.services.plan import Plan, PlannedDisk
from kvm_backup.services.session import Session


def capture_disks(
    session: Session,
    plan: Plan,
    folder: Path,
    *,
    below: Callable[[str], Below],
    identity: str,
    level: int,
    make_control: Callable[[int], RunControl],
) -> tuple[StoredDisk, ...]:
    """Write every disk of the plan to a file in `folder`; `make_control` is given the total of bytes to read.

    `below` tells what a disk's parent is made of. Raises BitmapIncompleteError,
    SourceReadError, VmStateChangedError, NoSpaceError, StorageError, CancelledError.
    """
    with ExitStack() as open_sources:
        try:
            sources = {
                planned.disk.target: open_sources.enter_context(session.connect(planned.disk.target))
                for planned in plan.disks
            }
            for planned in plan.disks:
                if plan.parent is not None and planned.mode is DiskMode.INCREMENTAL:
                    target = planned.disk.target
                    _require_honest_bitmap(sources[target], target, below)
            control = make_control(sum(planned_bytes(source) for source in sources.values()))
            stored = []
            for planned in plan.disks:
                target = planned.disk.target
                path = folder / disk_file(target)
                parent = plan.parent if planned.mode is DiskMode.INCREMENTAL else None
                image = capture_disk(
                    sources[target],
                    path,
                    identity=Identity(identity, target, parent.identity if parent else None),
                    backing_file=_backing_file(parent, target) if parent else None,
                    control=control,
                    level=level,
                )
                stored.append(
                    _stored(
                        planned, path.name, image.virtual_size, image.bytes_read, image.bytes_stored, image.sha256
                    )
                )
            control.finish()
        except SourceReadError:
            # When the VM went away, that is the cause to report, not the connection that broke with it.
            session.explain()
            raise
    session.confirm()
    return tuple(stored)


def _require_honest_bitmap(source: NbdSource, target: str, below: Callable[[str], Below]) -> None:
    try:
        parent = below(target)
        offset = contradiction(source, parent.images, parent.held)
    except (DamagedImageError, DamagedPointError, StorageError) as error:
        raise BitmapIncompleteError(
            phrase("the parent of disk {target} cannot be read: {cause}", target=target, cause=error.message),
            hint=error.hint,
        ) from error
    if offset is not None:
        raise BitmapIncompleteError(
            phrase(
                "disk {target} reads as zeros at {offset:#x}, where the newest point has data and the "
                "bitmap no change",
                target=target,
                offset=offset,
            ),
            hint=phrase("The next backup must be a full one."),
        )


def _backing_file(parent: Manifest, target: str) -> str:
    held = parent.disk(target)
    if held is None or held.file is None:
        raise KvmBackupError(
            phrase("the parent {id} holds no disk {target}", id=parent.id, target=target),
            hint=phrase("Take a full backup."),
        )
    return f"../{parent.stamp}/{held.file}"


def _stored(
    planned: PlannedDisk, file: str, virtual_size: int, bytes_read: int, bytes_stored: int, sha256: str
) -> StoredDisk:
    disk = planned.disk
    return StoredDisk(
        target=disk.target,
        mode=planned.mode,
        virtual_size=virtual_size,
        source_format=disk.format,
        source_path=disk.path,
        source_images=planned.images,
        file=file,
        image_sha256=sha256,
        bytes_read=bytes_read,
        bytes_stored=bytes_stored,
    )
