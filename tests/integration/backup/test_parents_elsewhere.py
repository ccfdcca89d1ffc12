"""Incrementals on points whose images went to other servers: right once the chain is together again."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.point import MANIFEST_FILE, Manifest
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.services.keep_local import Answer, KeepLocalService
from kvm_backup.services.prune import VmPoints
from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Json, Product

pytestmark = pytest.mark.vm

CHAIN = 4
ALONE = f"[retention]\nafter_backup = false\nchain = {CHAIN}\n"
WITH_REMOTE = f'{ALONE}\n[[repository]]\nname = "nas"\nurl = "ssh://nas.invalid/srv"\n'


@pytest.fixture(scope="module")
def product(module_lab: Lab) -> Product:
    return Product(module_lab.folder / "product", WITH_REMOTE)


@dataclass
class Holder:
    """A server that holds whatever was taken there."""

    mirror: Mirror

    def ask(self, points: Sequence[Manifest], check: Callable[[], None]) -> Iterator[Answer]:
        check()
        return (Answer(point) for point in points)


class Server:
    """What another server would hold: the images that go here are kept aside, to be brought back."""

    def __init__(self, product: Product, vm: LabVm, folder: Path) -> None:
        self._mirrors = folder / "mirrors"
        self._product = product
        self._vm = vm
        self._aside = folder / f"aside-{vm.name}"

    @property
    def repository(self) -> LocalRepository:
        return LocalRepository.open("default", self._product.repository)

    @property
    def folder(self) -> Path:
        found = self.repository.folder_of(self._vm.uuid)
        assert found is not None
        return found

    def take_all(self) -> None:
        """Every point is there now, and no image stays here."""
        shutil.copytree(
            self.folder, self._aside, dirs_exist_ok=True, ignore=lambda *_: [ELSEWHERE_FILE, "vda.held", "vdb.held"]
        )
        mirror = Mirror.open("nas", f"ssh://nas/{self._vm.name}", self._mirrors, self.repository.id)
        for point in self.repository.points(self.folder):
            assert isinstance(point, Manifest)
            mirror.record(point.id, (self.repository.path_of(point.id) / MANIFEST_FILE).read_bytes())
        state = self._product.state
        catalogue = Catalogue.open(state / "catalogue.db")
        service = KeepLocalService(self.repository, catalogue, state / "locks", 10.0, lambda _event: None)
        owner = VmPoints(self.folder, self._vm.name, self._vm.uuid)
        service.apply(owner, {"nas": Holder(mirror)}, KeepLocal.NOTHING)
        assert list(self.folder.rglob("*.qcow2")) == []

    def bring_back(self) -> None:
        """As somebody would by hand: all files of all points, and the marks are removed."""
        shutil.copytree(self._aside, self.folder, dirs_exist_ok=True)
        for mark in self.folder.rglob(ELSEWHERE_FILE):
            mark.unlink()


def see(vm: LabVm, product: Product, witness: Witness) -> tuple[Json, Sighting]:
    references = witness.copy(vm, "vda", "vdb")
    made = product.backup(vm.name)
    return made, Sighting(made["point"], references)


def test_incrementals_go_on_without_any_image_here_until_the_chain_is_as_long_as_may_be(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    vm = module_lab.create_vm("elsewhere", [DiskSpec(size=4 * MIB), DiskSpec(size=4 * MIB)], guest=False)
    server = Server(product, vm, module_lab.folder)
    modes, seen = [], []
    for number in range(CHAIN + 1):
        vm.write_blocks("vda", number * 256 * 1024, 192 * 1024, number + 1)
        vm.write_blocks("vdb", (7 - number) * 512 * 1024, 64 * 1024, number + 9)
        made, sighting = see(vm, product, witness)
        modes.append((made["mode"], made["reason"]))
        seen.append(sighting)
        if made["mode"] == "incremental" and number > 1:
            refused = product.run("restore", "--to", witness.new_path("refused"), sighting.point).failed(1)
            assert "--repository nas" in refused.stderr
        if number:  # the first two together, those after them one by one
            server.take_all()
    assert modes == [
        ("full", "no-point"),
        *[("incremental", None)] * (CHAIN - 1),
        ("full", "chain-elsewhere"),
    ]
    status, verdicts = product.verify("--vm", vm.name)
    assert (status, {tuple(verdict["elsewhere"]) for verdict in verdicts}) == (0, {("nas",)})
    server.bring_back()
    for sighting in seen:
        witness.confirm(sighting)
    assert product.verify("--vm", vm.name, "--deep")[0] == 0


def test_nothing_is_built_on_images_that_are_only_where_the_settings_name_no_repository_any_more(
    module_lab: Lab, product: Product
) -> None:
    vm = module_lab.create_vm("unnamed", [DiskSpec(size=4 * MIB)], guest=False)
    vm.write_blocks("vda", MIB, MIB, 1)
    product.backup(vm.name)
    Server(product, vm, module_lab.folder).take_all()
    product.configure(ALONE)
    try:
        made = product.backup(vm.name)
        status, verdicts = product.verify("--vm", vm.name)
    finally:
        product.configure(WITH_REMOTE)
    assert (made["mode"], made["reason"]) == ("full", "chain-unnamed")
    assert status == 1
    assert [[finding["kind"] for finding in verdict["findings"]] for verdict in verdicts] == [["images-unnamed"], []]
    assert product.verify("--vm", vm.name)[0] == 0
    assert product.backup(vm.name)["mode"] == "incremental"


def shrink_and_grow(vm: LabVm) -> None:
    vm.resize_disk("vda", MIB // 2)
    vm.resize_disk("vda", 4 * MIB)


def shrink_and_grow_while_off(vm: LabVm) -> None:
    vm.destroy()
    shrink_and_grow(vm)


@pytest.mark.parametrize("lose", [shrink_and_grow, shrink_and_grow_while_off])
def test_a_disk_that_lost_data_without_a_trace_is_noticed_though_the_parent_is_elsewhere(
    module_lab: Lab, product: Product, witness: Witness, lose: Callable[[LabVm], None]
) -> None:
    name = lose.__name__.replace("_", "-")
    vm = module_lab.create_vm(name, [DiskSpec(size=4 * MIB), DiskSpec(size=4 * MIB)], guest=False)
    vm.write_blocks("vda", MIB, MIB, 1)
    product.backup(vm.name)
    Server(product, vm, module_lab.folder).take_all()
    lose(vm)
    made = witness.back_up(vm, "vda", "vdb")
    assert (made["mode"], made["reason"]) == ("full", "bitmap-incomplete")
