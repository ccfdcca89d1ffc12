"""A remote whose folder is the local repository, reached by ssh, gets nothing, and takes nothing away."""

import os
import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteSetupError
from kvm_backup.repository.ssh.same_folder import PREFIX
from kvm_backup.services import events
from kvm_backup.services.remotes.joining import Locals, join_as_copy
from tests.integration.ship.servers import ADD_ONLY, Server
from tests.integration.shipping.conftest import House

ACCOUNTS = {
    "shell": "",
    "rrsync": "/usr/bin/rrsync -no-lock",
    "adder": "/usr/bin/rrsync -wo -no-del -no-overwrite -no-lock",
    "keeper": str(ADD_ONLY),
}


def url(server: Server, account: str, folder: Path) -> str:
    """The address of a folder by an account of that kind."""
    if account == "shell":
        return f"ssh://shell{folder}"
    server.add_account("here", f'command="{ACCOUNTS[account]} {folder}",restrict ')
    return "ssh://here/"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lead(house: House, address: str, **options: str) -> None:
    """Let the settings name that address from now on."""
    house.remote |= {"url": address, **options}
    house.restart()


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_folder_of_the_local_repository_is_not_made_a_copy_of_it(house: House, account: str) -> None:
    here = house.shelf.repository
    lead(house, url(house.server, account, here.root))
    before = everything(here.root)
    with (
        house.application.shipping.connect("nas") as remote,
        pytest.raises(RemoteSetupError, match="is the very folder of the local repository"),
    ):
        join_as_copy(remote, Locals("shelf", lambda _name: here, lambda _name: here.id), "shelf")
    assert everything(here.root) == before


@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_url_that_comes_to_lead_to_the_local_repository_ships_nothing_and_takes_nothing_away(
    house: House, account: str
) -> None:
    house.shelf.add(house.shelf.add())
    before = everything(house.shelf.root)
    lead(house, url(house.server, account, house.shelf.root), keep_local="nothing")
    with pytest.raises(RemoteSetupError, match="is the very folder of the local repository"):
        house.ship()
    assert everything(house.shelf.root) == before


@pytest.mark.parametrize("account", ACCOUNTS)
def test_points_known_to_be_at_a_remote_stay_here_when_its_folder_is_the_local_repository(
    house: House, account: str
) -> None:
    full = house.shelf.add()
    points = [full, house.shelf.add(full)]
    house.ship()
    before = everything(house.shelf.root)
    house.server.store.rename(house.folder / "away")
    house.server.store.symlink_to(house.shelf.root)
    lead(house, str(house.server.address(account)))
    if account != "shell":
        for point in points:
            content = house.shelf.path(point, "manifest.json").read_bytes()
            house.application.shipping.mirror("nas").record(point.id, content)
    lead(house, str(house.server.address(account)), keep_local="nothing")
    assert house.ship() == []
    [told] = [event.message for event in house.told if isinstance(event, events.Notice)]
    assert told.startswith("all images stay here")
    assert "is the very folder of the local repository" in told
    assert everything(house.shelf.root) == before


@pytest.mark.parametrize("account", ["shell", "rrsync", "adder", "keeper"])
def test_images_stay_when_the_folder_of_their_vm_is_mounted_there(house: House, account: str) -> None:
    point = house.shelf.add()
    house.ship()
    there = house.server.store / point.folder
    there.rename(house.folder / "away")
    there.mkdir()
    subprocess.run(["mount", "--bind", house.shelf.root / point.folder, there], check=True)
    try:
        lead(house, str(house.server.address(account)), keep_local="nothing")
        house.application.shipping.mirror("nas").record(
            point.id, house.shelf.path(point, "manifest.json").read_bytes()
        )
        before = everything(house.shelf.root)
        house.ship()
        assert everything(house.shelf.root) == before
        [told] = [event.message for event in house.told if isinstance(event, events.Notice)]
        assert f"{point.id} is the very folder that it is in here" in told
    finally:
        subprocess.run(["umount", there], check=True)


@pytest.mark.parametrize("where", ["inside", "inside/deeper", ".."])
def test_a_folder_inside_the_local_repository_or_around_it_gets_nothing(house: House, where: str) -> None:
    house.shelf.add()
    folder = Path(os.path.normpath(house.shelf.root / where))
    folder.mkdir(parents=True, exist_ok=True)
    lead(house, url(house.server, "shell", folder))
    (folder / "kvm-backup.json").write_bytes((house.shelf.root / "kvm-backup.json").read_bytes())
    with pytest.raises(RemoteSetupError, match="the same folder or one inside the other"):
        house.ship()
    assert not list(folder.glob("*--*"))


def test_an_account_that_prunes_and_sees_the_local_repository_removes_nothing(house: House) -> None:
    lead(house, str(house.server.address()))
    old = house.shelf.add()
    house.ship()
    house.shelf.add(seed=9)
    rule = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}
    lead(house, str(house.server.address()), prune_url=f"ssh://shell{house.shelf.root}")
    house.remote["retention"] = rule
    house.restart()
    house.ship()
    assert house.shelf.path(old).is_file()
    [told] = [event.message for event in house.told if isinstance(event, events.Notice)]
    assert "is the very folder of the local repository" in told


def test_a_mark_that_a_killed_look_left_goes_with_the_next(house: House) -> None:
    left = house.shelf.root / f"{PREFIX}left"
    left.touch()
    house.shelf.add()
    assert len(house.ship()) == 1
    assert not left.exists()
    assert not list(house.shelf.root.rglob(f"{PREFIX}*"))
