"""Reading from an encrypted remote: as from any other, with the private key; nothing is left here in either form."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.task import ToFolder
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import Moved
from kvm_backup.services import events
from tests.integration.shipping.conftest import House
from tests.unit.builders import flip_bit


@pytest.fixture
def points(sealed: House, key_file: Path) -> list[Manifest]:
    """A chain of two that only the server holds, and the key to it."""
    full = sealed.shelf.add()
    made = [full, sealed.shelf.add(full, seed=2)]
    sealed.ship()
    sealed.remote["identity_file"] = str(key_file)
    sealed.restart()
    shutil.copytree(sealed.shelf.root, sealed.folder / "before")
    for point in made:
        shutil.rmtree(sealed.shelf.repository.path_of(point.id))
    return made


def restore(house: House, point: Manifest, to: Path) -> KvmBackupError | None:
    house.told.clear()
    request = house.application.requests.restore(point.id, ToFolder(str(to)), "nas")
    return house.application.work.start(request, listener=house.told.append, stop_requested=lambda: False)[1]


def verdicts(house: House, point: Manifest, *, deep: bool) -> dict[str, bool]:
    house.told.clear()
    request = house.application.requests.verify_folder(point.id.split("/")[0], "nas", deep=deep)
    house.application.work.start(request, listener=house.told.append, stop_requested=lambda: False)
    return {
        event.verdict.point: event.verdict.good for event in house.told if isinstance(event, events.PointVerified)
    }


def findings(house: House) -> set[tuple[str, str]]:
    verified = [event.verdict for event in house.told if isinstance(event, events.PointVerified)]
    return {(finding.point, finding.file) for verdict in verified for finding in verdict.findings}


def left(house: House) -> list[Path]:
    return [path for path in (house.folder / "state" / "scratch").rglob("*") if path.is_file()]


def same_as_before(house: House, point: Manifest, restored: Path) -> None:
    before = house.folder / "before" / point.id / "vda.qcow2"
    subprocess.run(["qemu-img", "compare", restored, before], check=True, capture_output=True)


def test_a_chain_is_fetched_decrypted_and_restored(sealed: House, points: list[Manifest], tmp_path: Path) -> None:
    assert restore(sealed, points[1], tmp_path / "out") is None
    same_as_before(sealed, points[1], tmp_path / "out" / "vda.qcow2")
    told = [event for event in sealed.told if isinstance(event, events.Progress) and event.step is events.Step.FETCH]
    assert told[-1].done == told[-1].total
    assert left(sealed) == []


@pytest.mark.parametrize(("account", "deep"), [("shell", True), ("rrsync", False), ("rrsync", True)])
def test_points_there_are_verified_by_what_they_decrypt_to(
    sealed: House, points: list[Manifest], account: str, deep: bool
) -> None:
    sealed.use(account)
    assert verdicts(sealed, points[0], deep=deep) == {points[0].id: True, points[1].id: True}
    flip_bit(sealed.server.store / points[0].id / "vda.qcow2.age", 100_000)
    assert verdicts(sealed, points[0], deep=deep) == {points[0].id: False, points[1].id: True}
    assert left(sealed) == []


def fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "fetch", lambda *_: pytest.fail("something was fetched"))


def test_what_this_host_sent_is_verified_there_by_its_digests_without_a_key_and_nothing_is_fetched(
    sealed: House, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.remote.pop("identity_file")
    sealed.restart()
    fetches_nothing(monkeypatch)
    assert verdicts(sealed, points[0], deep=False) == {points[0].id: True, points[1].id: True}
    flip_bit(sealed.server.store / points[0].id / "vda.qcow2.age", 100_000)
    (sealed.server.store / points[1].id / "manifest.json.age").unlink()
    assert verdicts(sealed, points[0], deep=False) == {points[0].id: False, points[1].id: False}
    assert findings(sealed) == {(points[0].id, "vda.qcow2.age"), (points[1].id, "manifest.json.age")}


def test_what_was_sent_with_the_key_that_only_adds_is_verified_by_its_digests_without_a_private_key(
    sealed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.remote |= {"url": str(sealed.server.address("keeper")), "prune_url": str(sealed.server.address("reader"))}
    sealed.restart()
    point = sealed.shelf.add()
    sealed.ship()
    fetches_nothing(monkeypatch)
    assert verdicts(sealed, point, deep=False) == {point.id: True}
    flip_bit(sealed.server.store / point.id / "vda.qcow2.age", 100_000)
    assert verdicts(sealed, point, deep=False) == {point.id: False}
    assert findings(sealed) == {(point.id, "vda.qcow2.age")}


def test_only_what_this_host_did_not_send_is_fetched_to_be_verified(
    sealed: House, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.application.shipping.mirror("nas").arrived.forget(points[1].id)
    fetched: list[str] = []
    fetch = Remote.fetch

    def noted(self: Remote, manifest: Manifest, folder: Path) -> Moved:
        fetched.append(manifest.id)
        return fetch(self, manifest, folder)

    monkeypatch.setattr(Remote, "fetch", noted)
    assert verdicts(sealed, points[0], deep=False) == {points[0].id: True, points[1].id: True}
    assert fetched == [points[1].id]


def test_a_point_that_vanished_is_one_finding(
    sealed: House, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches_nothing(monkeypatch)
    shutil.rmtree(sealed.server.store / points[1].id)
    assert verdicts(sealed, points[0], deep=False) == {points[0].id: True, points[1].id: False}
    assert findings(sealed) == {(points[1].id, "manifest.json")}


def test_a_damaged_file_there_is_named(sealed: House, points: list[Manifest], tmp_path: Path) -> None:
    flip_bit(sealed.server.store / points[0].id / "vda.qcow2.age", 100_000)
    error = restore(sealed, points[1], tmp_path / "out")
    assert error is not None
    assert error.code == "damaged-point"
    assert error.message == f"{points[0].id} is damaged at {sealed.server.address()}: vda.qcow2"


def test_after_a_cut_the_same_restore_goes_on(sealed: House, points: list[Manifest], tmp_path: Path) -> None:
    sealed.remote["bandwidth"] = "150KiB"
    sealed.restart()
    cut = False

    def listen(event: events.Event) -> None:
        nonlocal cut
        if isinstance(event, events.Progress) and event.done > points[0].bytes_stored + 10_000 and not cut:
            cut = True
            sealed.server.cut()

    request = sealed.application.requests.restore(points[1].id, ToFolder(str(tmp_path / "out")), "nas")
    _, error = sealed.application.work.start(request, listener=listen, stop_requested=lambda: False)
    assert error is not None
    assert error.code == "remote-unreachable"
    assert any(path.name == "vda.qcow2" for path in left(sealed))
    sealed.remote.pop("bandwidth")
    sealed.restart()
    gone = sealed.server.store / points[0].id / "vda.qcow2.age"
    gone.unlink()
    assert restore(sealed, points[1], tmp_path / "out") is None
    same_as_before(sealed, points[1], tmp_path / "out" / "vda.qcow2")
    assert left(sealed) == []


def test_without_the_key_it_says_what_to_bring(sealed: House, points: list[Manifest], tmp_path: Path) -> None:
    sealed.remote.pop("identity_file")
    sealed.restart()
    error = restore(sealed, points[1], tmp_path / "out")
    assert error is not None
    assert (error.code, "identity_file" in error.hint) == ("encryption-key", True)
    assert left(sealed) == []
