"""A VM is brought back to a point over itself: only when asked to, and never half."""

import re
import subprocess
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness, same_disks
from tests.integration.product import Ended, Product

pytestmark = pytest.mark.vm

TARGETS = ["vda", "vdb"]


def make_vm(lab: Lab, name: str, **options: object) -> LabVm:
    disks = [DiskSpec(size=4 * MIB), DiskSpec(size=3 * MIB, image_format="raw")]
    vm = lab.create_vm(name, disks, guest=False, **options)  # type: ignore[arg-type]
    for target in TARGETS:
        vm.write_blocks(target, 0, 2 * MIB, 0x10)
    return vm


def in_place(product: Product, point: str, *options: str, stdin: str | None = None) -> Ended:
    return product.run("restore", point, "--in-place", *options, stdin=stdin)


def whole_state(vm: LabVm, witness: Witness) -> tuple[str, str, dict[str, bytes]]:
    """What must not change when a restore is refused."""
    disks = {target: path.read_bytes() for target, path in witness.copy(vm, *TARGETS).items()}
    return vm.state, re.sub(r"index='\d+'", "", vm.domain.XMLDesc()), disks


def test_refused_without_consent_and_nothing_changes(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = make_vm(module_lab, "unasked")
    point = witness.back_up(vm, *TARGETS)["point"]
    vm.write_blocks("vda", 0, MIB, 0x20)
    running = whole_state(vm, witness)
    assert "HINT: Nothing was changed" in in_place(product, point, "--yes").failed(1).stderr
    # There is no terminal to ask on, and what comes through a pipe is no consent.
    assert "not confirmed" in in_place(product, point, "--stop", stdin="y\n").failed(1).stderr
    assert whole_state(vm, witness) == running
    vm.destroy()
    stopped = whole_state(vm, witness)
    assert "not confirmed" in in_place(product, point).failed(1).stderr
    assert whole_state(vm, witness) == stopped
    assert remains(vm) == []


def remains(vm: LabVm) -> list[Path]:
    return list(vm.disk("vda").parent.glob("*.kvm-backup-*"))


def test_older_point_comes_back_and_the_next_run_is_a_full_one(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    vm = make_vm(module_lab, "back")
    product.backup(vm.name)
    vm.write_blocks("vda", MIB, 70 * 1024, 0x30)
    vm.write_blocks("vdb", MIB, 512, 0x30)
    references = witness.copy(vm, *TARGETS)
    point = product.backup(vm.name)["point"]
    vm.write_blocks("vda", 0, 4 * MIB, 0x40)
    product.backup(vm.name)
    vm.destroy()
    owner = vm.disk("vda").stat().st_uid, vm.disk("vda").stat().st_mode
    files = {target: vm.disk(target) for target in TARGETS}
    in_place(product, point, "--yes").succeeded()
    assert {target: vm.disk(target) for target in TARGETS} == files
    assert (vm.disk("vda").stat().st_uid, vm.disk("vda").stat().st_mode) == owner
    assert remains(vm) == []
    same_disks(witness.copy(vm, *TARGETS), references)
    assert files["vdb"].stat().st_size == 3 * MIB  # a raw disk stays raw
    vm.start()
    made = witness.back_up(vm, *TARGETS)
    assert (made["mode"], made["reason"]) == ("full", "checkpoint-missing")
    vm.write_blocks("vda", 3 * MIB, 512, 0x50)
    assert witness.back_up(vm, *TARGETS)["mode"] == "incremental"


def test_damaged_point_leaves_the_vm_as_it_is(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = make_vm(module_lab, "damaged")
    point = product.backup(vm.name)["point"]
    image = product.path_of(point) / "vda.qcow2"
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    before = whole_state(vm, witness)
    assert f"{point}/vda.qcow2 is damaged" in in_place(product, point, "--stop", "--yes").failed(1).stderr
    assert whole_state(vm, witness) == before
    assert remains(vm) == []


def test_vm_that_was_undefined_is_defined_again(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = make_vm(module_lab, "gone")
    references = witness.copy(vm, *TARGETS)
    made = product.backup(vm.name)
    vm.destroy()
    files = [vm.disk(target) for target in TARGETS]
    subprocess.run(["virsh", "-q", "undefine", "--checkpoints-metadata", vm.uuid], check=True, capture_output=True)
    # Files that nobody vouches for are not overwritten.
    folder = str(module_lab.folder)
    assert "exists" in in_place(product, made["point"], "--yes", "--disks-in", folder).failed(1).stderr
    for path in files:
        path.unlink()
    in_place(product, made["point"], "--yes", "--disks-in", folder).succeeded()
    assert vm.state == "shut off"
    assert [vm.disk(target) for target in TARGETS] == files
    same_disks(witness.copy(vm, *TARGETS), references)
    vm.start()
    vm.write_blocks("vda", 0, 512, 1)
    again = witness.back_up(vm, *TARGETS)
    assert again["mode"] == "full"


def test_another_vm_of_that_name_is_never_overwritten(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = make_vm(module_lab, "same")
    point = product.backup(vm.name)["point"]
    vm.destroy()
    subprocess.run(["virsh", "-q", "undefine", "--checkpoints-metadata", vm.uuid], check=True, capture_output=True)
    for target in TARGETS:
        (module_lab.folder / f"same-{target}.{'raw' if target == 'vdb' else 'qcow2'}").unlink()
    other = make_vm(module_lab, "same")
    before = whole_state(other, witness)
    assert "another VM" in in_place(product, point, "--stop", "--yes").failed(1).stderr
    assert whole_state(other, witness) == before


def test_snapshot_comes_back_in_place_twice(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = make_vm(module_lab, "undo")
    references = witness.copy(vm, *TARGETS)
    point = product.backup(vm.name, "snapshot")["point"]
    for pattern in (0x60, 0x61):
        vm.write_blocks("vda", 0, MIB, pattern)
        vm.destroy()
        in_place(product, point, "--yes").succeeded()
        same_disks(witness.copy(vm, *TARGETS), references)
        vm.start()


def test_running_guest_is_stopped_and_boots_with_its_old_file(module_lab: Lab, product: Product) -> None:
    vm = module_lab.create_vm("guest")
    vm.wait_agent()
    vm.write_file("/data/letter", b"old")
    vm.sync()
    point = product.backup(vm.name)["point"]
    vm.write_file("/data/letter", b"new")
    vm.sync()
    in_place(product, point, "--stop", "--yes").succeeded()
    assert vm.state == "shut off"
    vm.start()
    vm.wait_agent()
    assert vm.read_file("/data/letter") == b"old"
