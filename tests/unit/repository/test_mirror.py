"""The mirror of a remote: what it holds, in which state, and whose points."""

import stat
from functools import partial
from pathlib import Path

import pytest

from kvm_backup.domain.errors import PointNotFoundError, RepositoryFormatError, RepositoryNotFoundError, StorageError
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.mirror import Mirror, Origins, mirror_path
from tests.unit.builders import REPOSITORY_ID, Shelf, a_manifest

URL = "ssh://backup@nas.example/srv/kvm"
OTHER_ID = "88888888-0000-4000-8000-000000000008"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror.open("nas", URL, tmp_path, REPOSITORY_ID)


def listed(mirror: Mirror) -> list[Manifest]:
    return [point for point in mirror.repository.all_points() if isinstance(point, Manifest)]


def test_a_new_mirror_is_empty_private_and_of_that_repository(mirror: Mirror, tmp_path: Path) -> None:
    assert mirror.root == mirror_path(tmp_path, "nas", URL)
    assert listed(mirror) == []
    assert mirror.repository.id == REPOSITORY_ID
    assert stat.S_IMODE(mirror.root.stat().st_mode) == 0o700


def test_a_point_is_held_in_the_state_that_was_recorded_and_in_no_other(mirror: Mirror) -> None:
    before, after = a_manifest(), a_manifest(notices=("consolidated",))
    assert not mirror.holds(before.id, serialize(before))
    mirror.record(before.id, serialize(before))
    assert mirror.holds(before.id, serialize(before))
    assert not mirror.holds(before.id, serialize(after))
    mirror.record(before.id, serialize(after))
    assert mirror.holds(before.id, serialize(after))
    assert listed(mirror) == [after]


def test_what_was_recorded_is_there_when_it_is_opened_again(mirror: Mirror, tmp_path: Path) -> None:
    point = a_manifest()
    mirror.record(point.id, serialize(point))
    assert Mirror.open("nas", URL, tmp_path, REPOSITORY_ID).holds(point.id, serialize(point))
    assert listed(Mirror.open_existing("nas", URL, tmp_path)) == [point]


def test_a_point_that_is_forgotten_is_gone_and_the_others_stay(mirror: Mirror) -> None:
    old, new = a_manifest(), a_manifest(id="web--1a2b3c4d/20261123T020000Z")
    for point in (old, new):
        mirror.record(point.id, serialize(point))
    mirror.forget(old.id)
    mirror.forget(old.id)
    assert listed(mirror) == [new]
    mirror.forget(new.id)
    assert {entry.name for entry in mirror.root.iterdir()} == {"kvm-backup.json", ".ledger"}


def test_what_this_host_shipped_is_known_also_when_it_is_gone_there_in_another_way(
    mirror: Mirror, tmp_path: Path
) -> None:
    old, new = a_manifest(), a_manifest(id="web--1a2b3c4d/20261123T020000Z")
    for point in (old, new):
        mirror.record(point.id, serialize(point))
    mirror.forget(old.id)
    again = Mirror.open("nas", URL, tmp_path, REPOSITORY_ID)
    assert again.shipped_by_us() == {old.id, new.id}
    assert again.removed_by_rule() == frozenset()


def test_what_the_rule_removed_there_is_known_until_it_is_shipped_again(mirror: Mirror) -> None:
    point = a_manifest()
    mirror.record(point.id, serialize(point))
    mirror.forget(point.id, by_rule=True)
    assert (set(mirror.shipped_by_us()), set(mirror.removed_by_rule())) == (set(), {point.id})
    mirror.record(point.id, serialize(point))
    assert (set(mirror.shipped_by_us()), set(mirror.removed_by_rule())) == ({point.id}, set())


def test_a_point_that_is_back_after_the_rule_removed_it_is_no_strangers_and_nobody_vouches_for_it(
    mirror: Mirror,
) -> None:
    own, back, foreign = (a_manifest(id=f"web--1a2b3c4d/2026112{day}T020000Z") for day in (2, 3, 4))
    for point in (own, back):
        mirror.record(point.id, serialize(point))
    mirror.forget(back.id, by_rule=True)
    for point in (back, foreign):
        mirror.show(point.id, serialize(point))
    assert mirror.origins([own.id, back.id, foreign.id]) == Origins(
        shipped=frozenset({own.id}), back=frozenset({back.id}), foreign=frozenset({foreign.id})
    )
    unvouched = mirror.unvouched()
    assert [point.id in unvouched for point in (own, back, foreign)] == [False, True, True]


def test_a_host_that_has_shipped_nothing_there_cannot_tell_what_is_whose(mirror: Mirror) -> None:
    point = a_manifest()
    mirror.show(point.id, serialize(point))
    assert point.id not in mirror.unvouched()


def test_what_is_only_seen_there_is_nobodys_word_that_this_host_shipped_it(mirror: Mirror) -> None:
    point = a_manifest()
    mirror.show(point.id, serialize(point))
    assert mirror.holds(point.id, serialize(point))
    assert mirror.shipped_by_us() == frozenset()


def test_a_ledger_whose_last_line_is_torn_keeps_what_went_before_and_what_comes_after(mirror: Mirror) -> None:
    first, second = a_manifest(), a_manifest(id="web--1a2b3c4d/20261123T020000Z")
    mirror.record(first.id, serialize(first))
    with (mirror.root / ".ledger").open("ab") as ledger:
        ledger.write(b'{"shipped": "web--1a2b3c4d/2026')
    assert mirror.shipped_by_us() == {first.id}
    mirror.record(second.id, serialize(second))
    assert mirror.shipped_by_us() == {first.id, second.id}


def test_a_ledger_that_cannot_be_written_is_an_error_of_ours_and_nothing_is_recorded(mirror: Mirror) -> None:
    (mirror.root / ".ledger").mkdir()
    point = a_manifest()
    with pytest.raises(StorageError):
        mirror.record(point.id, serialize(point))
    assert not mirror.holds(point.id, serialize(point))


def test_a_record_that_was_killed_half_way_shows_no_point_and_is_made_anew(mirror: Mirror) -> None:
    point = a_manifest()
    partial = mirror.root / "web--1a2b3c4d" / ".partial-20261122T020000Z"
    partial.mkdir(parents=True)
    (partial / "manifest.json").write_bytes(b"half")
    assert list(mirror.repository.all_points()) == []
    mirror.record(point.id, serialize(point))
    assert listed(mirror) == [point]


def test_another_address_or_name_has_another_mirror(mirror: Mirror, tmp_path: Path) -> None:
    point = a_manifest()
    mirror.record(point.id, serialize(point))
    for name, url in (("nas", URL + "2"), ("nas2", URL)):
        assert not Mirror.open(name, url, tmp_path, REPOSITORY_ID).holds(point.id, serialize(point))


def test_a_mirror_of_another_repository_is_refused_with_the_command_that_helps(
    mirror: Mirror, tmp_path: Path
) -> None:
    with pytest.raises(RepositoryFormatError, match="another repository") as caught:
        Mirror.open("nas", URL, tmp_path, OTHER_ID)
    assert "kvm-backup repository rescan nas" in caught.value.hint
    assert Mirror.open_existing("nas", URL, tmp_path).repository.id == REPOSITORY_ID


def test_a_remote_that_was_never_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="was not read yet") as caught:
        Mirror.open_existing("nas", URL, tmp_path)
    assert "kvm-backup repository rescan nas" in caught.value.hint
    assert not (tmp_path / "remotes").exists()


@pytest.mark.parametrize("point_id", ["../../etc/20261122T020000Z", "web--1a2b3c4d/..", "web--1a2b3c4d"])
def test_an_id_that_leads_elsewhere_is_refused(mirror: Mirror, point_id: str) -> None:
    for call in (mirror.holds, mirror.record):
        with pytest.raises(PointNotFoundError):
            call(point_id, b"x")
    with pytest.raises(PointNotFoundError):
        mirror.forget(point_id)


@pytest.mark.parametrize("in_the_way", ["remotes", "remotes/nas"])
def test_a_file_in_the_place_of_a_mirror_is_told_with_the_way_out_and_left_alone(
    tmp_path: Path, in_the_way: str
) -> None:
    root = mirror_path(tmp_path, "nas", URL)
    file = root if in_the_way == "remotes/nas" else root.parent
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    for open_it in (partial(Mirror.open, repository_id=REPOSITORY_ID), Mirror.open_existing):
        with pytest.raises(StorageError, match=f"^{file} is no folder") as caught:
            open_it("nas", URL, tmp_path)
        assert "Move it away" in caught.value.hint
        assert "repository rescan nas" in caught.value.hint
    assert file.read_text() == "mine"
    file.unlink()
    assert listed(Mirror.open("nas", URL, tmp_path, REPOSITORY_ID)) == []


def test_a_state_folder_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StorageError):
        Mirror.open("nas", URL, tmp_path / "state", REPOSITORY_ID)


def test_the_catalogue_keeps_a_repository_and_the_mirror_of_its_copy_apart(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "repository")
    old, new = shelf.add(), shelf.add()
    mirror = Mirror.open("nas", URL, tmp_path, shelf.repository.id)
    mirror.record(old.id, serialize(old))
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    for repository in (shelf.repository, mirror.repository, shelf.repository):
        assert catalogue.refresh(repository) == []
    assert catalogue.points(shelf.repository) == [old, new]
    assert catalogue.points(mirror.repository) == [old]
    mirror.forget(old.id)
    catalogue.refresh(mirror.repository)
    assert catalogue.points(shelf.repository) == [old, new]
    assert catalogue.points(mirror.repository) == []
