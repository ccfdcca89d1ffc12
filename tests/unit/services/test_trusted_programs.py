"""A script of a schedule runs as root: who could change it would be root."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.errors import HookError
from kvm_backup.services.hooks import Happening, HookEvent, run_before
from kvm_backup.services.trusted_programs import open_to_others

NOBODY = 65534


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """In a folder of its own, in one that belongs to us alone."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    path = folder / "before"
    path.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    path.chmod(0o755)
    return path


def linked(script: Path) -> Path:
    """A link, in a folder that everybody may write in, to a script that nobody may change."""
    folder = script.parents[1] / "open"
    folder.mkdir()
    folder.chmod(0o777)
    link = folder / "link"
    link.symlink_to(script)
    return link


def test_a_script_of_ours_in_folders_of_ours_may_run(script: Path) -> None:
    assert open_to_others(str(script)) is None
    assert open_to_others("sh") is None
    assert open_to_others("/nonexistent/script") is None


@pytest.mark.parametrize(
    "weaken",
    [
        lambda script: script.chmod(0o775),
        lambda script: script.chmod(0o757),
        lambda script: script.parent.chmod(0o777),
        lambda script: script.parent.chmod(0o775),
        lambda script: script.parents[1].chmod(0o777),
        pytest.param(
            lambda script: os.chown(script, NOBODY, NOBODY),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
        pytest.param(
            lambda script: os.chown(script.parent, NOBODY, NOBODY),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_one_that_others_could_change_or_replace_does_not_run(
    script: Path, tmp_path: Path, weaken: Callable[[Path], None]
) -> None:
    weaken(script)
    happening = Happening(HookEvent.BEFORE, vm="web", run="r1", mode="full", repository="default")
    with pytest.raises(HookError, match="others may change") as raised:
        run_before((str(script),), happening, timeout=10.0, stop_requested=lambda: False)
    assert "chmod go-w" in raised.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_link_that_others_could_lead_elsewhere_is_as_bad(script: Path) -> None:
    link = linked(script)
    assert open_to_others(str(link)) == link.parent


def test_behind_a_link_the_file_itself_counts(script: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(script)
    assert open_to_others(str(link)) is None
    script.chmod(0o777)
    assert open_to_others(str(link)) == script


def test_a_folder_where_none_can_remove_what_is_not_theirs_is_good_enough(script: Path) -> None:
    script.parent.chmod(0o1777)
    assert open_to_others(str(script)) is None
