"""Which runs must not keep others waiting: what only waits for a link has a queue, and turns, of its own."""

from datetime import UTC, datetime

import pytest

from kvm_backup.domain.point import Mode
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.run import Trigger
from kvm_backup.domain.task import AsNewVm, BackupTask, InPlace, PruneTask, RestoreTask, ShipTask, Task, VerifyTask

FOLDER = "web--1a2b3c4d"
POINT = f"{FOLDER}/20261122T020000Z"


def asked_for(task: Task, *, far: bool) -> RunRequest:
    return RunRequest("r1", "alpha", "web", task, "nas", Trigger.WEB, datetime(2026, 11, 22, tzinfo=UTC), far=far)


@pytest.mark.parametrize("task", [VerifyTask(FOLDER), PruneTask(FOLDER), RestoreTask(POINT, AsNewVm("web2"))])
def test_what_reads_from_another_server_takes_turns_with_nothing_but_its_like(task: Task) -> None:
    near, far = asked_for(task, far=False), asked_for(task, far=True)
    assert (near.crosses_link, near.queue_partition) == (False, "web")
    assert (far.crosses_link, far.queue_partition) == (True, "read:nas:web")


@pytest.mark.parametrize("far", [False, True])
def test_a_restore_in_place_takes_turns_with_the_backups_of_its_vm(far: bool) -> None:
    request = asked_for(RestoreTask(POINT, InPlace()), far=far)
    assert (request.crosses_link, request.queue_partition) == (False, "web")


def test_a_shipment_and_a_backup_are_apart() -> None:
    assert asked_for(ShipTask(FOLDER), far=False).queue_partition == "ship:nas:web"
    assert asked_for(BackupTask(Mode.FULL), far=False).queue_partition == "web"
