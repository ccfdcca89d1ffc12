"""Monitoring asks for every guest's statistics at any instant; QEMU must live through that as a backup begins."""

import threading
from collections.abc import Iterator
from contextlib import suppress

import libvirt
import pytest

from tests.integration.hypervisor.bios_vm import BiosVm

pytestmark = pytest.mark.vm

JOBS = 60
"""When libvirt made the files itself, guests died in the 7th and the 13th job."""


class Monitoring(threading.Thread):
    """Asks for the block statistics of one VM over a connection of its own, as fast as libvirt answers."""

    def __init__(self, vm: BiosVm) -> None:
        super().__init__()
        self.asked = 0
        self._uuid = vm.uuid
        self._over = threading.Event()

    def run(self) -> None:
        connection = libvirt.open("qemu:///system")
        domain = connection.lookupByUUIDString(self._uuid)
        while not self._over.is_set():
            with suppress(libvirt.libvirtError):
                connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK)
                self.asked += 1
        connection.close()

    def end(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def monitoring(running_vm: BiosVm) -> Iterator[Monitoring]:
    thread = Monitoring(running_vm)
    thread.start()
    try:
        yield thread
    finally:
        thread.end()


def test_a_guest_lives_through_backup_jobs_while_its_statistics_are_asked_for(
    running_vm: BiosVm, monitoring: Monitoring
) -> None:
    qemu = running_vm.hypervisor.instance(running_vm.uuid)
    for _ in range(JOBS):
        running_vm.begin(None).end()
    assert running_vm.hypervisor.instance(running_vm.uuid) == qemu
    assert monitoring.asked > JOBS
