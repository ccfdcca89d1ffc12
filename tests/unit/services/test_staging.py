"""Files that become visible only when all of them are whole."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvm_backup.domain.errors import TargetExistsError
from kvm_backup.services.staging import Staging, hidden_folder, reclaim


def finals(folder: Path) -> list[Path]:
    return [folder / "vda.qcow2", folder / "manifest.json"]


def write(staging: Staging, paths: Sequence[Path], content: str = "new") -> None:
    for path in paths:
        staging.path_for(path).write_text(content)


def killed(folder: Path, published: int) -> None:
    """Leave what a process leaves that dies when it has published that many files."""
    hidden = hidden_folder(folder)
    hidden.mkdir()
    for number, path in enumerate(finals(folder)):
        (hidden / path.name).write_text("new")
        if number < published:
            os.link(hidden / path.name, path)


def test_nothing_is_visible_before_it_is_published_and_nothing_hidden_stays(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        write(staging, finals(tmp_path))
        assert not any(path.exists() for path in finals(tmp_path))
        staging.publish(finals(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(finals(tmp_path))


def test_a_failure_after_publishing_takes_everything_back(tmp_path: Path) -> None:
    def fail_late() -> None:
        with Staging(tmp_path) as staging:
            write(staging, finals(tmp_path))
            staging.publish(finals(tmp_path))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_late()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_left_alone_and_the_rest_taken_back(tmp_path: Path) -> None:
    def publish_too_late() -> None:
        with Staging(tmp_path) as staging:
            write(staging, finals(tmp_path))
            finals(tmp_path)[1].write_text("theirs")
            staging.publish(finals(tmp_path))

    with pytest.raises(TargetExistsError):
        publish_too_late()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert finals(tmp_path)[1].read_text() == "theirs"


@pytest.mark.parametrize("published", [0, 1, 2])
def test_what_a_killed_process_left_is_reclaimed_wherever_it_died(tmp_path: Path, published: int) -> None:
    killed(tmp_path, published)
    assert reclaim(tmp_path) is True
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_same_name_that_somebody_else_put_there_is_not_reclaimed(tmp_path: Path) -> None:
    killed(tmp_path, 0)
    finals(tmp_path)[0].write_text("new")
    reclaim(tmp_path)
    assert list(tmp_path.iterdir()) == [finals(tmp_path)[0]]


def test_nothing_to_reclaim_writes_nothing(tmp_path: Path) -> None:
    assert reclaim(tmp_path) is False
    assert reclaim(tmp_path / "missing") is False


def test_what_a_living_process_writes_is_not_reclaimed(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        write(staging, finals(tmp_path))
        with pytest.raises(TargetExistsError, match="another restore"):
            reclaim(tmp_path)
        staging.publish(finals(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(finals(tmp_path))


def test_restores_of_different_names_share_a_folder(tmp_path: Path) -> None:
    with Staging(tmp_path, "web") as web, Staging(tmp_path, "db") as db:
        write(web, finals(tmp_path))
        assert reclaim(tmp_path, "mail") is False
        write(db, [tmp_path / "vdb.qcow2"])
        web.publish(finals(tmp_path))
        db.publish([tmp_path / "vdb.qcow2"])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_symbolic_link_in_place_of_the_hidden_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("content")
    hidden_folder(tmp_path).symlink_to(elsewhere)
    assert reclaim(tmp_path) is False
    assert (elsewhere / "precious").exists()
