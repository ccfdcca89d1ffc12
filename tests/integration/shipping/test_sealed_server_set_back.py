"""A server that does not hold any more what was sent there encrypted, and a host that cannot read it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.ssh.transfer import Transfer
from kvm_backup.services import events
from tests.integration.shipping.conftest import House

NAMES = {"manifest.json.age", "domain.xml.age", "vda.qcow2.age"}


def use(house: House, adding: str, prune: str | None) -> None:
    house.remote["url"] = str(house.server.address(adding))
    if prune:
        house.remote["prune_url"] = str(house.server.address(prune))
    house.restart()


def shipped(house: House) -> list[Manifest]:
    full = house.shelf.add(seed=1)
    points = [full, house.shelf.add(full, seed=2), house.shelf.add(seed=3)]
    assert house.ship() == [point.id for point in points]
    return points


def next_day(house: House) -> Manifest:
    """The mirror was compared so long ago that it is to be compared again, and there is something to send."""
    house.application.shipping.mirror("nas").distrust()
    return house.shelf.add(seed=9)


def there(house: House, point: Manifest) -> Path:
    return house.server.store / point.id


def notices(house: House) -> str:
    return "\n".join(event.message for event in house.told if isinstance(event, events.Notice))


@pytest.mark.parametrize(("adding", "prune"), [("shell", None), ("rrsync", None), ("adder", "shell")])
def test_points_that_vanished_there_are_noticed_without_a_key_and_sent_again(
    sealed: House, adding: str, prune: str | None
) -> None:
    use(sealed, adding, prune)
    points = shipped(sealed)
    for point in points[1:]:
        shutil.rmtree(there(sealed, point))
    newest = next_day(sealed)
    assert sealed.ship() == [points[1].id, points[2].id, newest.id]
    for point in [*points, newest]:
        assert {entry.name for entry in there(sealed, point).iterdir()} == NAMES
    assert "missing or damaged there now, and sent again" in notices(sealed)
    assert points[1].id in notices(sealed)


@pytest.mark.parametrize(("adding", "prune"), [("shell", None), ("adder", "rrsync")])
@pytest.mark.parametrize("harm", ["missing", "cut short"])
def test_a_point_of_which_a_file_is_missing_or_cut_short_is_sent_again(
    sealed: House, key_file: Path, adding: str, prune: str | None, harm: str
) -> None:
    use(sealed, adding, prune)
    points = shipped(sealed)
    image = there(sealed, points[0]) / "vda.qcow2.age"
    image.unlink() if harm == "missing" else image.write_bytes(image.read_bytes()[:-1])
    newest = next_day(sealed)
    assert sealed.ship() == [points[0].id, newest.id]
    opened = subprocess.run(["age", "-d", "-i", key_file, image], check=True, capture_output=True).stdout
    assert opened == sealed.shelf.path(points[0]).read_bytes()


def test_what_is_whole_there_is_not_sent_again_and_nothing_of_it_is_read(
    sealed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(sealed, "rrsync", None)
    points = shipped(sealed)
    asked: list[tuple[str, ...]] = []
    plain = Transfer.differing

    def differing(self: Transfer, source: Path, target: str, *options: str) -> list[str]:
        asked.append(options)
        return plain(self, source, target, *options)

    newest = next_day(sealed)
    monkeypatch.setattr(Transfer, "differing", differing)
    assert sealed.ship() == [newest.id]
    assert ("--size-only",) in asked
    assert notices(sealed) == ""
    mirror = sealed.application.shipping.mirror("nas")
    assert mirror.compared is not None
    assert mirror.read is None
    assert [point.id for point in mirror.repository.all_points()] == [point.id for point in [*points, newest]]


def test_an_account_that_only_adds_ships_as_before(sealed: House) -> None:
    use(sealed, "adder", None)
    points = shipped(sealed)
    shutil.rmtree(there(sealed, points[2]))
    newest = next_day(sealed)
    assert sealed.ship() == [newest.id]
    assert notices(sealed) == ""


def test_a_disk_that_is_not_mounted_on_the_server_makes_nobody_forget_what_is_on_it(
    sealed: House, tmp_path: Path
) -> None:
    """The account that prunes sees another folder than the one that adds."""
    use(sealed, "adder", "shell")
    points = shipped(sealed)
    other = House(tmp_path / "other", sealed.server, remote={"recipients": list(sealed.remote["recipients"])})
    elsewhere = sealed.server.root / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(other.shelf.root / "kvm-backup.json", elsewhere)
    sealed.remote["prune_url"] = f"ssh://shell{elsewhere}"
    sealed.restart()
    newest = next_day(sealed)
    assert sealed.ship() == [newest.id]
    assert "what is there could not be compared" in notices(sealed)
    held = sealed.application.shipping.mirror("nas").repository.all_points()
    assert [point.id for point in held] == [point.id for point in [*points, newest]]
