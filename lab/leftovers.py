"""Removes what labs leave behind: their own things at their end, and those of a process that was killed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lab.disks import detach_loop_device, loop_devices_below
from lab.mounts import mounts_below, unmount
from lab.paths import WORK_FOLDER

PREFIX = "lab-"
KEPT = "lab-keep-"
"""VMs that `python -m lab up` started stay until `down`."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that made a lab: its id, and its start (ticks since boot), because ids are used again."""

    pid: int
    started: int

    @classmethod
    def of_process(cls, pid: int) -> "Owner | None":
        """The process that has this id now, or None. /proc/<pid>/stat: see proc(5), field 22."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The program's name, in parentheses, may itself hold spaces and parentheses.
        return cls(pid, int(text.rpartition(")")[2].split()[19]))

    @classmethod
    def of_name(cls, name: str) -> "Owner | None":
        """The owner that a VM's or folder's name tells, or None for one that is not a lab's."""
        words = name.removeprefix(PREFIX).split("-")
        if not name.startswith(PREFIX) or len(words) < 3 or not (words[0] + words[1] + words[2]).isdecimal():
            return None
        return cls(int(words[0]), int(words[1]))

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return Owner.of_process(self.pid) == self


def remove_domain(domain: libvirt.virDomain) -> None:
    """Stop a VM and remove it with its metadata, saved state, NVRAM and TPM; its disks stay."""
    try:
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                | libvirt.VIR_DOMAIN_UNDEFINE_TPM
            )
    except libvirt.libvirtError as error:
        # It may have ended by itself between two calls, and a VM without definition is gone then.
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def remove_lab(connection: libvirt.virConnect, prefix: str) -> list[str]:
    """Remove every VM, loop device, mount and folder whose name starts with `prefix`; what was removed."""
    removed = []
    for domain in connection.listAllDomains():
        if domain.name().startswith(prefix):
            removed.append(f"VM {domain.name()}")
            remove_domain(domain)
    for folder in WORK_FOLDER.glob(f"{prefix}*"):
        for device in loop_devices_below(folder):
            removed.append(f"loop device {device}")
            detach_loop_device(device)
        # The last one made goes first: a file system may be mounted inside another.
        for place in reversed(mounts_below(folder)):
            removed.append(f"mount {place}")
            unmount(place)
        removed.append(f"folder {folder}")
        shutil.rmtree(folder)
    return removed


def clean(connection: libvirt.virConnect, *, kept_too: bool = False) -> list[str]:
    """Remove what labs of processes that are gone left, and with `kept_too` the VMs of `python -m lab up`."""
    names = [domain.name() for domain in connection.listAllDomains()]
    names += [folder.name for folder in WORK_FOLDER.glob(f"{PREFIX}*")]
    prefixes = set()
    for name in names:
        owner = Owner.of_name(name)
        if owner is not None and not owner.alive:
            prefixes.add(f"{PREFIX}{owner.pid}-{owner.started}-")
        elif kept_too and name.startswith(KEPT):
            prefixes.add(KEPT)
    return [line for prefix in sorted(prefixes) for line in remove_lab(connection, prefix)]
