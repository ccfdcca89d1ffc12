"""Verify names what is damaged in points that the engine's own writer wrote, and finds nothing in whole ones."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.errors import BrokenChainError, DamagedPointError
from kvm_backup.domain.point import DiskMode, Manifest, serialize
from kvm_backup.engine.copy import NoControl
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import DamagedPoint
from kvm_backup.services.links import check_link, disk_links, seem_intact
from kvm_backup.services.verify import Finding, chain_of, verify_points
from tests.unit.builders import Shelf, a_disk, flip_bit, forged


def another_host() -> Hypervisor:
    """libvirt's own driver for tests, which knows none of these VMs."""
    return Hypervisor.connect("test:///default")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


@pytest.fixture
def chain(shelf: Shelf) -> tuple[Manifest, Manifest, Manifest]:
    """A full point and two incrementals, two disks each."""
    full = shelf.add(targets=("vda", "vdb"))
    middle = shelf.add(full, targets=("vda", "vdb"))
    return full, middle, shelf.add(middle, targets=("vda", "vdb"))


def findings(shelf: Shelf, *points: Manifest | DamagedPoint, deep: bool = False) -> list[Finding]:
    chosen = points or tuple(shelf.repository.all_points())
    verdicts = verify_points(shelf.repository, chosen, hypervisor=another_host, deep=deep, control=NoControl())
    return [finding for verdict in verdicts for finding in verdict.findings]


@pytest.mark.parametrize("deep", [False, True])
def test_whole_points_have_no_findings(shelf: Shelf, chain: tuple[Manifest, ...], deep: bool) -> None:
    verdicts = list(verify_points(shelf.repository, chain, hypervisor=another_host, deep=deep, control=NoControl()))
    assert [(verdict.point, verdict.vm, verdict.good, verdict.deep) for verdict in verdicts] == [
        (point.id, "web", True, deep) for point in chain
    ]
    assert [verdict.bytes_checked for verdict in verdicts] == [point.bytes_stored for point in chain]


@pytest.mark.parametrize("name", ["vda.qcow2", "vdb.qcow2", "domain.xml"])
def test_one_flipped_bit_anywhere_in_a_file_is_found_in_that_file_of_that_point(
    shelf: Shelf, chain: tuple[Manifest, ...], name: str
) -> None:
    path = shelf.path(chain[1], name)
    whole = path.read_bytes()
    places = random.Random(name)
    for offset in {0, 7, len(whole) - 1, *(places.randrange(len(whole)) for _ in range(8))}:
        flip_bit(path, offset, places.randrange(8))
        found = findings(shelf)
        assert found, f"bit at {offset}"
        assert {(finding.point, finding.file) for finding in found} == {(chain[1].id, name)}
        path.write_bytes(whole)
    assert findings(shelf) == []


def test_a_damaged_cluster_is_placed_in_the_file_and_on_the_disk(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    path = shelf.path(chain[0])
    flip_bit(path, 65536 + 5000)
    placed = [finding for finding in findings(shelf, chain[0]) if finding.disk_offset is not None]
    assert [(finding.kind, finding.disk_offset) for finding in placed] == [("cluster", 0)]
    assert placed[0].file_offset == 65536


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("spoil", [_shorter, _longer, Path.unlink])
@pytest.mark.parametrize("name", ["vda.qcow2", "domain.xml"])
def test_a_file_that_is_shorter_longer_or_gone_is_found(
    shelf: Shelf, chain: tuple[Manifest, ...], spoil: Callable[[Path], None], name: str
) -> None:
    spoil(shelf.path(chain[2], name))
    assert {(finding.point, finding.file) for finding in findings(shelf)} == {(chain[2].id, name)}


def _swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_files_swapped_between_two_points_are_found_in_both_as_foreign(shelf: Shelf) -> None:
    first, second = shelf.add(), shelf.add()
    _swap(shelf.path(first), shelf.path(second))
    foreign = [finding.point for finding in findings(shelf) if finding.kind == "foreign"]
    assert foreign == [first.id, second.id]


def test_files_swapped_between_two_disks_of_a_point_are_found_as_foreign(
    shelf: Shelf, chain: tuple[Manifest, ...]
) -> None:
    _swap(shelf.path(chain[0], "vda.qcow2"), shelf.path(chain[0], "vdb.qcow2"))
    foreign = [finding.file for finding in findings(shelf, chain[0]) if finding.kind == "foreign"]
    assert foreign == ["vda.qcow2", "vdb.qcow2"]


def test_a_foreign_file_is_found_even_when_the_manifest_was_made_to_fit_it(
    shelf: Shelf, chain: tuple[Manifest, ...]
) -> None:
    """The digest then agrees; what the file says of itself does not."""
    _swap(shelf.path(chain[0], "vda.qcow2"), shelf.path(chain[0], "vdb.qcow2"))
    vda, vdb = chain[0].disks
    fitted = [
        mine.model_copy(update={"image_sha256": other.image_sha256, "bytes_stored": other.bytes_stored})
        for mine, other in ((vda, vdb), (vdb, vda))
    ]
    manifest = chain[0].model_copy(update={"disks": tuple(fitted)})
    shelf.replace_manifest(chain[0], serialize(manifest))
    found = findings(shelf, shelf.repository.load(manifest.id))
    assert [(finding.kind, finding.file) for finding in found] == [("foreign", "vda.qcow2"), ("foreign", "vdb.qcow2")]


def test_a_missing_parent_is_found(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    shutil.rmtree(shelf.repository.path_of(chain[0].id))
    found = [finding for finding in findings(shelf) if finding.kind.startswith("parent")]
    assert [(finding.point, finding.kind) for finding in found] == [(chain[1].id, "parent-missing")]


def test_a_damaged_parent_is_found_in_itself_and_in_its_child(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    flip_bit(shelf.path(chain[0], "manifest.json"), 50)
    found = findings(shelf)
    assert [(finding.point, finding.kind) for finding in found] == [
        (chain[0].id, "damaged-manifest"),
        (chain[1].id, "parent-damaged"),
    ]


def test_a_parent_that_was_replaced_by_another_point_of_its_name_is_found(
    shelf: Shelf, chain: tuple[Manifest, ...]
) -> None:
    shelf.replace_manifest(chain[0], forged(chain[0], uuid="00000000-0000-4000-8000-0000000000ff"))
    assert (chain[1].id, "parent-foreign") in {(finding.point, finding.kind) for finding in findings(shelf)}


def test_a_parent_that_does_not_hold_a_disk_is_found(shelf: Shelf) -> None:
    full = shelf.add(targets=("vda",))
    child = shelf.add(full, targets=("vda", "vdb"))
    found = [finding for finding in findings(shelf, child) if finding.kind == "parent-foreign"]
    assert [finding.file for finding in found] == ["vdb.qcow2"]


def test_a_file_that_cannot_be_read_is_a_finding_and_the_other_points_go_on(
    shelf: Shelf, chain: tuple[Manifest, ...]
) -> None:
    path = shelf.path(chain[0])
    path.unlink()
    path.mkdir()
    found = findings(shelf)
    assert {(finding.point, finding.file) for finding in found} == {(chain[0].id, "vda.qcow2")}


def test_a_point_that_a_prune_takes_away_meanwhile_is_no_damage(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    listed = list(shelf.repository.all_points())
    shelf.repository.withdraw(chain[2].id)
    verdicts = verify_points(shelf.repository, listed, hypervisor=another_host, deep=False, control=NoControl())
    assert [(verdict.point, verdict.good) for verdict in verdicts] == [(point.id, True) for point in chain[:2]]


def test_a_snapshot_whose_image_left_the_host_is_found(shelf: Shelf, tmp_path: Path) -> None:
    host = a_disk(mode=DiskMode.HOST, file=None, image_sha256=None, host_path=str(tmp_path / "gone"), bytes_stored=0)
    point = shelf.add(mode="snapshot", snapshot="s", disks=(host,))
    assert [(finding.kind, finding.file) for finding in findings(shelf, point)] == [
        ("missing", str(tmp_path / "gone"))
    ]


def test_the_chain_to_verify_goes_as_far_as_it_can_be_followed(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    assert chain_of(shelf.repository, chain[2]) == list(chain)
    flip_bit(shelf.path(chain[0], "manifest.json"), 50)
    first, *others = chain_of(shelf.repository, chain[2])
    assert isinstance(first, DamagedPoint)
    assert others == [chain[1], chain[2]]
    shutil.rmtree(shelf.repository.path_of(chain[0].id))
    assert chain_of(shelf.repository, chain[2]) == [chain[1], chain[2]]


# Links: what a restore reads, and the check that each gets


def test_the_links_of_a_disk_are_its_files_full_one_first(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    links = disk_links(shelf.repository, list(chain), "vdb")
    assert [link.path for link in links] == [shelf.path(point, "vdb.qcow2") for point in chain]
    assert [link.identity.parent for link in links] == [None, chain[0].identity, chain[1].identity]
    for link in links:
        check_link(link, NoControl())


def test_links_begin_at_the_last_file_that_holds_the_whole_disk(shelf: Shelf) -> None:
    full = shelf.add(targets=("vda", "vdb"))
    child = shelf.add(full, targets=("vda", "vdb"))
    whole = child.model_copy(
        update={"disks": (child.disks[0], child.disks[1].model_copy(update={"mode": DiskMode.WHOLE}))}
    )
    assert [link.manifest for link in disk_links(shelf.repository, [full, whole], "vdb")] == [whole]


def test_a_chain_that_lacks_a_disk_or_its_full_image_is_broken(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    with pytest.raises(BrokenChainError, match="holds no data of disk vdx"):
        disk_links(shelf.repository, list(chain), "vdx")
    with pytest.raises(BrokenChainError, match="has no full image of disk vda"):
        disk_links(shelf.repository, list(chain[1:]), "vda")


def test_a_link_with_a_flipped_bit_or_of_another_point_is_refused(shelf: Shelf, chain: tuple[Manifest, ...]) -> None:
    links = disk_links(shelf.repository, list(chain), "vda")
    flip_bit(links[1].path, 70_000)
    with pytest.raises(DamagedPointError, match=f"{chain[1].id}/vda.qcow2 is damaged"):
        check_link(links[1], NoControl())
    shutil.copyfile(links[0].path, links[2].path)
    with pytest.raises(DamagedPointError):
        check_link(links[2], NoControl())


def test_a_chain_seems_intact_until_a_file_is_missing_a_link_or_of_another_size(
    shelf: Shelf, chain: tuple[Manifest, ...], tmp_path: Path
) -> None:
    assert seem_intact(shelf.repository, list(chain))
    path = shelf.path(chain[0])
    content = path.read_bytes()
    for spoil in (_shorter, _longer, Path.unlink, lambda path: _symlink(path, tmp_path / "elsewhere")):
        spoil(path)
        assert not seem_intact(shelf.repository, list(chain))
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert seem_intact(shelf.repository, list(chain))


def _symlink(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)
