"""A VM (libvirt domain) as a value."""

from dataclasses import dataclass
from enum import StrEnum

from kvm_backup.domain.disk import Disk


class VmState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    """QEMU is there, the guest does not run: backed up like a running VM."""
    STOPPED = "stopped"
    CRASHED = "crashed"
    """QEMU is gone or useless: backed up like a stopped VM."""


@dataclass(frozen=True, slots=True)
class Vm:
    """A domain at one moment. `disks` are in the order of the domain XML; `nvram` and `tpm_state` are host paths."""

    name: str
    uuid: str
    state: VmState
    disks: tuple[Disk, ...]
    nvram: str | None = None
    tpm_state: str | None = None
    """Folder of an emulated TPM's persistent state."""
    clean_shutdown: bool = False
    """It is off because its guest shut itself down, so that its file systems were unmounted."""

    @property
    def has_qemu(self) -> bool:
        """Whether a QEMU process holds the disks, so that they are read through it."""
        return self.state in (VmState.RUNNING, VmState.PAUSED)

    def disk(self, target: str) -> Disk:
        """The disk of that target name. Raises KeyError."""
        for disk in self.disks:
            if disk.target == target:
                return disk
        raise KeyError(target)
