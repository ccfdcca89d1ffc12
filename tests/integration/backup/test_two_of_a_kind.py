"""Two runs at the same time, and two repositories of one VM: neither disturbs the other."""

import re
import signal
import time
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Product

pytestmark = pytest.mark.vm


@pytest.fixture
def vm(module_lab: Lab, request: pytest.FixtureRequest) -> LabVm:
    name = re.sub(r"\W", "-", request.node.name)[:40]
    made = module_lab.create_vm(name, [DiskSpec(size=8 * MIB)], guest=False)
    made.write_blocks("vda", 0, MIB, 1)
    return made


def test_second_run_waits_for_the_first_and_builds_on_its_point(
    vm: LabVm, product: Product, witness: Witness, request: pytest.FixtureRequest
) -> None:
    references = witness.copy(vm)
    # Longer than a host that is busy with other tests can hold the first one up.
    request.addfinalizer(lambda: product.configure(""))
    product.configure("[backup]\nlock_wait = 200\n")
    with product.start_backup(vm.name) as first:
        first.wait_for(event="step", step="copy")
        first.signal(signal.SIGSTOP)
        with product.start_backup(vm.name) as second:
            second.wait_for(event="started")
            # Time for a run that does not wait to meet the first in its tracks.
            time.sleep(1)
            first.signal(signal.SIGCONT)
            full = first.finish().succeeded().finished
            incremental = second.finish().succeeded().finished
    assert (full["mode"], incremental["mode"]) == ("full", "incremental")
    assert product.point(incremental["point"])["parent"] == full["point"]
    assert product.point(incremental["point"])["created"] > product.point(full["point"])["finished"]
    for one in (full, incremental):
        witness.confirm(Sighting(one["point"], references))


def test_second_run_gives_up_with_vm_busy_while_the_first_goes_on(
    vm: LabVm, product: Product, witness: Witness, request: pytest.FixtureRequest
) -> None:
    references = witness.copy(vm)
    request.addfinalizer(lambda: product.configure(""))
    product.configure("[backup]\nlock_wait = 0\n")
    with product.start_backup(vm.name) as first:
        first.wait_for(event="step", step="copy")
        first.signal(signal.SIGSTOP)
        refused = product.run(*product.backup_words(vm.name)).failed(1).finished
        in_place = product.run("restore", "--in-place", "--stop", "--yes", f"{vm.name}/latest")
        # Other VMs are none of its business, and reading is free.
        product.run("point", "list").succeeded()
        first.signal(signal.SIGCONT)
        done = first.finish().succeeded().finished
    assert (refused["error_code"], refused["retryable"], refused["point"]) == ("vm-busy", True, None)
    assert in_place.status != 0
    assert vm.state == "running"
    witness.confirm(Sighting(done["point"], references))
    assert [point["id"] for point in product.points(vm.name)] == [done["point"]]


def test_job_of_another_program_is_left_alone(vm: LabVm, product: Product, module_lab: Lab) -> None:
    folder = module_lab.folder / "foreign"
    folder.mkdir()
    folder.chmod(0o777)
    vm.domain.backupBegin(
        f"<domainbackup mode='pull'><server transport='unix' socket='{folder}/socket'/></domainbackup>", None, 0
    )
    try:
        refused = product.run(*product.backup_words(vm.name)).failed(1).finished
        assert refused["error_code"] == "vm-busy"
        assert str(folder) in vm.domain.backupGetXMLDesc()
        assert vm.domain.listAllCheckpoints() == []
        assert product.points(vm.name) == []
    finally:
        vm.domain.abortJob()
    assert product.backup(vm.name)["mode"] == "full"


def test_each_repository_keeps_a_chain_of_its_own(
    vm: LabVm, module_lab: Lab, product: Product, witness: Witness
) -> None:
    places: list[Path | None] = [None, module_lab.folder / "other-repository"]
    product.run("repository", "init", places[1] or "").succeeded()
    points: list[tuple[Sighting, Path | None]] = []
    for number in range(1, 4):
        for index, place in enumerate(places):
            vm.write_blocks("vda", (2 * number + index) * MIB // 2, 70 * 1024, 10 * number + index)
            vm.discard_blocks("vda", number * 64 * 1024, 64 * 1024)
            references = witness.copy(vm)
            made = product.backup(vm.name, repository=place)
            assert made["mode"] == ("full" if number == 1 else "incremental")
            points.append((Sighting(made["point"], references), place))
    # One run beside the line, which the other repository must not notice.
    vm.write_blocks("vda", 0, 512, 0x99)
    product.backup(vm.name, "full")
    references = witness.copy(vm)
    made = product.backup(vm.name, repository=places[1])
    assert made["mode"] == "incremental"
    points.append((Sighting(made["point"], references), places[1]))
    for seen, place in points:
        witness.confirm(seen, place)
    assert len(vm.domain.listAllCheckpoints()) == len(places)
