"""The commands with `--repository nas`, as processes: on points that a server alone holds, or that are here, too."""

import json
from pathlib import Path

import pytest

from kvm_backup.repository.elsewhere import mark_elsewhere, remove_images
from tests.integration.product import Product
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf


class Desk:
    """A host with a chain of two points of `web`, shipped to a server."""

    def __init__(self, folder: Path, server: Server) -> None:
        variables = {"KVM_BACKUP_SSH_CONFIG": str(server.config), "TZ": "UTC"}
        self.product = Product(folder / "product", variables=variables)
        self.shelf = Shelf(self.product.repository)
        full = self.shelf.add()
        self.points = [full, self.shelf.add(full, seed=2)]
        self.product.run("repository", "add", "nas", str(server.address()), "--yes").succeeded()
        self.product.run("ship").succeeded()

    def says(self, *words: str | Path, french: bool = False) -> str:
        if french:
            self.product.environment["KVM_BACKUP_LANG"] = "fr"
        done = self.product.run(*words).succeeded()
        self.product.environment.pop("KVM_BACKUP_LANG", None)
        return " ".join(done.stdout.split())


@pytest.fixture
def desk(tmp_path: Path, server: Server) -> Desk:
    return Desk(tmp_path, server)


def test_points_there_are_listed_and_shown_without_the_server_and_with_their_age(desk: Desk, server: Server) -> None:
    server.stop()
    told = desk.says("point", "list", "-r", "nas")
    assert all(point.id in told for point in desk.points)
    # A shipment by an account that may read looks at what is there.
    assert "As it was last read, 20" in told
    assert "what is there now is read by: kvm-backup repository rescan nas" in told
    server.start()
    desk.product.run("repository", "rescan", "nas").succeeded()
    server.stop()
    assert "As it was last read, 20" in desk.says("point", "show", "web/latest", "-r", "nas")
    assert "Selon la dernière lecture" in desk.says("point", "list", "-r", "nas", french=True)
    rows = desk.product.points(repository="nas")
    assert [row["path"] for row in rows] == [f"{server.address()}/{point.id}" for point in desk.points]
    assert {row["repository"] for row in rows} == {"nas"}


def test_a_backup_into_a_remote_is_one_clear_error(desk: Desk) -> None:
    done = desk.product.run("backup", "web", "--repository", "nas").failed(2)
    assert done.stderr.count("error: ") == 1
    assert "repository nas is on another server" in done.stderr
    assert "Backups are written to repository default, and shipped to nas" in " ".join(done.stderr.split())


def test_a_restore_of_what_is_only_there_names_the_repository_to_take_it_from(desk: Desk, tmp_path: Path) -> None:
    full, child = desk.points
    mark_elsewhere(desk.shelf.repository.path_of(full.id), ["nas"])
    remove_images(desk.shelf.repository.path_of(full.id), full)
    done = desk.product.run("restore", child.id, "--to", tmp_path / "out").failed(1)
    assert "HINT: Restore it from there: add --repository nas." in " ".join(done.stderr.split())
    desk.product.run("restore", child.id, "--to", tmp_path / "out", "--repository", "nas").succeeded()
    assert (tmp_path / "out" / "vda.qcow2").exists()


def test_images_at_a_remote_that_the_settings_name_no_longer_are_told_as_such(desk: Desk, tmp_path: Path) -> None:
    full, child = desk.points
    mark_elsewhere(desk.shelf.repository.path_of(full.id), ["nas"])
    remove_images(desk.shelf.repository.path_of(full.id), full)
    with_nas = desk.product.settings.read_text()
    desk.product.configure(with_nas.partition("[[repository]]")[0])
    assert f"{full.id} full filesystem at nas (not in the settings)" in desk.says("point", "list")
    assert "nas (not in the settings)" in desk.says("point", "show", full.id)
    told = " ".join(desk.product.run("verify", "--all").failed(1).stdout.split())
    assert f"✗ {full.id}: damaged elsewhere.json: its images are only where the settings name no" in told
    assert "Add it again: kvm-backup repository add nas ssh://…" in told
    assert "nas (absent des réglages)" in desk.says("point", "list", french=True)
    done = desk.product.run("restore", child.id, "--to", tmp_path / "out").failed(1)
    hint = " ".join(done.stderr.split())
    assert "HINT: The settings name no repository nas. Add it again: kvm-backup repository add nas ssh://…" in hint
    assert "--repository nas" not in hint
    desk.product.configure(with_nas)
    assert "not in the settings" not in desk.says("verify", "--all") + desk.says("point", "list")


def test_a_vm_that_only_the_remote_has_points_of_is_found_there_by_the_hint(desk: Desk) -> None:
    desk.shelf.root.rename(desk.shelf.root.with_name("away"))
    Shelf(desk.shelf.root, vm_name="db").add()
    done = desk.product.run("point", "list", "web").failed(4)
    assert "Repository nas holds points of it (2): add -r nas." in " ".join(done.stderr.split())


def test_a_prune_there_is_previewed_and_carried_out(desk: Desk, server: Server) -> None:
    newest = desk.shelf.add(seed=3)
    desk.product.run("ship").succeeded()
    settings = desk.product.settings.read_text()
    desk.product.configure(settings + "[repository.retention]\nlast = 1\ndaily = 0\nweekly = 0\nmonthly = 0\n")
    words = ["prune", "web", "-r", "nas"]
    told = desk.says(*words, "--dry-run")
    assert "points to keep: 1, to remove: 2, to make full: 0" in told
    assert (server.store / desk.points[0].id).is_dir()
    [done] = desk.product.run(*words, "--json").succeeded().events
    assert (done["repository"], [point["kept"] for point in done["points"]]) == ("nas", [False, False, True])
    assert [path.name for path in (server.store / newest.id).parent.iterdir()] == [newest.stamp]
    assert [row["id"] for row in desk.product.points(repository="nas")] == [newest.id]
    assert len(desk.product.points()) == 3


def test_a_check_there_is_told_and_in_the_history(desk: Desk) -> None:
    assert "2 points, none damaged" in desk.says("verify", "--all", "-r", "nas")
    [run] = json.loads(desk.product.run("run", "list", "--kind", "verify", "--json").succeeded().stdout)
    assert (run["repository"], run["state"]) == ("nas", "succeeded")


def test_a_remote_that_was_never_read_says_how_to_read_it(desk: Desk, tmp_path: Path) -> None:
    settings = tmp_path / "other.toml"
    settings.write_text('[[repository]]\nname = "old"\nurl = "ssh://shell/never/read"\n')
    desk.product.environment["KVM_BACKUP_CONFIG"] = str(settings)
    done = desk.product.run("point", "list", "-r", "old").failed(4)
    assert "kvm-backup repository rescan old" in done.stderr
