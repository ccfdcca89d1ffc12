"""Points whose disks went to another server: what the commands show of them, and how they refuse to read them."""

import json
from pathlib import Path

import pytest

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.elsewhere import mark_elsewhere, remove_images
from tests.unit.builders import Shelf
from tests.unit.cli.conftest import Command


def take(shelf: Shelf, point: Manifest, *to: str) -> None:
    folder = shelf.repository.path_of(point.id)
    mark_elsewhere(folder, to)
    remove_images(folder, point)


@pytest.fixture
def points(shelf: Shelf, tmp_path: Path) -> list[Manifest]:
    """One at two servers, one lost, and one here that builds on the first."""
    servers = [
        f'[[repository]]\nname = "{name}"\nurl = "ssh://{name}/srv"\nof = "default"\n' for name in ("nas", "far")
    ]
    (tmp_path / "kvm-backup.toml").write_text("".join(servers))
    first = shelf.add()
    lost, here = shelf.add(), shelf.add(first)
    take(shelf, first, "nas", "far")
    take(shelf, lost)
    return [first, lost, here]


def test_the_list_tells_where_within_80_columns(command: Command, points: list[Manifest]) -> None:
    lines = command("point", "list", COLUMNS="80").output.splitlines()
    assert [line.split()[3:] for line in lines[1:3]] == [["at", "far,", "nas"], ["lost"]]
    assert "KiB" in lines[3]
    assert max(map(len, lines)) <= 80
    french = command("point", "list", COLUMNS="80", LC_ALL="fr_FR.UTF-8").output
    assert "dans far, nas" in french
    assert "perdu" in french


def test_json_tells_where(command: Command, points: list[Manifest]) -> None:
    rows = json.loads(command("point", "list", "--json").output)
    assert [row["elsewhere"] for row in rows] == [["far", "nas"], [], None]
    for point, row in zip(points, rows, strict=True):
        assert json.loads(command("point", "show", "--json", point.id).output)["elsewhere"] == row["elsewhere"]


def test_a_point_shows_where_its_disks_are(command: Command, points: list[Manifest]) -> None:
    shown = command("point", "show", points[0].id).output
    assert "far, nas" in next(line for line in shown.splitlines() if line.startswith("disks at"))
    assert "disks at" not in command("point", "show", points[2].id).output


def test_verify_passes_over_what_is_elsewhere_and_fails_for_what_is_lost(
    command: Command, points: list[Manifest]
) -> None:
    done = command("verify", points[2].id)
    assert done.status == 0, done
    assert f"{points[0].id}: its disks are at far, nas, and were not checked" in done.output
    assert "what it builds on is at far, nas" in done.output
    every = command("verify", "--json")
    verdicts = [json.loads(line) for line in every.output.splitlines()]
    assert every.status == 1
    assert [(verdict["good"], verdict["elsewhere"]) for verdict in verdicts] == [
        (True, ["far", "nas"]),
        (False, []),
        (True, None),
    ]
    assert [finding["kind"] for finding in verdicts[1]["findings"]] == ["images-lost"]


def test_verify_fails_for_what_is_only_where_the_settings_name_no_repository_any_more(
    command: Command, points: list[Manifest], shelf: Shelf
) -> None:
    assert command("verify", points[0].id).status == 0
    take(shelf, points[0], "given-away")
    done = command("verify", points[0].id)
    assert done.status == 1
    assert "name no repository any more: given-away" in " ".join(done.output.split())
    assert "repository add given-away" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("number", "told"), [(0, "not here"), (1, "no longer hold"), (2, "builds on")], ids=["at nas", "lost", "child"]
)
def test_a_restore_names_the_repository_and_leaves_nothing(
    command: Command, points: list[Manifest], shelf: Shelf, number: int, told: str
) -> None:
    target = shelf.root.parent / "restored"
    done = command("restore", points[number].id, "--to", str(target))
    assert done.status == 1
    assert told in " ".join(done.error.split())
    assert ("--repository far" in done.error) is (number != 1)
    assert not target.exists()
