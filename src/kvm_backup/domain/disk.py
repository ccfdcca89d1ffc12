"""A VM's disk as libvirt describes it, and the rule that says whether it is backed up."""

from dataclasses import dataclass
from enum import StrEnum


class SourceKind(StrEnum):
    """Values of the `type` attribute of a libvirt <disk> that we tell apart."""

    FILE = "file"
    BLOCK = "block"
    OTHER = "other"
    """network, volume, nvme, vhostuser, …: read through the backup API while the VM runs."""
    EMPTY = "empty"
    """A drive without a medium."""


class LeftOut(StrEnum):
    """Why a disk is not part of a restore point."""

    CDROM = "cdrom"
    FLOPPY = "floppy"
    READ_ONLY = "read-only"
    SHAREABLE = "shareable"
    EXCLUDED = "excluded"
    """By the user's settings."""
    PASSED_THROUGH = "passed-through"
    """device='lun': SCSI commands go to the host's device, QEMU's block layer never sees the data."""
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Disk:
    """One <disk> of a domain.

    `target` is the guest's name for it (vda); unique in a domain. `path` is the host's file or block device,
    None for other kinds. `format` is the image format of the top layer (`qcow2`, `raw`). `virtual_size` is in
    bytes, None when it cannot be known (empty drive, unreachable source).

    """

    target: str
    device: str
    kind: SourceKind
    path: str | None
    format: str
    read_only: bool = False
    shareable: bool = False
    virtual_size: int | None = None
    encrypted: bool = False
    """The host stores it encrypted (LUKS); through a running QEMU it is read in the clear."""
    allocated: int | None = None
    """Bytes the host stores for the top layer; what a full backup reads at most, when there is one layer."""

    @property
    def can_have_bitmap(self) -> bool:
        """Only qcow2 stores dirty bitmaps; every other format is saved whole each time."""
        return self.format == "qcow2"


def why_left_out(disk: Disk, excluded_targets: frozenset[str]) -> LeftOut | None:
    """The rule by which disks stay out of restore points; None when the disk is saved."""
    if disk.device == "cdrom":
        return LeftOut.CDROM
    if disk.device == "floppy":
        return LeftOut.FLOPPY
    if disk.device == "lun":
        return LeftOut.PASSED_THROUGH
    if disk.target in excluded_targets:
        return LeftOut.EXCLUDED
    if disk.kind is SourceKind.EMPTY:
        return LeftOut.EMPTY
    if disk.shareable:
        return LeftOut.SHAREABLE
    if disk.read_only:
        return LeftOut.READ_ONLY
    return None
