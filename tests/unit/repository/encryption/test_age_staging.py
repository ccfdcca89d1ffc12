"""Encrypted points that wait to be sent: when they are kept, when made anew, and who leaves them alone."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import (
    CancelledError,
    DamagedPointError,
    NoSpaceError,
    PointChangedError,
    VmBusyError,
)
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.encryption.files import EncryptedFile, NoControl
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.staging import Staging, remove_unneeded, stagings
from kvm_backup.services.repository_check import check_repository
from tests.unit.builders import Shelf, flip_bit, forged

KEY = Identities.new()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "local")


def staging_of(shelf: Shelf, manifest: Manifest, remote: str = "nas") -> Staging:
    return Staging.of(shelf.repository.path_of(manifest.id), remote)


def filled(
    shelf: Shelf, manifest: Manifest, recipients: tuple[str, ...] = KEY.recipients, **other: Any
) -> tuple[EncryptedFile, ...]:
    wanted = {"room": lambda _: None, "control": NoControl(), **other}
    with staging_of(shelf, manifest).filled(manifest, recipients, **wanted) as made:
        return made


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_age_and_qemu_img_alone_restore_a_chain_that_was_encrypted(shelf: Shelf, tmp_path: Path) -> None:
    full = shelf.add()
    points = [full, shelf.add(full)]
    key_file = tmp_path / "key"
    key_file.write_text(KEY.secrets[0])
    for manifest in points:
        made = filled(shelf, manifest)
        assert [each.name for each in made] == ["vda.qcow2.age", "domain.xml.age", "manifest.json.age"]
        folder = staging_of(shelf, manifest).folder
        assert {entry.name for entry in folder.iterdir()} == {*(each.name for each in made), "staging.json"}
        restored = tmp_path / "restored" / manifest.stamp
        restored.mkdir(parents=True)
        for each in made:
            content = (folder / each.name).read_bytes()
            assert (each.bytes, each.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            plain = restored / each.name.removesuffix(".age")
            subprocess.run(["age", "-d", "-i", key_file, "-o", plain, folder / each.name], check=True)
        assert contents(restored) == contents(shelf.repository.path_of(manifest.id))
        subprocess.run(["qemu-img", "check", restored / "vda.qcow2"], check=True, capture_output=True)
    restored = tmp_path / "restored" / points[1].stamp / "vda.qcow2"
    subprocess.run(["qemu-img", "compare", restored, shelf.path(points[1])], check=True, capture_output=True)


def test_the_same_files_are_there_at_the_next_attempt(shelf: Shelf) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))
    made = filled(shelf, manifest)
    before = contents(staging_of(shelf, manifest).folder)
    asked: list[int] = []
    assert filled(shelf, manifest, room=asked.append) == made
    assert contents(staging_of(shelf, manifest).folder) == before
    assert asked == [0]


def test_other_recipients_make_other_files_that_only_they_can_open(shelf: Shelf) -> None:
    manifest = shelf.add()
    before = filled(shelf, manifest)
    after = filled(shelf, manifest, Identities.new().recipients)
    assert {each.sha256 for each in before}.isdisjoint(each.sha256 for each in after)


def test_the_order_of_recipients_does_not_matter(shelf: Shelf) -> None:
    manifest = shelf.add()
    both = (KEY.recipients[0], Identities.new().recipients[0])
    assert filled(shelf, manifest, both) == filled(shelf, manifest, both[::-1])


def test_a_point_that_was_consolidated_is_encrypted_anew(shelf: Shelf) -> None:
    manifest = shelf.add()
    before = filled(shelf, manifest)
    shelf.replace_manifest(manifest, forged(manifest, notices=["consolidated"]))
    after = filled(shelf, shelf.repository.load(manifest.id))
    assert {each.sha256 for each in before}.isdisjoint(each.sha256 for each in after)


@pytest.mark.parametrize("damage", ["cut", "gone", "note gone", "note rubbish", "note without digests", "foreign"])
def test_what_lies_there_and_is_not_known_to_be_whole_is_made_anew(shelf: Shelf, damage: str) -> None:
    manifest = shelf.add()
    filled(shelf, manifest)
    folder = staging_of(shelf, manifest).folder
    image, note = folder / "vda.qcow2.age", folder / "staging.json"
    if damage == "cut":
        os.truncate(image, 100)
    elif damage == "gone":
        image.unlink()
    elif damage == "note gone":
        note.unlink()
    elif damage == "note rubbish":
        note.write_text("[" * 100_000)
    elif damage == "note without digests":
        note.write_text(json.dumps({**json.loads(note.read_text()), "files": {"x": None}}))
    else:
        (folder / "foreign").write_text("x")
    for each in filled(shelf, manifest):
        content = (folder / each.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == each.sha256
    assert {entry.name for entry in folder.iterdir()} == {
        "vda.qcow2.age",
        "domain.xml.age",
        "manifest.json.age",
        "staging.json",
    }


def test_a_damaged_point_is_not_sent(shelf: Shelf) -> None:
    manifest = shelf.add()
    flip_bit(shelf.path(manifest), 70_000)
    with pytest.raises(DamagedPointError, match="not what its manifest says") as caught:
        filled(shelf, manifest)
    assert "verify" in caught.value.hint
    assert list(staging_of(shelf, manifest).folder.iterdir()) == []


def test_a_point_that_changes_meanwhile_is_tried_again_and_not_called_damaged(shelf: Shelf) -> None:
    manifest = shelf.add()

    class Changed(NoControl):
        def check(self) -> None:
            shelf.replace_manifest(manifest, forged(manifest, notices=["consolidated"]))

    with pytest.raises(PointChangedError) as caught:
        filled(shelf, manifest, control=Changed())
    assert caught.value.retryable


def test_the_space_is_asked_for_before_anything_is_written(shelf: Shelf) -> None:
    manifest = shelf.add()

    def full(needed: int) -> None:
        assert needed > manifest.bytes_stored
        raise NoSpaceError("full", hint="Free some.")

    with pytest.raises(NoSpaceError):
        filled(shelf, manifest, room=full)
    assert list(staging_of(shelf, manifest).folder.iterdir()) == []


def test_a_stop_between_two_files_keeps_the_first(shelf: Shelf) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))

    class StopAfterFirst(NoControl):
        def check(self) -> None:
            if (staging_of(shelf, manifest).folder / "vda.qcow2.age").exists():
                raise CancelledError("stopped", hint="Go on.")

    with pytest.raises(CancelledError):
        filled(shelf, manifest, control=StopAfterFirst())
    folder = staging_of(shelf, manifest).folder
    kept = contents(folder)
    assert set(kept) == {"vda.qcow2.age", "staging.json"}
    filled(shelf, manifest)
    assert contents(folder)["vda.qcow2.age"] == kept["vda.qcow2.age"]


def test_two_processes_are_never_at_the_same_files(shelf: Shelf) -> None:
    manifest = shelf.add()
    staging = staging_of(shelf, manifest)
    with staging.filled(manifest, KEY.recipients, room=lambda _: None, control=NoControl()):
        with pytest.raises(VmBusyError):
            filled(shelf, manifest)
        assert not staging.remove()
        assert (staging.folder / "vda.qcow2.age").exists()
    assert staging.remove()
    assert not staging.folder.exists()
    assert staging.remove()


def test_nobody_takes_it_for_a_point_or_for_what_a_dead_run_left(shelf: Shelf) -> None:
    manifest = shelf.add()
    filled(shelf, manifest)
    folder = shelf.repository.path_of(manifest.id).parent
    assert shelf.repository.stamps(folder) == [manifest.stamp]
    assert shelf.repository.partials(folder) == []
    assert list(check_repository(shelf.repository)) == []


def test_only_what_nothing_needs_is_removed(shelf: Shelf) -> None:
    first, second = shelf.add(), shelf.add()
    for manifest, remote in ((first, "nas"), (first, "usb.2"), (second, "nas")):
        with staging_of(shelf, manifest, remote).filled(
            manifest, KEY.recipients, room=lambda _: None, control=NoControl()
        ):
            pass
    folder = shelf.repository.path_of(first.id).parent
    (folder / ".encrypted-20261122T020000Z--x y").mkdir()
    (folder / ".encrypted-20261122T020000Z--link").symlink_to(first.stamp)
    assert {(each.stamp, each.remote) for each in stagings(folder)} == {
        (first.stamp, "nas"),
        (first.stamp, "usb.2"),
        (second.stamp, "nas"),
    }
    removed = remove_unneeded(folder, lambda each: each.remote == "nas" and each.stamp == second.stamp)
    assert [(each.stamp, each.remote) for each in removed] == [(first.stamp, "nas"), (first.stamp, "usb.2")]
    assert [(each.stamp, each.remote) for each in stagings(folder)] == [(second.stamp, "nas")]
    assert shelf.path(first).exists()


_FILLER = """
import sys
from kvm_backup.repository.encryption.files import NoControl
from kvm_backup.repository.encryption.staging import Staging
from kvm_backup.repository.local import LocalRepository
from pathlib import Path
root, id, recipient = sys.argv[1:]
repository = LocalRepository.open("x", Path(root))
staging = Staging.of(repository.path_of(id), "nas")
with staging.filled(repository.load(id), [recipient], room=lambda _: None, control=NoControl()):
    print("filled", flush=True)
    sys.stdin.read()
"""


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.001)


@pytest.mark.parametrize("seen", ["vda.qcow2.age.new", "vda.qcow2.age", "vdb.qcow2.age.new", "domain.xml.age"])
def test_a_process_that_is_killed_leaves_files_that_are_whole_or_made_anew(shelf: Shelf, seen: str) -> None:
    manifest = shelf.add(targets=("vda", "vdb"))
    folder = staging_of(shelf, manifest).folder
    words = [sys.executable, "-c", _FILLER, str(shelf.root), manifest.id, KEY.recipients[0]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_until((folder / seen).exists)
        process.send_signal(signal.SIGKILL)
    published = {name: content for name, content in contents(folder).items() if name.endswith(".age")}
    made = filled(shelf, manifest)
    after = contents(folder)
    assert set(after) == {*(each.name for each in made), "staging.json"}
    assert {name: after[name] for name in published} == published
    for each in made:
        assert hashlib.sha256(after[each.name]).hexdigest() == each.sha256


def test_the_encrypting_process_ends_when_its_parent_was_killed(shelf: Shelf) -> None:
    manifest = shelf.add()
    with shelf.path(manifest).open("r+b") as file:
        file.truncate(1 << 40)  # would take an hour
    unfinished = staging_of(shelf, manifest).folder / "vda.qcow2.age.new"
    words = [sys.executable, "-c", _FILLER, str(shelf.root), manifest.id, KEY.recipients[0]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_until(unfinished.exists)
        [worker] = [
            int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    shutil.rmtree(unfinished.parent)
