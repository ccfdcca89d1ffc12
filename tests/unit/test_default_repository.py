"""The default repository is made on first use, and never a second time in place of one that is gone."""

from pathlib import Path

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.errors import RepositoryNotFoundError


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
