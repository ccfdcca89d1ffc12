"""A remote whose points are encrypted before they leave: what lies there, and that it comes back."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import (
    CancelledError,
    EncryptionKeyError,
    KvmBackupError,
    RepositoryFormatError,
)
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.repository.encryption.files import NoControl
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.staging import Staging, stagings
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.transfer import NoWatch
from kvm_backup.services import events
from kvm_backup.services.shipping import sealing
from tests.integration.ship.servers import Server
from tests.integration.shipping.conftest import House
from tests.integration.shipping.keys import KEY
from tests.unit.builders import flip_bit

NAMES = {"manifest.json.age", "domain.xml.age", "vda.qcow2.age"}


def there(house: House, manifest: Manifest) -> Path:
    return house.server.store / manifest.id


def mirrored(house: House) -> list[str]:
    return [point.id for point in house.application.shipping.mirror("nas").repository.all_points()]


def plain_text_on(server: Server, *secrets: bytes) -> list[Path]:
    return [
        path
        for path in server.store.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]


def fetched(house: House, manifest: Manifest, folder: Path) -> dict[str, bytes]:
    with house.application.shipping.connect("nas") as remote:
        remote.fetch(manifest, folder)
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder", "keeper"])
def test_age_and_qemu_img_alone_restore_what_was_shipped_encrypted(
    sealed: House, key_file: Path, tmp_path: Path, account: str
) -> None:
    sealed.remote["url"] = str(sealed.server.address(account))
    sealed.restart()
    full = sealed.shelf.add()
    points = [full, sealed.shelf.add(full)]
    assert sealed.ship() == [point.id for point in points]
    assert sealed.ship() == []
    assert plain_text_on(sealed.server, b"<domain", b"QFI\xfb", b'"vm_name"') == []
    for point in points:
        assert {entry.name for entry in there(sealed, point).iterdir()} == NAMES
        restored = tmp_path / "restored" / point.stamp
        restored.mkdir(parents=True)
        for name in NAMES:
            plain = restored / name.removesuffix(".age")
            subprocess.run(["age", "-d", "-i", key_file, "-o", plain, there(sealed, point) / name], check=True)
    last = tmp_path / "restored" / points[1].stamp / "vda.qcow2"
    subprocess.run(["qemu-img", "check", last], check=True, capture_output=True)
    subprocess.run(["qemu-img", "compare", last, sealed.shelf.path(points[1])], check=True, capture_output=True)
    assert mirrored(sealed) == [point.id for point in points]
    assert stagings(sealed.points.folder) == []


def test_what_lies_there_says_to_whom_it_is_encrypted_and_is_refused_as_a_plain_repository(sealed: House) -> None:
    assert json.loads((sealed.server.store / "kvm-backup.json").read_text())["encrypted"] == {"scheme": "age"}
    assert (sealed.server.store / "kvm-backup.recipients").read_text().split() == list(KEY.recipients)
    with pytest.raises(RepositoryFormatError, match="encrypted"):
        LocalRepository.open("there", sealed.server.store)


def test_nothing_is_sent_for_a_recipient_that_nobody_can_decrypt_for(sealed: House) -> None:
    manifest = sealed.shelf.add()
    sealed.remote["recipients"] = [*KEY.recipients, *Identities.new().recipients]
    sealed.restart()
    with pytest.raises(EncryptionKeyError, match="nobody has shown") as caught:
        sealed.ship()
    assert "kvm-backup key check" in caught.value.hint
    assert not there(sealed, manifest).parent.exists()


def test_plain_points_are_not_sent_where_encrypted_ones_are_nor_the_other_way_round(
    sealed: House, tmp_path: Path
) -> None:
    sealed.shelf.add()
    sealed.remote["recipients"] = []
    sealed.restart()
    with pytest.raises(RepositoryFormatError, match="are encrypted, and the settings have no recipients"):
        sealed.ship()
    (sealed.server.store / "kvm-backup.json").write_bytes((sealed.shelf.root / "kvm-backup.json").read_bytes())
    sealed.remote["recipients"] = list(KEY.recipients)
    sealed.restart()
    with pytest.raises(RepositoryFormatError, match="are not encrypted"):
        sealed.ship()
    assert [entry.name for entry in sealed.server.store.iterdir() if entry.is_dir()] == []


class Stop(NoWatch):
    """Ends the run once files are on their way."""

    def __init__(self, house: House) -> None:
        self._house = house

    def __call__(self) -> bool:
        return any(self._house.server.store.glob("*/.incoming-*/vda.qcow2.age"))


@pytest.mark.parametrize("account", ["shell", "rrsync"])
def test_a_shipment_that_was_cut_goes_on_with_the_very_same_files(sealed: House, account: str) -> None:
    sealed.remote["url"] = str(sealed.server.address(account))
    sealed.remote["bandwidth"] = "64KiB"
    sealed.restart()
    manifest = sealed.shelf.add()
    with pytest.raises(CancelledError):
        sealed.application.shipping.service("nas", stop_requested=Stop(sealed)).run(sealed.points)
    [staging] = stagings(sealed.points.folder)
    kept = {entry.name: entry.read_bytes() for entry in staging.folder.iterdir()}
    assert set(kept) >= NAMES
    del sealed.remote["bandwidth"]
    sealed.restart()
    assert sealed.ship() == [manifest.id]
    assert {name: (there(sealed, manifest) / name).read_bytes() for name in NAMES} == {
        name: kept[name] for name in NAMES
    }
    assert stagings(sealed.points.folder) == []


def test_a_consolidated_point_replaces_the_one_there(sealed: House) -> None:
    sealed.remote["prune_url"] = str(sealed.server.address())
    sealed.restart()
    manifest = sealed.shelf.add()
    sealed.ship()
    before = {name: (there(sealed, manifest) / name).read_bytes() for name in NAMES}
    changed = manifest.model_copy(update={"notices": ("consolidated",)})
    sealed.shelf.replace_manifest(manifest, serialize(changed))
    assert sealed.ship() == [manifest.id]
    after = {name: (there(sealed, manifest) / name).read_bytes() for name in NAMES}
    assert all(before[name] != after[name] for name in NAMES)


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder", "keeper"])
def test_a_point_that_arrived_without_being_noted_is_found_there_and_not_sent_again(
    sealed: House, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.remote["url"] = str(sealed.server.address(account))
    sealed.restart()
    manifest = sealed.shelf.add()
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "record", _dies)
        with pytest.raises(CancelledError):
            sealed.ship()
    before = {name: (there(sealed, manifest) / name).read_bytes() for name in NAMES}
    assert sealed.ship() == [manifest.id]
    assert {name: (there(sealed, manifest) / name).read_bytes() for name in NAMES} == before
    assert mirrored(sealed) == [manifest.id]


def _dies(*_arguments: object) -> None:
    raise CancelledError("the process is gone", hint="Go on.")


def test_what_nothing_waits_for_any_more_is_cleared_up_by_the_next_shipment(sealed: House) -> None:
    first = sealed.shelf.add()
    for remote in ("nas", "gone"):
        staging = Staging.of(sealed.shelf.repository.path_of(first.id), remote)
        with staging.filled(first, KEY.recipients, room=lambda _: None, control=NoControl()):
            pass
    sealed.ship()
    assert stagings(sealed.points.folder) == []


def test_files_that_were_damaged_while_they_waited_are_made_anew(sealed: House) -> None:
    manifest = sealed.shelf.add()
    sealed.remote["bandwidth"] = "64KiB"
    sealed.restart()
    with pytest.raises(CancelledError):
        sealed.application.shipping.service("nas", stop_requested=Stop(sealed)).run(sealed.points)
    del sealed.remote["bandwidth"]
    sealed.restart()
    [staging] = stagings(sealed.points.folder)
    flip_bit(staging.folder / "vda.qcow2.age", 200_000)
    with pytest.raises(KvmBackupError):
        sealed.ship()
    assert sealed.ship() == [manifest.id]


def test_a_new_machine_with_the_key_reads_what_is_there(sealed: House, key_file: Path, tmp_path: Path) -> None:
    full = sealed.shelf.add()
    points = [full, sealed.shelf.add(full)]
    sealed.ship()
    new = House(tmp_path / "new", sealed.server, remote={"identity_file": str(key_file)})
    new.settings["repository"] = [
        {"name": "shelf", "path": str(tmp_path / "new" / "local")},
        {"name": "nas", "url": str(sealed.server.address()), "identity_file": str(key_file)},
    ]
    new.rescan()
    assert mirrored(new) == [point.id for point in points]
    for point in points:
        here = fetched(new, point, tmp_path / "fetched" / point.stamp)
        local = sealed.shelf.repository.path_of(point.id)
        assert here == {entry.name: entry.read_bytes() for entry in local.iterdir()}


@pytest.mark.parametrize("key", ["none", "another", "not there"])
def test_a_machine_without_the_key_says_so_and_changes_nothing(sealed: House, tmp_path: Path, key: str) -> None:
    manifest = sealed.shelf.add()
    sealed.ship()
    before = mirrored(sealed)
    file = tmp_path / "other.key"
    if key == "another":
        file.write_text(Identities.new().secrets[0])
    if key != "none":
        sealed.remote["identity_file"] = str(file)
    with pytest.raises(EncryptionKeyError) as caught:
        sealed.rescan()
    assert {"none": "identity_file", "another": "key that it was encrypted for", "not there": "another file"}[
        key
    ] in caught.value.hint
    assert mirrored(sealed) == before
    with pytest.raises(EncryptionKeyError):
        fetched(sealed, manifest, tmp_path / "fetched")


def test_a_mirror_that_is_read_anew_is_the_one_that_shipping_wrote(sealed: House, key_file: Path) -> None:
    full, _ = sealed.shelf.add(), sealed.shelf.add()
    sealed.ship()
    subprocess.run(["rm", "-r", there(sealed, full)], check=True)
    sealed.remote["identity_file"] = str(key_file)
    sealed.rescan()
    assert full.id not in mirrored(sealed)
    assert sealed.ship() == [full.id]
    sealed.rescan()
    assert full.id in mirrored(sealed)
    assert sealed.ship() == []


def test_a_damaged_file_there_is_left_out_and_the_others_come(sealed: House, key_file: Path, tmp_path: Path) -> None:
    manifest = sealed.shelf.add(targets=("vda", "vdb"))
    sealed.ship()
    sealed.remote["identity_file"] = str(key_file)
    sealed.restart()
    flip_bit(there(sealed, manifest) / "vda.qcow2.age", 100_000)
    os.truncate(there(sealed, manifest) / "domain.xml.age", 100)
    assert set(fetched(sealed, manifest, tmp_path / "fetched")) == {"vdb.qcow2", "manifest.json"}


def test_how_far_the_encryption_of_a_large_point_is_is_told_before_it_is_sent(
    sealed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [sealed.shelf.add(), sealed.shelf.add(targets=("vda", "vdb"), seed=2)]
    large = points[1].bytes_stored
    monkeypatch.setattr(sealing, "TOLD_FROM", large)
    sealed.ship()
    steps = [event.step for event in sealed.told if isinstance(event, events.StepStarted)]
    assert steps == [events.Step.SHIP, events.Step.ENCRYPT, events.Step.SHIP]
    told = [event for event in sealed.told if isinstance(event, events.Progress)]
    encrypted = [event for event in told if event.step is events.Step.ENCRYPT]
    assert encrypted[0].done == 0
    assert [event.done for event in encrypted] == sorted(event.done for event in encrypted)
    assert large <= encrypted[-1].done <= encrypted[-1].total < large + 10_000
    after = told[max(place for place, event in enumerate(told) if event is encrypted[-1]) + 1]
    assert (after.step, after.done) == (events.Step.SHIP, points[0].bytes_stored)
    assert (told[-1].done, told[-1].total) == (points[0].bytes_stored + large,) * 2


def test_what_was_encrypted_before_a_cut_is_not_told_as_encrypted_again(
    sealed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "TOLD_FROM", 1)
    sealed.remote["bandwidth"] = "64KiB"
    sealed.restart()
    sealed.shelf.add()
    with pytest.raises(CancelledError):
        sealed.application.shipping.service("nas", stop_requested=Stop(sealed)).run(sealed.points)
    del sealed.remote["bandwidth"]
    sealed.restart()
    sealed.ship()
    assert {event.step for event in sealed.told if isinstance(event, events.Progress)} == {events.Step.SHIP}
