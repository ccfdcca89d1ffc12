"""What the next incremental needs is taken away behind our back: it becomes a full one, says why, and is right."""

import re
import subprocess
from collections.abc import Callable

import libvirt_qemu
import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness
from tests.integration.product import Product

pytestmark = pytest.mark.vm

Loss = Callable[[LabVm, str], None]


def delete_checkpoint(vm: LabVm, checkpoint: str) -> None:
    subprocess.run(["virsh", "-q", "checkpoint-delete", vm.uuid, checkpoint], check=True)


def delete_checkpoints_record(vm: LabVm, checkpoint: str) -> None:
    subprocess.run(["virsh", "-q", "checkpoint-delete", "--metadata", vm.uuid, checkpoint], check=True)


def remove_bitmap_while_off(vm: LabVm, checkpoint: str) -> None:
    vm.destroy()
    subprocess.run(["qemu-img", "bitmap", "--remove", vm.disk("vda"), checkpoint], check=True)


def remove_bitmap_and_start(vm: LabVm, checkpoint: str) -> None:
    remove_bitmap_while_off(vm, checkpoint)
    vm.start()


def remove_bitmap_in_qemu(vm: LabVm, checkpoint: str) -> None:
    number = re.search(r"<source file='[^']*vda[^']*' index='(\d+)'", vm.domain.XMLDesc())
    assert number
    arguments = f'{{"node": "libvirt-{number.group(1)}-format", "name": "{checkpoint}"}}'
    answer = libvirt_qemu.qemuMonitorCommand(
        vm.domain, f'{{"execute": "block-dirty-bitmap-remove", "arguments": {arguments}}}', 0
    )
    assert "error" not in answer


def stop_bitmap_in_qemu(vm: LabVm, checkpoint: str) -> None:
    number = re.search(r"<source file='[^']*vda[^']*' index='(\d+)'", vm.domain.XMLDesc())
    assert number
    arguments = f'{{"node": "libvirt-{number.group(1)}-format", "name": "{checkpoint}"}}'
    answer = libvirt_qemu.qemuMonitorCommand(
        vm.domain, f'{{"execute": "block-dirty-bitmap-disable", "arguments": {arguments}}}', 0
    )
    assert "error" not in answer


def kill_qemu(vm: LabVm, checkpoint: str) -> None:
    vm.kill_qemu()


def kill_qemu_and_start(vm: LabVm, checkpoint: str) -> None:
    vm.kill_qemu()
    vm.start()


def kill_qemu_after_a_clean_start(vm: LabVm, checkpoint: str) -> None:
    """The bitmap was saved once, so that it is left in the file, marked as in use."""
    vm.destroy()
    vm.start()
    vm.write_blocks("vda", 0, 512, 0x71)
    vm.kill_qemu()
    vm.start()


def replace_image(vm: LabVm, checkpoint: str) -> None:
    """As someone does who defragments an image with qemu-img convert."""
    vm.destroy()
    image = vm.disk("vda")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, f"{image}.new"], check=True)
    image.with_name(f"{image.name}.new").rename(image)
    vm.start()


def shrink_and_grow_while_off(vm: LabVm, checkpoint: str) -> None:
    vm.destroy()
    shrink_and_grow(vm, checkpoint)


def shrink_and_grow(vm: LabVm, checkpoint: str) -> None:
    vm.resize_disk("vda", MIB // 2)
    vm.resize_disk("vda", 4 * MIB)


def exchange_files(vm: LabVm, checkpoint: str) -> None:
    vm.destroy()
    vda, vdb = vm.disk("vda"), vm.disk("vdb")
    aside = vda.with_name("aside")
    for old, new in ((vda, aside), (vdb, vda), (aside, vdb)):
        old.rename(new)
    vm.start()


def exchange_sources_while_off(vm: LabVm, checkpoint: str) -> None:
    vm.destroy()
    vda, vdb = str(vm.disk("vda")), str(vm.disk("vdb"))
    xml = vm.domain.XMLDesc()
    vm.domain.connect().defineXML(xml.replace(vda, "@").replace(vdb, vda).replace("@", vdb))


@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (delete_checkpoint, "checkpoint-missing"),
        (delete_checkpoints_record, "checkpoint-missing"),
        (remove_bitmap_while_off, "bitmap-missing"),
        (remove_bitmap_and_start, "bitmap-missing"),
        (remove_bitmap_in_qemu, "bitmap-missing"),
        (stop_bitmap_in_qemu, "bitmap-not-recording"),
        (kill_qemu, "bitmap-missing"),
        (kill_qemu_and_start, "bitmap-missing"),
        (kill_qemu_after_a_clean_start, "bitmap-inconsistent"),
        (replace_image, "bitmap-missing"),
        (exchange_files, "disk-exchanged"),
        (exchange_sources_while_off, "disk-exchanged"),
        (shrink_and_grow, "bitmap-incomplete"),
        (shrink_and_grow_while_off, "bitmap-incomplete"),
    ],
)
def test_run_after_the_loss_is_full_with_its_reason_and_the_one_after_it_incremental(
    module_lab: Lab, product: Product, witness: Witness, lose: Loss, reason: str
) -> None:
    disks = [DiskSpec(size=4 * MIB), DiskSpec(size=4 * MIB)]
    vm = module_lab.create_vm(lose.__name__.replace("_", "-"), disks, guest=False)
    vm.write_blocks("vda", 0, MIB, 1)
    checkpoint = product.point(product.backup(vm.name)["point"])["checkpoint"]
    vm.write_blocks("vda", 2 * MIB, 64 * 1024, 2)
    lose(vm, checkpoint)
    if vm.state == "running":
        vm.write_blocks("vda", 3 * MIB, 64 * 1024, 3)
    made = witness.back_up(vm, "vda", "vdb")
    assert (made["mode"], made["reason"]) == ("full", reason), made
    again = witness.back_up(vm, "vda", "vdb")
    assert again["mode"] == "incremental"
    assert [one.getName() for one in vm.domain.listAllCheckpoints()] == [product.point(again["point"])["checkpoint"]]
