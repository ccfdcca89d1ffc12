"""A repository in a folder: what is visible, what is refused, and what is never followed or overwritten."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kvm_backup.domain.errors import (
    BrokenChainError,
    DamagedManifestError,
    KvmBackupError,
    PointNotFoundError,
    RepositoryFormatError,
    RepositoryNotFoundError,
    StorageError,
    TargetExistsError,
)
from kvm_backup.domain.point import Consistency, DiskMode, Manifest, Mode
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from tests.unit.builders import MOMENT, VM_UUID, Shelf, a_disk, a_manifest, flip_bit, forged


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


def test_a_new_repository_opens_again_with_the_same_identity(tmp_path: Path) -> None:
    made = LocalRepository.create("mine", tmp_path / "a" / "b")
    opened = LocalRepository.open("other-name", tmp_path / "a" / "b")
    assert opened.id == made.id
    assert opened.name == "other-name"
    assert list(opened.all_points()) == []


def test_an_empty_folder_and_a_fresh_file_system_can_become_a_repository(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    LocalRepository.create("mine", tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kvm-backup.json", "lost+found"]


def test_only_its_owner_may_look_into_a_new_repository(tmp_path: Path) -> None:
    LocalRepository.create("mine", tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(TargetExistsError, match="photos is there"):
        LocalRepository.create("mine", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


def test_a_repository_is_never_made_over_a_repository(shelf: Shelf) -> None:
    before = (shelf.root / "kvm-backup.json").read_bytes()
    with pytest.raises(TargetExistsError, match="a repository already"):
        LocalRepository.create("mine", shelf.root)
    assert (shelf.root / "kvm-backup.json").read_bytes() == before


def test_a_repository_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Not a directory"):
        LocalRepository.create("mine", tmp_path / "file" / "below")


def test_a_repository_that_could_not_be_written_leaves_no_folder_that_looks_like_an_unmounted_disk(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StorageError):
            LocalRepository.create("mine", tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert LocalRepository.may_be_made(tmp_path / "new")
    LocalRepository.create("mine", tmp_path / "new")


def test_a_folder_without_its_file_is_no_repository(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RepositoryNotFoundError, match="there is no repository in"):
            LocalRepository.open("mine", place)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 60_000,
        "{}",
        '{"format": 1}',
        '{"format": 1, "id": 5}',
        '{"format": 1, "id": "x"}',
        '{"format": 2, "id": "99999999-0000-4000-8000-000000000009"}',
        '{"format": "1", "id": "99999999-0000-4000-8000-000000000009"}',
        "\xff",
    ],
)
def test_a_repository_file_that_is_not_understood_is_an_error_and_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "kvm-backup.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RepositoryFormatError):
        LocalRepository.open("mine", tmp_path)
    assert (tmp_path / "kvm-backup.json").read_bytes() == content.encode("latin-1")


def test_nothing_is_visible_before_publish_and_all_of_it_after(shelf: Shelf) -> None:
    partial = shelf.repository.begin_point("web", VM_UUID, MOMENT)
    (partial / "vda.qcow2").write_bytes(b"data")
    assert list(shelf.repository.all_points()) == []
    assert shelf.repository.newest(partial.parent) is None
    assert shelf.repository.partials(partial.parent) == [partial]

    manifest = a_manifest(repository=shelf.repository.id)
    final = shelf.repository.publish(partial, manifest)

    assert list(shelf.repository.all_points()) == [manifest]
    assert sorted(entry.name for entry in final.iterdir()) == ["manifest.json", "vda.qcow2"]
    assert shelf.repository.partials(final.parent) == []


def test_a_point_that_could_not_be_published_stays_hidden(shelf: Shelf) -> None:
    partial = shelf.repository.begin_point("web", VM_UUID, MOMENT)
    occupied = partial.parent / "20261122T020000Z"
    occupied.mkdir()
    (occupied / "in the way").write_text("x")
    with pytest.raises(StorageError):
        shelf.repository.publish(partial, a_manifest(repository=shelf.repository.id))
    assert partial.is_dir()
    assert [entry.name for entry in occupied.iterdir()] == ["in the way"]


def test_a_discarded_first_point_leaves_no_folder(shelf: Shelf) -> None:
    partial = shelf.repository.begin_point("web", VM_UUID, MOMENT)
    (partial / "vda.qcow2").write_bytes(b"data")
    shelf.repository.discard(partial)
    assert shelf.repository.folders() == []


def test_discarding_a_later_point_keeps_the_earlier_ones(shelf: Shelf) -> None:
    manifest = shelf.add()
    shelf.repository.discard(shelf.repository.begin_point("web", VM_UUID, MOMENT + timedelta(days=1)))
    assert list(shelf.repository.all_points()) == [manifest]


@pytest.mark.parametrize("back", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_a_point_made_after_the_clock_was_set_back_is_still_the_newest(shelf: Shelf, back: timedelta) -> None:
    shelf.add()
    partial = shelf.repository.begin_point("web", VM_UUID, MOMENT - back)
    assert partial.name == ".partial-20261122T020001Z"


def test_a_point_from_the_end_of_time_is_an_error_that_names_it(shelf: Shelf) -> None:
    (shelf.root / "web--1a2b3c4d" / "99991231T235959Z").mkdir(parents=True)
    with pytest.raises(RepositoryFormatError, match="99991231T235959Z leaves no room"):
        shelf.repository.begin_point("web", VM_UUID, MOMENT)


def test_a_vm_that_was_renamed_keeps_its_folder(shelf: Shelf) -> None:
    manifest = shelf.add()
    shelf.vm_name = "db"
    assert shelf.add().folder == manifest.folder


def test_two_vms_of_one_name_and_the_same_first_digits_have_folders_of_their_own(shelf: Shelf) -> None:
    first = shelf.add()
    shelf.vm_uuid = "1a2b3c4d-0000-4000-8000-000000000002"
    second = shelf.add()
    assert (first.folder, second.folder) == ("web--1a2b3c4d", f"web--{shelf.vm_uuid}")
    assert shelf.repository.folder_of(first.vm_uuid) == shelf.root / first.folder
    assert shelf.repository.folder_of(second.vm_uuid) == shelf.root / second.folder


def test_two_names_that_become_the_same_folder_name_do_not_share_points(shelf: Shelf) -> None:
    shelf.vm_name = "wéb"
    first = shelf.add()
    shelf.vm_name, shelf.vm_uuid = "wèb", "1a2b3c4d-0000-4000-8000-000000000002"
    second = shelf.add()
    assert first.folder.startswith("w_b--")
    assert first.folder != second.folder


def test_a_folder_of_its_own_is_preferred_to_one_that_nobody_is_known_to_own(shelf: Shelf) -> None:
    (shelf.root / "a--1a2b3c4d").mkdir()
    assert shelf.repository.folder_of(VM_UUID) == shelf.root / "a--1a2b3c4d"
    (shelf.root / "a--1a2b3c4d").rmdir()
    manifest = shelf.add()
    (shelf.root / "a--1a2b3c4d").mkdir()
    assert shelf.repository.folder_of(VM_UUID) == shelf.root / manifest.folder


def test_the_newest_point_is_the_last_one_that_holds_data(shelf: Shelf) -> None:
    manifest = shelf.add()
    host = a_disk(mode=DiskMode.HOST, file=None, image_sha256=None, host_path="/images/web.snap")
    shelf.add(mode=Mode.SNAPSHOT, snapshot="s", disks=(host,), consistency=Consistency.CRASH)
    assert shelf.repository.newest(shelf.root / manifest.folder) == manifest


def test_a_damaged_newest_point_is_told_not_skipped(shelf: Shelf) -> None:
    shelf.add()
    second = shelf.add()
    flip_bit(shelf.path(second, "manifest.json"), 100)
    newest = shelf.repository.newest(shelf.root / second.folder)
    assert isinstance(newest, DamagedPoint)
    assert newest.id == second.id


@pytest.mark.parametrize(
    "point_id",
    [
        "",
        ".",
        "web--1a2b3c4d",
        "../x--1a2b3c4d/20261122T020000Z",
        "/web--1a2b3c4d/20261122T020000Z",
        "a/b/c",
        "a\0b/c",
    ],
)
def test_an_id_never_leads_out_of_the_repository(shelf: Shelf, point_id: str) -> None:
    with pytest.raises(PointNotFoundError, match="is not the id of a restore point"):
        shelf.repository.path_of(point_id)


def test_a_point_that_was_moved_to_another_time_is_damaged(shelf: Shelf) -> None:
    manifest = shelf.add()
    moved = shelf.root / manifest.folder / "20270101T000000Z"
    shelf.repository.path_of(manifest.id).rename(moved)
    with pytest.raises(DamagedManifestError, match=f"belongs to {manifest.id}"):
        shelf.repository.load(f"{manifest.folder}/20270101T000000Z")


def test_a_point_that_was_copied_from_another_repository_is_damaged(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add()
    other = Shelf(tmp_path / "other")
    shutil.copytree(shelf.root / manifest.folder, other.root / manifest.folder)
    with pytest.raises(DamagedManifestError, match=f"of repository {shelf.repository.id}"):
        other.repository.load(manifest.id)


def _symlink(place: Path, target: Path) -> None:
    shutil.move(place, target)
    place.symlink_to(target)


def test_a_vm_folder_that_is_a_link_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add()
    _symlink(shelf.root / manifest.folder, tmp_path / "elsewhere")
    assert list(shelf.repository.all_points()) == []


def test_a_point_that_is_a_link_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add()
    _symlink(shelf.repository.path_of(manifest.id), tmp_path / "elsewhere")
    assert list(shelf.repository.all_points()) == []
    with pytest.raises(PointNotFoundError):
        shelf.repository.load(manifest.id)


def _is_link(path: Path) -> None:
    _symlink(path, path.parents[3] / "elsewhere")


def _is_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _is_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [Path.unlink, _is_link, _is_folder, _is_pipe])
def test_a_manifest_that_is_no_file_of_its_own_damages_only_its_point(
    shelf: Shelf, spoil: Callable[[Path], None]
) -> None:
    first, second = shelf.add(), shelf.add()
    spoil(shelf.path(first, "manifest.json"))
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    damaged, whole = shelf.repository.all_points()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert isinstance(damaged, DamagedPoint)
    assert damaged.id == first.id
    assert whole == second


def test_folders_and_files_that_are_none_of_ours_are_passed_over(shelf: Shelf) -> None:
    manifest = shelf.add()
    folder = shelf.root / manifest.folder
    for stray in (shelf.root / "lost+found", shelf.root / "notes", folder / "20269999T999999Z", folder / "tmp"):
        stray.mkdir()
    (folder / "20270101T000000Z").write_text("a file")
    assert list(shelf.repository.all_points()) == [manifest]


def _chain_of_three(shelf: Shelf) -> tuple[Manifest, Manifest, Manifest]:
    full = shelf.add()
    middle = shelf.add(full)
    return full, middle, shelf.add(middle)


def test_a_chain_is_the_full_point_first_and_the_asked_one_last(shelf: Shelf) -> None:
    full, middle, last = _chain_of_three(shelf)
    assert shelf.repository.chain(last) == [full, middle, last]
    assert shelf.repository.chain(full) == [full]


def test_a_chain_with_a_missing_link_names_both_points(shelf: Shelf) -> None:
    _full, middle, last = _chain_of_three(shelf)
    shutil.rmtree(shelf.repository.path_of(middle.id))
    with pytest.raises(BrokenChainError, match=f"{last.id} needs its parent {middle.id}"):
        shelf.repository.chain(last)


def test_a_chain_with_a_damaged_link_is_broken(shelf: Shelf) -> None:
    full, middle, last = _chain_of_three(shelf)
    shelf.replace_manifest(full, b"{}")
    with pytest.raises(BrokenChainError, match=f"{middle.id} needs its parent {full.id}"):
        shelf.repository.chain(last)


def test_a_chain_with_another_point_in_a_links_place_is_broken(shelf: Shelf) -> None:
    full, _middle, last = _chain_of_three(shelf)
    shelf.replace_manifest(full, forged(full, uuid="00000000-0000-4000-8000-0000000000ff"))
    with pytest.raises(BrokenChainError, match="is not the point that"):
        shelf.repository.chain(last)


def test_every_error_has_a_hint(shelf: Shelf, tmp_path: Path) -> None:
    for place in (tmp_path / "none", shelf.root / "kvm-backup.json" / "below"):
        with pytest.raises(KvmBackupError) as caught:
            LocalRepository.open("mine", place)
        assert caught.value.hint.endswith(".")


def test_the_repository_file_is_as_documented(shelf: Shelf) -> None:
    fields = json.loads((shelf.root / "kvm-backup.json").read_text())
    assert set(fields) == {"format", "id", "created"}
    assert fields["format"] == 1
