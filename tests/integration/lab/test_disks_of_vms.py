"""Disks of test VMs: what is written from outside is what copies hold."""

import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

from lab import DiskSpec, ImagesDifferError, Lab, LabError, LabVm, compare_images, virtual_size
from lab.disks import MIB

pytestmark = pytest.mark.vm

ODD_SIZE = 8 * MIB + 512


@pytest.fixture(scope="module")
def vm(module_lab: Lab) -> LabVm:
    """Its targets are vda, vdb, vdc, sda: a format, a bus and a kind of storage each."""
    disks = [
        DiskSpec(size=ODD_SIZE),
        DiskSpec(size=ODD_SIZE, image_format="raw"),
        DiskSpec(size=8 * MIB, image_format="raw", block_device=True),
        DiskSpec(size=ODD_SIZE, bus="scsi"),
    ]
    return module_lab.create_vm("disks", disks, guest=False)


def paused_copy(vm: LabVm, target: str, to: Path) -> Path:
    vm.suspend()
    try:
        vm.copy_disk(target, to)
    finally:
        vm.resume()
    return to


@pytest.mark.parametrize("target", ["vda", "vdb", "vdc", "sda"])
def test_bytes_written_from_outside_are_in_a_copy(vm: LabVm, target: str, tmp_path: Path) -> None:
    before = paused_copy(vm, target, tmp_path / "before")
    vm.write_blocks(target, 3 * MIB + 512, 1024, 0x5A)
    after = paused_copy(vm, target, tmp_path / "after")
    with pytest.raises(ImagesDifferError) as caught:
        compare_images(before, after)
    assert caught.value.offset == 3 * MIB + 512
    assert vm.read_blocks(target, 3 * MIB + 511, 1026) == b"\0" + b"\x5a" * 1024 + b"\0"


def test_copy_of_paused_vm_is_what_it_has_on_disk_when_it_is_off(lab: Lab, tmp_path: Path) -> None:
    vm = lab.create_vm("copied", [DiskSpec(size=ODD_SIZE)], guest=False)
    for step in range(40):
        vm.write_blocks("vda", step * 200_704, 65536, step + 1)
    vm.suspend()
    vm.copy_disk("vda", tmp_path / "paused")
    vm.destroy()
    vm.copy_disk("vda", tmp_path / "off")
    compare_images(tmp_path / "paused", tmp_path / "off", strict=True)
    assert vm.read_blocks("vda", 39 * 200_704, 1) == b"\x28"


def test_copy_of_running_vm_is_refused(vm: LabVm, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is running"):
        vm.copy_disk("vda", tmp_path / "torn")


@pytest.mark.parametrize("target", ["vda", "sda"])
def test_discarded_and_zeroed_bytes_read_as_zeros(vm: LabVm, target: str) -> None:
    vm.write_blocks(target, 5 * MIB, MIB, 0x11)
    vm.discard_blocks(target, 5 * MIB, 65536)
    vm.write_zeros(target, 5 * MIB + 131072, 65536)
    assert vm.read_blocks(target, 5 * MIB, 262144) == (bytes(65536) + b"\x11" * 65536) * 2


@pytest.mark.parametrize("target", ["vda", "sda"])
def test_write_from_outside_is_in_the_checkpoint_of_its_disk(lab: Lab, target: str) -> None:
    vm = lab.create_vm("dirty", [DiskSpec(size=ODD_SIZE), DiskSpec(size=ODD_SIZE, bus="scsi")], guest=False)
    xml = f"<domaincheckpoint><name>seen</name><disks><disk name='{target}'/></disks></domaincheckpoint>"
    checkpoint = vm.domain.checkpointCreateXML(xml)
    vm.write_blocks(target, 2 * MIB, 131072, 0x33)
    vm.discard_blocks(target, 4 * MIB, 65536)
    vm.write_zeros(target, 6 * MIB, 65536)
    described = ET.fromstring(checkpoint.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE))
    sizes = {disk.get("name"): disk.get("size") for disk in described.iterfind("disks/disk")}
    assert sizes[target] == str(131072 + 65536 + 65536)


def test_last_sector_of_an_odd_size_can_be_written_and_nothing_behind_it(vm: LabVm) -> None:
    vm.write_blocks("vda", ODD_SIZE - 512, 512, 0x77)
    assert vm.read_blocks("vda", ODD_SIZE - 512, 512) == b"\x77" * 512
    with pytest.raises(LabError, match="not within"):
        vm.write_blocks("vda", ODD_SIZE - 512, 1024, 0x77)


def test_write_to_a_read_only_disk_raises(lab: Lab) -> None:
    vm = lab.create_vm("readonly", [DiskSpec(size=MIB, read_only=True)], guest=False)
    with pytest.raises(LabError, match="read-only"):
        vm.write_blocks("vda", 0, 512, 1)


@pytest.mark.parametrize("running", [True, False])
def test_resized_disk_has_the_new_size(lab: Lab, running: bool) -> None:
    vm = lab.create_vm("resized", [DiskSpec(size=MIB)], guest=False, start=running)
    vm.resize_disk("vda", 2 * MIB + 512)
    assert virtual_size(vm.disk("vda")) == 2 * MIB + 512


def test_disk_added_to_a_running_guest_appears_and_goes(lab: Lab) -> None:
    vm = lab.create_vm("plugged")
    vm.wait_agent()
    target = vm.attach_disk(DiskSpec(size=3 * MIB))
    assert target == "vdb"
    assert vm.run("while [ ! -e /sys/block/vdb/size ]; do sleep 0.05; done; cat /sys/block/vdb/size") == "6144\n"
    vm.detach_disk("vdb")
    with pytest.raises(LabError, match="no disk vdb"):
        vm.disk("vdb")


def test_cdrom_and_shareable_disk_start(lab: Lab) -> None:
    disks = [
        DiskSpec(size=MIB, image_format="raw", shareable=True),
        DiskSpec(size=MIB, image_format="raw", bus="ide", device="cdrom"),
    ]
    vm = lab.create_vm("kinds", disks, guest=False)
    assert vm.state == "running"
    assert vm.disk("hda").exists()


def test_images_of_the_same_data_in_different_formats_are_equal(vm: LabVm, tmp_path: Path) -> None:
    copy = paused_copy(vm, "vdb", tmp_path / "copy")
    compare_images(vm.disk("vdb"), copy)
