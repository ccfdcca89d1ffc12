"""A point becomes a VM of its own that boots; whatever stands in the way is noticed before anything is written."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Witness
from tests.integration.product import Ended, Product

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def original(module_lab: Lab) -> LabVm:
    vm = module_lab.create_vm("original", [DiskSpec(), DiskSpec(size=2 * MIB)], network=True)
    vm.wait_agent()
    return vm


@pytest.fixture(scope="module")
def point(original: LabVm, product: Product) -> str:
    """The second of three, while the guest writes: neither the newest nor a full one."""
    original.start_writer(4096)
    product.backup(original.name)
    original.write_file("/data/letter", b"written before the second point")
    original.sync()
    original.write_blocks("vdb", MIB, 4096, 0x77)
    made = product.backup(original.name)
    assert (made["mode"], made["consistency"]) == ("incremental", "filesystem")
    original.write_file("/data/letter", b"written after it")
    product.backup(original.name)
    original.stop_writer()
    return str(made["point"])


def test_copy_boots_beside_the_original_and_its_files_read_back(
    module_lab: Lab, original: LabVm, point: str, product: Product
) -> None:
    name = module_lab.full_name("copy of 'original' (é)")
    folder = module_lab.folder / "copies"
    done = product.run("restore", point, "--as", name, "--disks-in", folder, "--start", "--json").succeeded()
    copy = module_lab.adopt(name)
    assert original.state == copy.state == "running"
    assert done.events[-1]["name"] == name
    copy.wait_agent()
    assert copy.read_file("/data/letter") == b"written before the second point"
    assert copy.read_blocks("vdb", MIB, 4096) == b"\x77" * 4096
    assert copy.check_writer() > 0
    assert original.read_file("/data/letter") == b"written after it"

    assert copy.uuid != original.uuid
    assert addresses(copy).isdisjoint(addresses(original))
    assert len(addresses(copy)) == len(addresses(original)) == 1
    for target in ("vda", "vdb"):
        assert copy.disk(target).parent == folder
    # A VM of its own: nothing of the original's chain is taken for its.
    made = product.backup(name)
    assert (made["mode"], made["reason"]) == ("full", "no-point")
    assert product.backup(original.name)["mode"] == "incremental"


def addresses(vm: LabVm) -> set[str]:
    return set(re.findall(r"mac address='([^']*)'", vm.domain.XMLDesc()))


def test_without_start_it_is_defined_and_off(module_lab: Lab, point: str, product: Product, witness: Witness) -> None:
    name = module_lab.full_name("off")
    folder = witness.new_path("off")
    product.run("restore", point, "--as", name, "--disks-in", folder).succeeded()
    assert module_lab.adopt(name).state == "shut off"
    xml = ET.fromstring(module_lab.adopt(name).domain.XMLDesc())
    files = {Path(source.get("file", "")) for source in xml.iterfind("devices/disk/source")}
    assert files == set(folder.iterdir())


@pytest.fixture
def refused(module_lab: Lab, point: str, product: Product, witness: Witness) -> Callable[..., Ended]:
    """Restores under a name, which must fail and leave neither a VM nor a file."""

    def run(name: str, status: int, *, folder: Path | None = None) -> Ended:
        folder = witness.new_path("refused") if folder is None else folder
        before = sorted(folder.iterdir()) if folder.exists() else None
        vms = {domain.UUIDString() for domain in module_lab.connection().listAllDomains() if ours(domain.name())}
        done = product.run("restore", "--disks-in", folder, f"--as={name}", point).failed(status)
        assert "HINT:" in done.stderr
        assert (sorted(folder.iterdir()) if folder.exists() else None) == before
        now = {domain.UUIDString() for domain in module_lab.connection().listAllDomains() if ours(domain.name())}
        assert now == vms
        return done

    def ours(name: str) -> bool:
        return name.startswith(module_lab.prefix)

    return run


def test_name_of_another_vm_is_refused(original: LabVm, refused: Callable[..., Ended]) -> None:
    assert "exists already" in refused(original.name, 1).stderr


def test_uuid_of_another_vm_is_no_free_name(original: LabVm, refused: Callable[..., Ended]) -> None:
    refused(original.uuid, 1)


@pytest.mark.parametrize("name", ["", "  ", "a/b", "../up", "line\nbreak", "\x1b[31mred", " edge ", "x" * 300, ".."])
def test_odd_name_is_refused(refused: Callable[..., Ended], name: str) -> None:
    refused(name, 2)


def test_disk_file_that_exists_is_refused_and_left_alone(
    module_lab: Lab, refused: Callable[..., Ended], witness: Witness
) -> None:
    name = module_lab.full_name("taken")
    folder = witness.new_path("occupied")
    folder.mkdir()
    standing = folder / f"{name}-vdb.qcow2"
    standing.write_bytes(b"mine")
    assert str(standing) in refused(name, 1, folder=folder).stderr
    assert standing.read_bytes() == b"mine"


def test_folder_target_that_exists_is_refused_and_left_alone(point: str, product: Product, witness: Witness) -> None:
    folder = witness.new_path("occupied")
    folder.mkdir()
    (folder / "domain.xml").write_text("mine")
    assert "exists already" in product.run("restore", point, "--to", folder).failed(1).stderr
    assert [path.name for path in folder.iterdir()] == ["domain.xml"]
    assert (folder / "domain.xml").read_text() == "mine"


def test_folder_holds_xml_and_manifest_beside_the_disks(point: str, product: Product, witness: Witness) -> None:
    folder = witness.new_path("folder")
    product.restore(point, folder)
    assert {path.name for path in folder.iterdir()} == {"vda.qcow2", "vdb.qcow2", "domain.xml", "manifest.json"}
    for name in ("domain.xml", "manifest.json"):
        assert (folder / name).read_bytes() == (product.path_of(point) / name).read_bytes()
