"""Makes the files and block devices behind the disks of test VMs."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab.errors import LabError
from lab.programs import run

MIB = 1024 * 1024
SECTOR = 512


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk to make for a VM.

    `size` is in bytes, a multiple of 512 (not needed with `image`). `files` fills an ext4 file system with paths and
    contents; an empty mapping makes an empty one; None leaves the disk blank, except that the first disk of a VM
    with a guest always gets a file system. `block_device` puts the image on a loop device. `image` uses an existing
    file as it is, which the lab never removes. `target` is the name in the guest (vda, sdb, ...), by default the next
    one that is free. `shareable` needs image_format raw: libvirt refuses it otherwise.
    """

    size: int = 64 * MIB
    image_format: Literal["qcow2", "raw"] = "qcow2"
    bus: Literal["virtio", "scsi", "ide"] = "virtio"
    device: Literal["disk", "cdrom"] = "disk"
    files: Mapping[str, bytes] | None = field(default=None, hash=False)
    block_device: bool = False
    read_only: bool = False
    shareable: bool = False
    image: Path | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        if self.image is None and (self.size <= 0 or self.size % SECTOR):
            raise ValueError(f"a disk's size is a positive multiple of {SECTOR}, not {self.size}")


def make_image(spec: DiskSpec, path: Path, *, label: str) -> None:
    """Make the file of `spec` at `path`: blank, or with an ext4 file system of that label. Raises LabError."""
    if spec.files is None:
        run(["qemu-img", "create", "-q", "-f", spec.image_format, path, str(spec.size)])
        return
    if spec.image_format == "raw":
        _make_file_system(path, spec.size, spec.files, label)
        return
    plain = path.with_name(f"{path.name}.raw")
    try:
        _make_file_system(plain, spec.size, spec.files, label)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, path])
    finally:
        plain.unlink(missing_ok=True)


def attach_loop_device(image: Path) -> Path:
    """The loop device that `image` now is. Raises LabError."""
    return Path(run(["losetup", "--find", "--show", image]).stdout.strip())


def loop_devices_below(folder: Path) -> list[Path]:
    """The loop devices whose file lies in `folder`, removed files included."""
    found = []
    for line in run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).stdout.splitlines():
        name, _, behind = line.strip().partition(" ")
        if Path(behind.strip().removesuffix(" (deleted)")).is_relative_to(folder):
            found.append(Path(name))
    return found


def detach_loop_device(device: Path) -> None:
    """Give the loop device back. Raises LabError."""
    run(["losetup", "--detach", device])


def _make_file_system(path: Path, size: int, files: Mapping[str, bytes], label: str) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        folder = Path(scratch)
        for name, content in files.items():
            target = folder / name.lstrip("/")
            if ".." in target.parts:
                raise LabError(f"{name}: a file of a disk lies inside it")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        with path.open("xb") as image:
            image.truncate(size)
        # Nothing is left for the guest's kernel to initialise later: a disk changes only when a test says so.
        extended = "root_owner=0:0,nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1"
        run(["mke2fs", "-q", "-t", "ext4", "-L", label, "-E", extended, "-d", folder, path])
