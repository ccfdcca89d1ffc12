"""Finds the kernel modules that the guest loads, in the order in which they must be loaded."""

import re
from pathlib import Path

from lab.errors import LabError

WANTED = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "button", "evdev")
"""In the order of use: the agent's port first. ext4 is part of Debian's cloud kernel itself."""

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def modules_in_load_order(folder: Path) -> list[Path]:
    """The files of WANTED and all they need below /lib/modules/<version>, each after what it depends on.

    Every module names its dependencies in its .modinfo section, so that depmod is not needed. Raises LabError.
    """
    found = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = found.get(name.replace("-", "_"))
        if path is None:
            raise LabError(f"the kernel package holds no module {name}")
        if path in ordered:
            return
        match = _DEPENDS.search(path.read_bytes())
        for needed in match.group(1).decode().split(",") if match else []:
            if needed:
                add(needed)
        ordered.append(path)

    for name in WANTED:
        add(name)
    return ordered
