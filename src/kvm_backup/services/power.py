"""Stopping a VM: kindly first."""

import time

from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor

SHUTDOWN_PATIENCE = 60.0
"""Seconds that a guest gets to shut down before its power is cut."""


def stop_vm(hypervisor: Hypervisor, vm: Vm, patience: float = SHUTDOWN_PATIENCE) -> None:
    """Ask the guest to shut down, and cut its power when it has not after `patience` seconds."""
    hypervisor.stop(vm.uuid)
    deadline = time.monotonic() + patience
    while hypervisor.vm(vm.uuid).has_qemu:
        if time.monotonic() >= deadline:
            hypervisor.power_off(vm.uuid)
            return
        time.sleep(0.2)
