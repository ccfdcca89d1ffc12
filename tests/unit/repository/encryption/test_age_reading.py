"""Encrypted points become plain ones again: with the right key, and with an error of its own for all else."""

import json
import os
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CancelledError, EncryptionKeyError, RepositoryFormatError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.files import NoControl
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.marker import (
    encrypted_identity,
    identity_folder,
    is_encrypted,
    plain_identity,
)
from kvm_backup.repository.encryption.reading import (
    ENCRYPTED_FOLDER,
    decrypt_manifests,
    decrypt_point,
    missing_files,
)
from kvm_backup.repository.encryption.staging import Staging
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror
from tests.unit.builders import Shelf, flip_bit

KEY = Identities.new()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "local")


def fetched(shelf: Shelf, manifest: Manifest, folder: Path, key: Identities = KEY) -> Path:
    """The files of a point as they come from a server, in `folder`/.encrypted."""
    staging = Staging.of(shelf.repository.path_of(manifest.id), "nas")
    with staging.filled(manifest, key.recipients, room=lambda _: None, control=NoControl()) as made:
        (folder / ENCRYPTED_FOLDER).mkdir(parents=True)
        for each in made:
            (folder / ENCRYPTED_FOLDER / each.name).write_bytes((staging.folder / each.name).read_bytes())
    staging.remove()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_a_fetched_point_is_byte_for_byte_what_was_sent(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))
    folder = fetched(shelf, manifest, tmp_path / "again")
    assert [plain.name for plain in missing_files(manifest, folder)] == ["vda.qcow2", "vdb.qcow2", "domain.xml"]
    assert decrypt_point(manifest, folder, KEY, NoControl()) == []
    assert contents(folder) == contents(shelf.repository.path_of(manifest.id))
    assert missing_files(manifest, folder) == []


def test_what_was_decrypted_before_a_stop_stays_and_is_not_wanted_again(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))
    folder = fetched(shelf, manifest, tmp_path / "again")

    class StopAfterFirst(NoControl):
        def check(self) -> None:
            if (folder / "vda.qcow2").exists():
                raise CancelledError("stopped", hint="Go on.")

    with pytest.raises(CancelledError):
        decrypt_point(manifest, folder, KEY, StopAfterFirst())
    assert [plain.name for plain in missing_files(manifest, folder)] == ["vdb.qcow2", "domain.xml"]
    assert not (folder / ENCRYPTED_FOLDER / "vda.qcow2.age").exists()
    decrypt_point(manifest, folder, KEY, NoControl())
    assert contents(folder) == contents(shelf.repository.path_of(manifest.id))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swapped"])
def test_a_damaged_file_is_told_and_removed_so_that_it_is_fetched_anew(
    shelf: Shelf, tmp_path: Path, damage: str
) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))
    folder = fetched(shelf, manifest, tmp_path / "again")
    image = folder / ENCRYPTED_FOLDER / "vda.qcow2.age"
    if damage == "flip":
        flip_bit(image, 100_000)
    elif damage == "cut":
        os.truncate(image, 90_000)
    elif damage == "gone":
        image.unlink()
    else:
        image.write_bytes(image.with_name("vdb.qcow2.age").read_bytes())
    assert decrypt_point(manifest, folder, KEY, NoControl()) == ["vda.qcow2"]
    assert not image.exists()
    assert not (folder / "vda.qcow2").exists()
    assert [plain.name for plain in missing_files(manifest, folder)] == ["vda.qcow2"]
    assert (folder / "vdb.qcow2").exists()


def test_an_image_that_no_key_opens_is_damaged_when_the_manifest_could_be_opened(
    shelf: Shelf, tmp_path: Path
) -> None:
    manifest = shelf.add()
    folder = fetched(shelf, manifest, tmp_path / "again")
    foreign = fetched(shelf, manifest, tmp_path / "foreign", Identities.new())
    (foreign / ENCRYPTED_FOLDER / "vda.qcow2.age").replace(folder / ENCRYPTED_FOLDER / "vda.qcow2.age")
    assert decrypt_point(manifest, folder, KEY, NoControl()) == ["vda.qcow2"]


def test_the_wrong_key_leaves_what_was_fetched_for_the_right_one(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.add()
    folder = fetched(shelf, manifest, tmp_path / "again")
    with pytest.raises(EncryptionKeyError, match="none of the private keys"):
        decrypt_point(manifest, folder, Identities.new(), NoControl())
    decrypt_point(manifest, folder, Identities((*Identities.new().secrets, *KEY.secrets)), NoControl())
    assert contents(folder) == contents(shelf.repository.path_of(manifest.id))


def server(shelf: Shelf, root: Path, manifests: dict[Manifest, Identities]) -> Path:
    """The encrypted manifests of a server, as they were fetched."""
    for manifest, key in manifests.items():
        point = root / manifest.id
        point.mkdir(parents=True)
        staging = Staging.of(shelf.repository.path_of(manifest.id), "nas")
        with staging.filled(manifest, key.recipients, room=lambda _: None, control=NoControl()):
            (point / "manifest.json.age").write_bytes((staging.folder / "manifest.json.age").read_bytes())
    return root


def mirror_of(shelf: Shelf, tmp_path: Path) -> Mirror:
    return Mirror.open("nas", "ssh://nas/srv", tmp_path / "state", shelf.repository.id)


def ids(mirror: Mirror) -> dict[str, bool]:
    """Whether each point of the mirror can be read."""
    return {point.id: isinstance(point, Manifest) for point in mirror.repository.all_points()}


def test_a_mirror_holds_the_plain_manifests_that_are_there_and_no_others(shelf: Shelf, tmp_path: Path) -> None:
    first, gone = shelf.add(), shelf.add()
    mirror = mirror_of(shelf, tmp_path)
    mirror.record(gone.id, shelf.path(gone, "manifest.json").read_bytes())
    decrypt_manifests(server(shelf, tmp_path / "there", {first: KEY}), mirror, KEY)
    assert ids(mirror) == {first.id: True}
    assert mirror.holds(first.id, shelf.path(first, "manifest.json").read_bytes())


def test_a_key_that_opens_nothing_changes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    first, second = shelf.add(), shelf.add()
    mirror = mirror_of(shelf, tmp_path)
    mirror.record(second.id, shelf.path(second, "manifest.json").read_bytes())
    with pytest.raises(EncryptionKeyError):
        decrypt_manifests(server(shelf, tmp_path / "there", {first: KEY}), mirror, Identities.new())
    assert ids(mirror) == {second.id: True}


def test_one_manifest_that_cannot_be_opened_is_a_damaged_point_and_hides_no_other(
    shelf: Shelf, tmp_path: Path
) -> None:
    good, damaged, foreign = shelf.add(), shelf.add(), shelf.add()
    there = server(shelf, tmp_path / "there", {good: KEY, damaged: KEY, foreign: Identities.new()})
    flip_bit(there / damaged.id / "manifest.json.age", 300)
    (there / good.folder / "20261122T230000Z").mkdir()
    (there / good.folder / "20261122T230001Z").symlink_to(good.stamp)
    mirror = mirror_of(shelf, tmp_path)
    decrypt_manifests(there, mirror, KEY)
    assert ids(mirror) == {good.id: True, damaged.id: False, foreign.id: False}
    assert isinstance(mirror.repository.examine(damaged.id), DamagedPoint)


def test_a_folder_of_encrypted_points_is_refused_as_a_local_repository_with_the_way_to_read_it(
    shelf: Shelf,
) -> None:
    with identity_folder(shelf.root, KEY.recipients) as folder:
        content = (folder / "kvm-backup.json").read_bytes()
        assert (folder / "kvm-backup.recipients").read_text() == f"{KEY.recipients[0]}\n"
        with pytest.raises(RepositoryFormatError, match="encrypted") as caught:
            LocalRepository.open("nas", folder)
        assert "identity_file" in caught.value.hint
    plain = (shelf.root / "kvm-backup.json").read_bytes()
    assert is_encrypted(content)
    assert json.loads(content)["id"] == shelf.repository.id
    assert plain_identity(content) == plain
    assert encrypted_identity(plain) == content


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 99_999, b'{"format": 1, "encrypted": {"scheme": "age"}}']
)
def test_other_files_do_not_say_that_points_are_encrypted(content: bytes) -> None:
    assert not is_encrypted(content)
