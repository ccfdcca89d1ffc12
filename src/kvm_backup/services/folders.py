"""Folders on this host that runs use while they go on."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """`locks`: one file a VM. `scratch`: what QEMU keeps of overwritten blocks. `runtime`: sockets."""

    locks: Path
    scratch: Path
    runtime: Path
