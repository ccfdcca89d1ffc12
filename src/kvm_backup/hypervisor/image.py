"""Image files on the host, opened with the format that is known and never with a guessed one.

A guest can write a qcow2 header onto its raw disk; a tool that guesses would then follow the backing file named
there. So every image is named to QEMU's tools by a `json:` description with its driver, which is also the only
spelling that is safe for commas, colons and quotes in paths.
"""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvm_backup.domain.disk import Disk
from kvm_backup.domain.errors import ToolFailedError, UnsupportedDiskError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import run

MAX_LAYERS = 200
"""libvirt's own limit for a backing chain."""


@dataclass(frozen=True, slots=True)
class StoredBitmap:
    """A dirty bitmap in a qcow2 file. `in_use` means that it was not saved, so it is worthless."""

    name: str
    granularity: int
    in_use: bool
    auto: bool
    """Records by itself as soon as the image is opened for writing."""


@dataclass(frozen=True, slots=True)
class Image:
    """One layer of a backing chain on the host. Sizes in bytes."""

    path: str
    format: str
    virtual_size: int
    bitmaps: tuple[StoredBitmap, ...]


def description(path: str, image_format: str, *, force_share: bool = False, alone: bool = False) -> str:
    """A `json:` file name for QEMU's tools. `alone` opens a qcow2 file without its backing file."""
    node: dict[str, Any] = {
        "driver": image_format,
        "file": {"driver": "host_device" if is_block_device(path) else "file", "filename": path},
    }
    if force_share:
        node["force-share"] = True
        node["read-only"] = True
    if alone and image_format == "qcow2":
        node["backing"] = None
    return "json:" + json.dumps(node)


def is_block_device(path: str) -> bool:
    """Whether QEMU needs its host_device driver for this path."""
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def chain(disk: Disk) -> tuple[Image, ...]:
    """The layers of a disk on the host, top first, without locking them.

    A backing file whose format is not recorded counts as raw, as libvirt has it; the walk ends at a backing file
    that is no path. Raises UnsupportedDiskError for a disk without a path and for a circular chain, ToolFailedError
    when an image cannot be read.
    """
    if disk.path is None:
        raise UnsupportedDiskError(
            phrase("disk {target} is not a file or block device of this host", target=disk.target),
            hint=phrase("Start the VM: such a disk can be read through QEMU only."),
        )
    found: list[Image] = []
    path, image_format = disk.path, disk.format
    while True:
        if len(found) >= MAX_LAYERS or any(layer.path == path for layer in found):
            raise UnsupportedDiskError(
                phrase("the backing chain of disk {target} does not end", target=disk.target),
                hint=phrase("Look at it with: qemu-img info -U --backing-chain"),
            )
        info = _info(path, image_format)
        found.append(Image(path, image_format, int(info.get("virtual-size", 0)), _stored_bitmaps(info)))
        below = _backing(info)
        if below is None:
            return tuple(found)
        path, image_format = below


def backing(path: str) -> tuple[str, str] | None:
    """Path and format of the file below a qcow2 image, None when there is none. Raises ToolFailedError."""
    return _backing(_info(path, "qcow2"))


def add_bitmap(path: str, name: str) -> None:
    """Add a bitmap that records from now on; fails while a QEMU has the image open."""
    run(["qemu-img", "bitmap", "--add", description(path, "qcow2", alone=True), name])


def remove_bitmap(path: str, name: str) -> None:
    """Remove a bitmap, also one that was left in use; fails while a QEMU has the image open."""
    run(["qemu-img", "bitmap", "--remove", description(path, "qcow2", alone=True), name])


def _info(path: str, image_format: str) -> dict[str, Any]:
    done = run(["qemu-img", "info", "-U", "--output=json", description(path, image_format, force_share=True)])
    try:
        info = json.loads(done.stdout)
    except ValueError as error:
        raise ToolFailedError(
            phrase("qemu-img info of {path} gave no JSON", path=path),
            hint=phrase("Look at the image with: qemu-img info -U"),
        ) from error
    return info if isinstance(info, dict) else {}


def _backing(info: dict[str, Any]) -> tuple[str, str] | None:
    path = info.get("full-backing-filename") or info.get("backing-filename")
    if not isinstance(path, str) or not path.startswith("/"):
        return None
    return path, str(info.get("backing-filename-format") or "raw")


def _stored_bitmaps(info: dict[str, Any]) -> tuple[StoredBitmap, ...]:
    specific = info.get("format-specific", {})
    data = specific.get("data", {}) if isinstance(specific, dict) else {}
    return tuple(
        StoredBitmap(
            name=str(bitmap.get("name")),
            granularity=int(bitmap.get("granularity", 0)),
            in_use="in-use" in bitmap.get("flags", ()),
            auto="auto" in bitmap.get("flags", ()),
        )
        for bitmap in data.get("bitmaps", ())
    )
