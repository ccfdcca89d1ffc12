"""Where the lab keeps things on the host."""

import os
from pathlib import Path

WORK_FOLDER = Path("/var/tmp")
"""Disks of VMs go here: big, on a disk, and open to QEMU's user."""


def cache_folder() -> Path:
    """The folder for guest images and locks, made when missing.

    KVM_BACKUP_LAB_DIR names it; otherwise it is /var/cache/kvm-backup-lab for root (whose home QEMU's user may not
    enter) and the user's cache folder for others.
    """
    named = os.environ.get("KVM_BACKUP_LAB_DIR")
    if named:
        folder = Path(named).absolute()
    elif os.geteuid() == 0:
        folder = Path("/var/cache/kvm-backup-lab")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "kvm-backup-lab"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return folder
