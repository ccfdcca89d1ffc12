"""The scripts of a schedule that a user starts by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvm_backup.domain.errors import HookError, NoSpaceError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.task import BackupTask
from kvm_backup.services import events
from kvm_backup.services.scripted import Outcome, run_with_scripts

REQUEST = RunRequest(
    run_id="r1",
    host="alpha",
    vm="web",
    task=BackupTask(Mode.INCREMENTAL),
    repository="nas",
    trigger=Trigger.COMMAND,
    created=datetime(2026, 11, 22, 2, 0, tzinfo=UTC),
    schedule_id="1a",
    schedule_name="Nightly",
)
DONE: Outcome = (events.Finished("web", "incremental", point="p", mode="full"), None)


@pytest.fixture
def said(tmp_path: Path) -> Path:
    path = tmp_path / "said"
    path.write_text("")
    return path


def script(said: Path, name: str, status: int = 0) -> tuple[str, ...]:
    """A script that writes down what it is told."""
    path = said.with_name(name)
    path.write_text(
        f"#!/bin/sh\necho {name} $KVM_BACKUP_HOOK_EVENT $KVM_BACKUP_HOOK_VM $KVM_BACKUP_HOOK_SCHEDULE"
        f" $KVM_BACKUP_HOOK_POINT $KVM_BACKUP_HOOK_ERROR_CODE >> {said}\nexit {status}\n"
    )
    path.chmod(0o755)
    return (str(path),)


def run(
    said: Path, outcome: Outcome, *, pre_script: tuple[str, ...] = (), post_script: tuple[str, ...] = ()
) -> tuple[Outcome, list[events.Event]]:
    request = replace(REQUEST, pre_script=pre_script, post_script=post_script)
    told: list[events.Event] = []

    def back_up() -> Outcome:
        with said.open("a") as file:
            file.write("backup\n")
        return outcome

    ended = run_with_scripts(request, back_up, listener=told.append, stop_requested=lambda: False, timeout=20.0)
    return ended, told


def test_both_are_called_around_the_backup_and_told_what_happens(said: Path) -> None:
    ended, told = run(said, DONE, pre_script=script(said, "pre"), post_script=script(said, "post"))
    assert (ended, told) == (DONE, [])
    assert said.read_text().splitlines() == ["pre before web Nightly", "backup", "post succeeded web Nightly p"]


def test_a_failing_script_before_fails_the_run_before_anything_starts(said: Path) -> None:
    (finished, error), told = run(said, DONE, pre_script=script(said, "pre", 3), post_script=script(said, "post"))
    assert isinstance(error, HookError)
    assert told == [finished]
    assert finished.error_code == "hook"
    assert said.read_text().splitlines() == ["pre before web Nightly", "post failed web Nightly hook"]


def test_a_failing_script_after_is_shown_and_changes_nothing(said: Path) -> None:
    ended, [notice] = run(said, DONE, post_script=script(said, "post", 3))
    assert ended == DONE
    assert isinstance(notice, events.Notice)
    assert "the script after the run failed" in notice.message


def test_the_script_after_is_told_of_a_failure(said: Path) -> None:
    error = NoSpaceError("disk full", hint="Free some.")
    run(said, (events.failed("web", "incremental", error, 1.0), error), post_script=script(said, "post"))
    assert said.read_text().splitlines() == ["backup", "post failed web Nightly no-space"]
