"""Fixtures that make VMs which stand at their BIOS screen."""

import shutil
import tempfile
import uuid as uuids
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from kvm_backup.hypervisor.connection import Hypervisor
from tests.integration.hypervisor.bios_vm import BiosVm, MakeVm


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    with Hypervisor.connect() as connection:
        yield connection


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that QEMU's user can enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="kbhyp-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_vm(hypervisor: Hypervisor, folder: Path) -> Iterator[MakeVm]:
    """Makes a stopped VM: make_vm(name=…, disks={target: (format, bytes)})."""
    made: list[BiosVm] = []

    def make(name: str | None = None, disks: dict[str, tuple[str, int]] | None = None) -> BiosVm:
        place = folder / f"vm{len(made)}"
        place.mkdir(mode=0o755)
        vm = BiosVm(
            hypervisor, place, name or f"kbhyp-{uuids.uuid4().hex[:8]}", disks or {"vda": ("qcow2", 16 << 20)}
        )
        made.append(vm)
        return vm

    yield make
    for vm in made:
        with suppress(libvirt.libvirtError):
            vm.domain.destroy()
        hypervisor.undefine(vm.uuid)


@pytest.fixture
def stopped_vm(make_vm: MakeVm) -> BiosVm:
    return make_vm()


@pytest.fixture
def running_vm(make_vm: MakeVm) -> BiosVm:
    vm = make_vm()
    vm.start()
    return vm
