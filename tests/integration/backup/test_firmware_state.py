"""UEFI variables and the state of an emulated TPM belong to a point, and come back with it."""

import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness
from tests.integration.product import Product

pytestmark = pytest.mark.vm

TPM_FOLDER = Path("/var/lib/libvirt/swtpm")
MARK = b"a variable that the firmware wrote"


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    return module_lab.create_vm("firmware", [DiskSpec(size=MIB)], guest=False, uefi=True, tpm=True)


@pytest.fixture(scope="module")
def point(vm: LabVm, product: Product) -> str:
    """Made while the VM is off, with marks in its firmware's files that its start alone would not make."""
    vm.destroy()
    with nvram(vm).open("r+b") as variables:
        variables.seek(-len(MARK), 2)
        variables.write(MARK)
    (tpm_state(vm) / "mark").write_bytes(MARK)
    return str(product.backup(vm.name)["point"])


def nvram(vm: LabVm) -> Path:
    found = ET.fromstring(vm.domain.XMLDesc()).findtext("os/nvram")
    assert found
    return Path(found)


def tpm_state(vm: LabVm) -> Path:
    return TPM_FOLDER / vm.uuid / "tpm2"


def test_point_of_a_running_vm_holds_both(vm: LabVm, point: str, product: Product) -> None:
    vm.start()
    try:
        folder = product.path_of(product.backup(vm.name)["point"])
    finally:
        vm.destroy()
    assert (folder / "nvram.fd").stat().st_size == nvram(vm).stat().st_size
    with tarfile.open(folder / "tpm.tar") as archive:
        assert "tpm2-00.permall" in archive.getnames()


def test_new_vm_gets_them_as_they_were(
    vm: LabVm, module_lab: Lab, point: str, product: Product, witness: Witness
) -> None:
    name = module_lab.full_name("copy")
    product.run("restore", point, "--as", name, "--disks-in", witness.new_path("copy"), "--start").succeeded()
    copy = module_lab.adopt(name)
    assert copy.state == "running"
    assert nvram(copy) != nvram(vm)
    assert nvram(copy).read_bytes().endswith(MARK)
    assert (tpm_state(copy) / "mark").read_bytes() == MARK


def test_restore_in_place_brings_them_back(vm: LabVm, point: str, product: Product) -> None:
    with nvram(vm).open("r+b") as variables:
        variables.seek(-len(MARK), 2)
        variables.write(b"\0" * len(MARK))
    (tpm_state(vm) / "mark").write_bytes(b"later")
    product.run("restore", point, "--in-place", "--yes").succeeded()
    assert nvram(vm).read_bytes().endswith(MARK)
    assert (tpm_state(vm) / "mark").read_bytes() == MARK
    vm.start()
    assert vm.state == "running"
    vm.destroy()


def test_folder_gets_them_beside_the_disks(point: str, product: Product, witness: Witness) -> None:
    folder = witness.new_path("folder")
    product.restore(point, folder)
    assert (folder / "nvram.fd").read_bytes().endswith(MARK)
    with tarfile.open(folder / "tpm.tar") as archive:
        mark = archive.extractfile("mark")
        assert mark is not None
        assert mark.read() == MARK
