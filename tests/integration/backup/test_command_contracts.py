"""What scripts rely on: keys of the JSON output, and exit codes, of every command that works on VMs and points."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.product import Ended, Product

pytestmark = pytest.mark.vm

NO_SUCH_POINT = "none--00000000/20200101T000000Z"


@pytest.fixture(scope="module")
def vms(module_lab: Lab) -> list[LabVm]:
    return [module_lab.create_vm(name, [DiskSpec(size=MIB)], guest=False) for name in ("one", "two")]


@pytest.fixture(scope="module")
def made(vms: list[LabVm], product: Product) -> Ended:
    """Both VMs in one command."""
    return product.run("backup", "--json", vms[0].name, vms[1].uuid).succeeded()


def test_each_vm_ends_with_one_finished_event_that_has_the_documented_keys(made: Ended, vms: list[LabVm]) -> None:
    ends = [event for event in made.events if event["event"] == "finished"]
    assert len(ends) == len(vms)
    for end, vm in zip(ends, vms, strict=True):
        assert end["point"].startswith(f"{vm.name}--{vm.uuid[:8]}/")
        assert end["vm"] in (vm.name, vm.uuid)
        assert (end["mode"], end["requested_mode"]) == ("full", "incremental")
        assert (end["reason"], end["error"]) == ("no-point", None)
    assert made.events[-1] == ends[-1]


def test_events_of_a_vm_come_in_the_order_of_its_steps(made: Ended) -> None:
    first_end = next(number for number, event in enumerate(made.events) if event["event"] == "finished")
    own = made.events[:first_end]
    assert own[0]["event"] == "started"
    steps = [event["step"] for event in own if event["event"] == "step"]
    assert steps == ["prepare", "begin", "copy", "publish", "advance"]
    progress = [event for event in own if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"]


def test_point_list_has_the_documented_keys(made: Ended, vms: list[LabVm], product: Product) -> None:
    (row,) = product.points(vms[0].name)
    end = next(event for event in made.events if event["event"] == "finished")
    assert row["id"] == end["point"]
    assert (row["vm"], row["mode"], row["parent"], row["consistency"]) == (vms[0].name, "full", None, "crash")
    assert Path(row["path"]).is_dir()
    stored = sum(image.stat().st_size for image in Path(row["path"]).glob("*.qcow2"))
    assert stored <= row["bytes_stored"] <= stored + 16384
    age = datetime.now(UTC) - datetime.fromisoformat(row["created"])
    assert timedelta(0) < age < timedelta(minutes=30)


def test_point_list_without_a_vm_lists_all_and_of_an_unknown_vm_none(
    made: Ended, vms: list[LabVm], product: Product
) -> None:
    assert {row["vm"] for row in product.points()} == {vm.name for vm in vms}
    none = product.run("point", "list", "--json", "no such VM").failed(4)
    assert none.json == []
    assert "HINT:" in none.stderr


def test_some_vms_failed_is_3_and_the_others_are_saved(made: Ended, vms: list[LabVm], product: Product) -> None:
    done = product.run("backup", "--json", vms[0].name, "no such VM", vms[1].name)
    assert done.status == 3
    ends = [event for event in done.events if event["event"] == "finished"]
    assert [end["error_code"] for end in ends] == ["vm-not-found", None, None]
    assert ends[0]["hint"]


def test_unknown_names_are_4(made: Ended, vms: list[LabVm], product: Product, tmp_path: Path) -> None:
    commands = [
        ["backup", "no such VM"],
        ["backup", "--repository", "nowhere", vms[0].name],
        ["backup", "--repository", str(tmp_path), vms[0].name],
        ["point", "show", NO_SUCH_POINT],
        ["point", "list", "--repository", "nowhere"],
        ["verify", NO_SUCH_POINT],
        ["verify", "--vm", "no such VM"],
        ["restore", NO_SUCH_POINT, "--to", str(tmp_path / "out")],
        ["restore", "../../etc/passwd", "--to", str(tmp_path / "out")],
    ]
    for words in commands:
        assert "HINT:" in product.run(*words).failed(4).stderr, words
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_2_and_nothing_is_done(
    made: Ended, vms: list[LabVm], product: Product, tmp_path: Path
) -> None:
    point = product.points(vms[0].name)[0]["id"]
    out = str(tmp_path / "out")
    commands = [
        ["backup"],
        ["backup", "--all", vms[0].name],
        ["backup", "--mode", "sideways", vms[0].name],
        ["restore", point],
        ["restore", point, "--to", out, "--in-place"],
        ["restore", point, "--to", out, "--format", "vmdk"],
        ["restore", point, "--to", out, "--start"],
        ["verify", point, "--all"],
    ]
    before = len(product.points())
    for words in commands:
        assert "HINT:" in product.run(*words).failed(2).stderr, words
    assert not Path(out).exists()
    assert len(product.points()) == before


def test_failure_is_1(made: Ended, vms: list[LabVm], product: Product, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    point = product.points(vms[0].name)[0]["id"]
    product.run("restore", point, "--to", tmp_path / "file" / "below").failed(1)
    assert (tmp_path / "file").read_text() == "in the way"
    product.run("repository", "init", tmp_path).failed(1)
    product.run("backup", "--repository", "/proc/nowhere", vms[0].name).failed(4)


def test_bad_settings_are_2_and_name_the_key(module_lab: Lab, vms: list[LabVm]) -> None:
    product = Product(module_lab.folder / "misspelt", "[backup]\nfreze = true\n")
    assert "freze" in product.run("backup", vms[0].name).failed(2).stderr


def test_libvirtd_that_does_not_answer_is_1_with_a_hint(module_lab: Lab, vms: list[LabVm]) -> None:
    product = Product(
        module_lab.folder / "no-libvirtd",
        '[libvirt]\nuri = "qemu+unix:///system?socket=/nowhere"\n',
    )
    done = product.run("backup", "--json", vms[0].name).failed(1)
    assert "HINT:" in done.stderr or done.finished["error_code"] == "hypervisor-unavailable"


def test_quiet_when_nobody_watches(made: Ended, vms: list[LabVm], product: Product) -> None:
    done = product.run("backup", vms[0].name).succeeded()
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert vms[0].name in done.stdout
