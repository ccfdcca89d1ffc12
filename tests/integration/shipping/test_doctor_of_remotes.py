"""What doctor says of repositories on other servers, which are real ones."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.services.checks import Check, Health
from tests.integration.product import Product
from tests.integration.shipping.conftest import House


def told(house: House, name: str = "nas") -> dict[str, Check]:
    """The checks of one remote, by what is behind its name."""
    head = f"remote {name}, "
    return {
        check.name.removeprefix(head): check
        for check in house.restart().examining.checks()
        if check.name.startswith(head)
    }


def unwell(house: House, name: str = "nas") -> dict[str, Check]:
    return {what: check for what, check in told(house, name).items() if check.health is not Health.OK}


@contextmanager
def silent_port() -> Iterator[int]:
    """Takes connections and says nothing, as a server that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        yield int(hanging.getsockname()[1])


def test_without_remotes_nothing_is_said_of_them(house: House) -> None:
    house.settings["repository"] = [{"name": "shelf", "path": str(house.folder / "local")}]
    assert list(house.restart().examining.checks()) == []


def test_a_remote_that_is_well_has_each_of_its_checks(house: House) -> None:
    checks = told(house)
    assert list(checks) == ["login", "folder", "rsync", "space", "waiting points"]
    assert {check.health for check in checks.values()} == {Health.OK}
    assert "the account has a shell" in checks["login"].detail
    assert "copy of repository shelf" in checks["folder"].detail
    assert checks["waiting points"].detail == "none"


def test_points_that_wait_without_a_service_are_counted_with_the_command_that_ships_them(house: House) -> None:
    house.shelf.add()
    waiting = unwell(house)["waiting points"]
    assert waiting.health is Health.WARNING
    assert waiting.detail.startswith("1 (")
    assert "kvm-backup ship --to nas" in (waiting.hint or "")
    house.ship()
    assert unwell(house) == {}


@pytest.mark.parametrize(
    ("account", "said"), [("rrsync", "the account has rsync alone"), ("keeper", "the account can only add points")]
)
def test_an_account_without_a_shell_is_told_with_what_it_may(house: House, account: str, said: str) -> None:
    house.remote["url"] = str(house.server.address(account))
    checks = told(house)
    assert checks["login"].detail.endswith(said)
    assert unwell(house) == {}


def test_a_host_key_that_has_changed_is_told_and_what_needs_no_server_is_said_all_the_same(house: House) -> None:
    house.server.stop()
    house.server.new_host_key()
    house.server.start()
    checks = told(house)
    assert list(checks) == ["login", "waiting points"]
    assert checks["login"].health is Health.PROBLEM
    assert "another host key" in checks["login"].detail


def test_a_server_that_says_nothing_is_given_up_and_hides_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvm_backup.bootstrap.examining._LOGIN_SECONDS", 1)
    with silent_port() as port:
        silent = {"name": "far", "url": f"ssh://root@127.0.0.1:{port}/away", "of": "shelf"}
        tables = house.restart().settings.model_dump(exclude_unset=True)["repository"]
        house.settings["repository"] = [silent, *tables]
        house.server.config.write_text(f"Host 127.0.0.1\n  Port {port}\n{house.server.config.read_text()}")
        assert unwell(house, "far")["login"].health is Health.PROBLEM
        assert unwell(house) == {}


def test_a_disk_that_is_not_mounted_there_is_a_problem_of_the_folder(house: House) -> None:
    (house.server.store / REPOSITORY_FILE).unlink()
    assert "holds no repository" in unwell(house)["folder"].detail


def test_the_folder_of_another_repository_is_a_problem(house: House, tmp_path: Path) -> None:
    from tests.unit.builders import Shelf

    other = Shelf(tmp_path / "other")
    (house.server.store / REPOSITORY_FILE).write_bytes((other.root / REPOSITORY_FILE).read_bytes())
    assert "another repository" in unwell(house)["folder"].detail


def test_an_account_that_prunes_and_may_not_remove_is_a_problem(house: House) -> None:
    house.remote |= {"url": str(house.server.address("keeper")), "prune_url": str(house.server.address("reader"))}
    assert "may not remove" in unwell(house)["prune_url"].detail


def test_an_account_that_prunes_and_may_is_well(house: House) -> None:
    house.remote |= {"url": str(house.server.address("keeper")), "prune_url": str(house.server.address("rrsync"))}
    assert told(house)["prune_url"].health is Health.OK


def test_an_account_that_prunes_in_another_folder_is_a_problem(house: House, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    house.remote |= {
        "url": str(house.server.address("keeper")),
        "prune_url": f"ssh://shell{tmp_path}/elsewhere",
    }
    assert "sees another folder" in unwell(house)["prune_url"].detail


def test_a_repository_to_read_that_holds_another_since_is_a_problem(house: House, tmp_path: Path) -> None:
    from tests.unit.builders import Shelf

    tables = house.restart().settings.model_dump(exclude_unset=True)["repository"]
    house.settings["repository"] = [tables[0], {"name": "nas", "url": str(house.server.address("reader"))}]
    assert "repository rescan nas" in (unwell(house)["folder"].hint or "")
    house.rescan()
    assert unwell(house) == {}
    other = Shelf(tmp_path / "other")
    (house.server.store / REPOSITORY_FILE).write_bytes((other.root / REPOSITORY_FILE).read_bytes())
    assert unwell(house)["folder"].health is Health.PROBLEM


def test_an_encrypted_remote_tells_of_its_keys(sealed: House, key_file: Path) -> None:
    assert "no private key is on this host" in told(sealed)["keys"].detail
    sealed.remote["identity_file"] = str(key_file)
    assert "fits" in told(sealed)["keys"].detail
    key_file.write_text(Identities.new().secrets[0])
    assert "none of the recipients" in unwell(sealed)["keys"].detail
    key_file.unlink()
    assert "is not there" in unwell(sealed)["keys"].detail


def test_a_public_key_that_nobody_has_tested_is_a_problem(sealed: House) -> None:
    new = Identities.new().recipients[0]
    sealed.remote["recipients"] = [new]
    assert f"kvm-backup key check FILE --recipient {new}" in (unwell(sealed)["keys"].hint or "")


def replace_programs_there(house: House, **scripts: str) -> None:
    """Let other programs answer on the server, in front of those of that name."""
    programs = house.folder / "programs"
    programs.mkdir()
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    configuration = house.server.root / "sshd_config"
    home = f"SetEnv HOME={house.server.root}"
    configuration.write_text(
        configuration.read_text().replace(home, f"{home} PATH={programs}:/usr/local/bin:/usr/bin:/bin")
    )
    house.server.stop()
    house.server.start()


def test_an_old_rsync_there_is_a_warning(house: House) -> None:
    says = 'echo "rsync  version 3.1.3  protocol version 31"'
    real = f'[ "$1" = --version ] && {{ {says}; exit; }}; exec /usr/bin/rsync "$@"'
    replace_programs_there(house, rsync=real)
    check = unwell(house)["rsync"]
    assert check.health is Health.WARNING
    assert check.detail.startswith("3.1.3 there, ")


@pytest.mark.parametrize(
    ("free", "health"), [(900_000, Health.OK), (20_000, Health.WARNING), (100, Health.PROBLEM), (-5, Health.PROBLEM)]
)
def test_the_room_there_is_compared_with_what_waits(house: House, free: int, health: Health) -> None:
    house.shelf.add()
    replace_programs_there(house, df=f"echo Filesystem; echo '/dev/sda1 1000000 1 {free} 99% /srv'")
    assert told(house)["space"].health is health


def test_a_server_that_tells_nothing_of_itself_has_fewer_checks(house: House) -> None:
    replace_programs_there(house, df="exit 1")
    assert list(told(house)) == ["login", "folder", "rsync", "waiting points"]


def test_the_command_says_it_in_french_and_fails_for_a_server_that_is_away(house: House, tmp_path: Path) -> None:
    settings = (
        f'ssh_config = "{house.server.config}"\n'
        f'[libvirt]\nuri = "qemu+unix:///system?socket=/nonexistent"\n'
        f'[[repository]]\nname = "shelf"\npath = "{house.shelf.root}"\n'
        f'[[repository]]\nname = "nas"\nurl = "{house.server.address()}"\nof = "shelf"\n'
    )
    product = Product(tmp_path / "product", settings, variables={"KVM_BACKUP_LANG": "fr"})
    well = product.run("doctor").stdout
    assert "✓ dépôt distant nas, connexion\u202f: " in well
    assert "✓ dépôt distant nas, dossier\u202f: c'est la copie du dépôt shelf" in well
    house.server.stop()
    done = product.run("doctor")
    assert done.status == 1
    assert "✗ dépôt distant nas, connexion\u202f: " in done.stdout
    assert "CONSEIL\u202f:" in done.stdout
