"""VMs may be called nearly anything: each name is backed up, listed, verified and restored like another."""

import json
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness, same_disks
from tests.integration.product import Product

pytestmark = pytest.mark.vm

NAMES = {
    "quotes": 'it\'s a "quoted"  `web` café ☃ 日本語 é',
    "dash": "--all ;$(touch was-here)&|*?>was-here",
    "dots": "..[bold]<b>&amp;{x}%s\\n a,b=c:json:{}",
    "long": "n" * 150,
}


@pytest.fixture(params=NAMES, scope="module")
def vm(module_lab: Lab, request: pytest.FixtureRequest) -> LabVm:
    made = module_lab.create_vm(request.param, [DiskSpec(size=MIB)], guest=False, start=False)
    # Its end makes it unique: this host may run the test twice at a time.
    name = f"{NAMES[request.param]} {module_lab.prefix}"
    if request.param == "long":
        name = name[-150:]
    made.domain.rename(name)
    odd = module_lab.adopt(name)
    odd.start()
    odd.write_blocks("vda", 0, 4096, 1)
    return odd


def test_odd_name_is_backed_up_listed_verified_and_restored(
    vm: LabVm, module_lab: Lab, product: Product, witness: Witness
) -> None:
    product.configure(f"[vm.{json.dumps(vm.name)}]\nfreeze = false\n")
    product.backup(vm.name)
    vm.write_blocks("vda", 4096, 4096, 2)
    references = witness.copy(vm)
    made = product.backup(vm.name)
    assert (made["vm"], made["mode"]) == (vm.name, "incremental")

    rows = product.points(vm.name)
    assert [(row["vm"], row["mode"]) for row in rows] == [(vm.name, "full"), (vm.name, "incremental")]
    assert Path(rows[1]["path"]).parent.parent == product.repository
    assert vm.name in product.run("vm", "list").succeeded().stdout
    assert product.verify(f"--vm={vm.name}")[0] == 0
    same_disks(witness.restored(f"{vm.name}/latest", "qcow2"), references)

    copy = f"copy of {vm.name}"[:190].strip()
    product.run("restore", "--as", copy, "--disks-in", witness.new_path("copy"), "--", made["point"]).succeeded()
    same_disks({"vda": module_lab.adopt(copy).disk("vda")}, references)
    assert not Path("was-here").exists()


def test_unknown_vm_with_an_odd_name_is_not_found(product: Product) -> None:
    for name in ("../../etc/passwd", "no\nsuch", "\x1b[2J", "", "x" * 5000):
        done = product.run("backup", "--", name)
        assert done.failed(4).stderr.count("HINT:") == 1
        assert "\x1b" not in done.stderr
