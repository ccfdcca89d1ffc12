"""The default repository is made on first use, and never a second time in place of one that is gone."""

from pathlib import Path

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.errors import RepositoryNotFoundError
from tests.unit.builders import Shelf


def application(state: Path) -> Application:
    """As a new process would have it."""
    return Application(check({"state_dir": str(state), "timezone": "UTC"}, None))


def test_it_is_made_on_first_use_and_found_again(tmp_path: Path) -> None:
    made = application(tmp_path / "state").repository()
    assert application(tmp_path / "state").repository().id == made.id


def test_one_that_was_moved_away_is_not_made_anew_and_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = application(state).repository()
    made.root.rename(tmp_path / "elsewhere")
    with pytest.raises(RepositoryNotFoundError, match="there is none in"):
        application(state).repository()
    assert not made.root.exists()
    (tmp_path / "elsewhere").rename(made.root)
    assert application(state).repository().id == made.id


def test_one_of_a_version_that_left_no_note_is_guarded_from_its_next_use_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = application(state).repository()
    (state / "repository-made").unlink()
    application(state).repository()
    made.root.rename(tmp_path / "elsewhere")
    with pytest.raises(RepositoryNotFoundError):
        application(state).repository()


def names(state: Path, **settings: object) -> list[str]:
    fields = {"state_dir": str(state), "timezone": "UTC"} | settings
    return list(Application(check(fields, None)).repositories.listed())


def test_one_that_nobody_asked_for_is_not_listed_beside_another_default(tmp_path: Path) -> None:
    mine = {"name": "mine", "path": str(tmp_path / "mine")}
    assert names(tmp_path / "state") == ["default"]
    assert names(tmp_path / "state", repository=[mine]) == ["mine", "default"]
    assert names(tmp_path / "state", repository=[mine], default_repository="mine") == ["mine"]
    application(tmp_path / "state").repository()
    assert names(tmp_path / "state", repository=[mine], default_repository="mine") == ["mine"]


def test_one_that_a_remote_copies_is_listed_beside_another_default(tmp_path: Path) -> None:
    mine = {"name": "mine", "path": str(tmp_path / "mine")}
    nas = {"name": "nas", "url": "ssh://nas/folder", "of": "default"}
    assert names(tmp_path / "state", repository=[mine, nas], default_repository="mine") == ["mine", "default"]


def test_one_with_points_or_that_is_gone_is_listed_beside_another_default(tmp_path: Path) -> None:
    mine = {"name": "mine", "path": str(tmp_path / "mine")}
    made = application(tmp_path / "state").repository()
    Shelf(made.root).add()
    assert names(tmp_path / "state", repository=[mine], default_repository="mine") == ["mine", "default"]
    made.root.rename(tmp_path / "elsewhere")
    assert names(tmp_path / "state", repository=[mine], default_repository="mine") == ["mine", "default"]
