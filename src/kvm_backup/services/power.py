"""Stopping a VM: kindly first."""

import shlex
import time
from collections.abc import Callable

from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.services.control import refuse_when_stopped

SHUTDOWN_PATIENCE = 60.0
"""Seconds that a guest gets to shut down before its power is cut."""


def start_command(name: str) -> str:
    """What a user types in a shell to start a VM that was left off."""
    return f"virsh start {shlex.quote(name)}"


def stop_vm(
    hypervisor: Hypervisor, vm: Vm, patience: float = SHUTDOWN_PATIENCE, *, stop_requested: Callable[[], bool]
) -> None:
    """Ask the guest to shut down, and cut its power when it has not after `patience` seconds.

    Raises CancelledError when `stop_requested` says so meanwhile; the guest was asked then.
    """
    hypervisor.stop(vm.uuid)
    deadline = time.monotonic() + patience
    while hypervisor.vm(vm.uuid).has_qemu:
        if time.monotonic() >= deadline:
            hypervisor.power_off(vm.uuid)
            return
        refuse_when_stopped(stop_requested)
        time.sleep(0.2)
