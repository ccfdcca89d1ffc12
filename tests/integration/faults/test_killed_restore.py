"""SIGKILL during restores: nothing half is visible, the same command works again, and no disk is ever missing."""

from pathlib import Path

import pytest

from lab import Lab
from tests.integration.backup.witness import same_disks
from tests.integration.faults.restorable import TARGETS, Restorable, reset
from tests.integration.faults.stopped_run import stopped_at

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def restorable(module_lab: Lab) -> Restorable:
    return Restorable(module_lab)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_restore_to_a_folder_killed_shows_no_half_disk_and_works_again(
    restorable: Restorable, module_lab: Lab, image_format: str
) -> None:
    folder = module_lab.folder / f"to-{image_format}"
    words: list[str | Path] = ["--to", folder, "--format", image_format]
    for instant in ("progress:restore", "first-file-published", "files-published"):
        with stopped_at(
            restorable.victim.product, instant, "restore", "--json", *words, "--", restorable.point
        ) as run:
            run.kill()
        whole = visible(folder)
        assert (whole == []) == (instant == "progress:restore")
    restorable.run(words)
    suffix = "qcow2" if image_format == "qcow2" else "img"
    assert visible(folder) == ["domain.xml", "manifest.json", f"vda.{suffix}", f"vdb.{suffix}"]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    same_disks({target: folder / f"{target}.{suffix}" for target in TARGETS}, restorable.then)


def test_a_restore_does_not_take_the_place_of_another_that_is_alive(restorable: Restorable, module_lab: Lab) -> None:
    words: list[str | Path] = ["restore", "--json", "--to", module_lab.folder / "shared", "--", restorable.point]
    with stopped_at(restorable.victim.product, "progress:restore", *words) as run:
        refused = restorable.victim.product.run(*words).failed(1)
        assert "another restore" in refused.stderr
        run.finish().succeeded()


def test_restore_as_a_new_vm_killed_leaves_no_vm_and_works_again(restorable: Restorable, module_lab: Lab) -> None:
    name = module_lab.full_name("reborn")
    folder = module_lab.folder / "images"
    words: list[str | Path] = ["restore", "--json", "--as", name, "--disks-in", folder, "--", restorable.point]
    for instant in ("progress:restore", "first-file-published", "files-published"):
        with stopped_at(restorable.victim.product, instant, *words) as run:
            run.kill()
        assert name not in [domain.name() for domain in module_lab.connection().listAllDomains()]
        assert (visible(folder) == []) == (instant == "progress:restore")
    restorable.victim.product.run(*words).succeeded()
    reborn = module_lab.adopt(name)
    same_disks({target: reborn.disk(target) for target in TARGETS}, restorable.then)
    reborn.start()
    assert reborn.state == "running"


@pytest.mark.parametrize(
    "instant", ["progress:restore", "disks-written", "first-disk-exchanged", "disks-exchanged", "before-definition"]
)
def test_restore_in_place_killed_never_misses_a_disk_and_works_again(restorable: Restorable, instant: str) -> None:
    reset(restorable)
    product, vm = restorable.victim.product, restorable.vm
    words: list[str | Path] = ["restore", "--json", "--in-place", "--yes", "--", restorable.point]
    with stopped_at(product, instant, *words) as run:
        run.kill()
    exchanged = {"first-disk-exchanged": 1, "disks-exchanged": 2, "before-definition": 2}.get(instant, 0)
    for number, target in enumerate(TARGETS):
        wanted = restorable.then if number < exchanged else restorable.now
        same_disks({target: vm.disk(target)}, {target: wanted[target]})
    assert "restore-in-place" in restorable.victim.leftovers()
    product.run(*words).succeeded()
    same_disks({target: vm.disk(target) for target in TARGETS}, restorable.then)
    assert restorable.victim.leftovers() == []
    vm.start()
    restorable.victim.recovers(expected="full")
    vm.destroy()


def test_doctor_puts_old_disks_back_when_only_some_were_exchanged(restorable: Restorable) -> None:
    reset(restorable)
    words: list[str | Path] = ["restore", "--json", "--in-place", "--yes", "--", restorable.point]
    with stopped_at(restorable.victim.product, "first-disk-exchanged", *words) as run:
        run.kill()
    restorable.victim.product.run("doctor", "--clean", "--json")
    same_disks({target: restorable.vm.disk(target) for target in TARGETS}, restorable.now)
    assert restorable.victim.leftovers() == []


def test_a_vm_started_while_it_is_restored_in_place_keeps_its_disks(restorable: Restorable) -> None:
    reset(restorable)
    words: list[str | Path] = ["restore", "--json", "--in-place", "--yes", "--", restorable.point]
    with stopped_at(restorable.victim.product, "progress:restore", *words) as run:
        restorable.vm.start()
        ended = run.finish().failed(1)
    assert "was started" in ended.stderr
    assert restorable.vm.state == "running"
    restorable.vm.destroy()
    same_disks({target: restorable.vm.disk(target) for target in TARGETS}, restorable.now)
    assert restorable.victim.leftovers() == []
