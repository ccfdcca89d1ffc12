"""What follows a backup cannot make it fail."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.point import DiskMode, Manifest, Mode
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import events
from kvm_backup.services.backup import BackupService
from tests.unit.builders import REPOSITORY_ID, a_disk, a_manifest


@pytest.fixture
def back_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[bool, list[str]]]:
    """back_up(manifest, after): whether the backup succeeded, and what it noted."""

    def run(made: Manifest, after: Callable[[str], None]) -> tuple[bool, list[str]]:
        monkeypatch.setattr(BackupService, "_make_point", lambda *_: made)
        told: list[events.Event] = []
        service = BackupService(
            hypervisor=cast(Any, None),
            repository=LocalRepository("shelf", tmp_path, REPOSITORY_ID),
            folders=cast(Any, None),
            options_for=cast(Any, None),
            clock=lambda: datetime.now(UTC),
            listener=told.append,
            stop_requested=lambda: False,
            after_point=after,
        )
        finished, error = service.run("web", made.mode)
        assert told[-1] == finished
        return error is None and finished.error is None, [
            event.message for event in told if isinstance(event, events.Notice)
        ]

    return run


@pytest.mark.parametrize("problem", [StorageError("no", hint="Look."), ZeroDivisionError("no")])
def test_a_prune_that_fails_is_a_notice(back_up: Any, problem: Exception) -> None:
    def after(_vm: str) -> None:
        raise problem

    succeeded, (notice,) = back_up(a_manifest(), after)
    assert succeeded
    assert notice.startswith("old points could not be removed: ")


def test_a_point_that_holds_data_is_followed_by_a_prune_and_a_snapshot_is_not(back_up: Any) -> None:
    pruned: list[str] = []
    assert back_up(a_manifest(), pruned.append) == (True, [])
    disk = a_disk(mode=DiskMode.HOST, file=None, image_sha256=None, host_path="/a")
    assert back_up(a_manifest(mode=Mode.SNAPSHOT, snapshot="s", disks=(disk,)), pruned.append) == (True, [])
    assert pruned == [a_manifest().vm_uuid]
