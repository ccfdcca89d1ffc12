"""What on this host a point may name. Whoever can write to the repository chose every path in it."""

import stat
from collections.abc import Iterable
from pathlib import Path

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import UnsupportedDiskError
from kvm_backup.domain.names import safe_name
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm

IMAGE_FOLDER = Path("/var/lib/libvirt/images")


def is_safe_file(path: str) -> bool:
    """Whether any guest may boot from this file: it holds no secret, and none but its owner may change it.

    Its owner says nothing: while a VM runs from it, libvirt makes QEMU's user the owner.
    """
    place = Path(path)
    try:
        status = place.stat()
    except (OSError, ValueError):
        return False
    return (
        place.is_absolute()
        and stat.S_ISREG(status.st_mode)
        and status.st_mode & 0o004 != 0
        and status.st_mode & 0o022 == 0
    )


def image_folders(vms: Iterable[Vm]) -> frozenset[Path]:
    """libvirt's own folder and every folder that holds a disk, not a medium, of a VM that libvirt knows."""
    held = {
        Path(disk.path).resolve().parent
        for vm in vms
        for disk in vm.disks
        if disk.path is not None and disk.kind is SourceKind.FILE and disk.device == "disk" and not disk.read_only
    }
    return frozenset({IMAGE_FOLDER.resolve(), *held})


def place_for_disk(target: str, source_path: str, folders: frozenset[Path], chosen: Path | None) -> Path:
    """Where a disk goes that this host does not know: into `chosen`, else where it was, if that is an image folder.

    Raises UnsupportedDiskError for any other place.
    """
    was = Path(source_path)
    if chosen is not None:
        return chosen.resolve() / safe_name(was.name)
    path = was.parent.resolve() / was.name
    if was.is_absolute() and was.name and not was.name.startswith(".") and path.parent in folders:
        return path
    raise UnsupportedDiskError(
        phrase(
            "only the point says that disk {target} belongs at {source_path}: no VM on this host has "
            "a disk in that folder",
            target=target,
            source_path=source_path,
        ),
        hint=phrase("Nothing was changed. Say where its disks go with --disks-in DIR."),
    )
