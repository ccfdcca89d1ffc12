"""Verifies, restores and prunes as runs: what they tell, what they leave, and what a second attempt does."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import KvmBackupError, TargetExistsError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.request import RunRequest
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.domain.run import RunState, Trigger
from kvm_backup.domain.task import InPlace, PruneTask, RestoreTask, Task, ToFolder, VerifyTask
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.language import told
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.services import events
from kvm_backup.services.prune import PruneService
from kvm_backup.services.recording import final_state
from kvm_backup.services.restore_task import uuid_of_new_vm
from kvm_backup.services.shipping.ship import ShipService
from kvm_backup.services.staging import Staging
from kvm_backup.services.stores.store import LocalStore
from kvm_backup.services.tasks import Outcome, TaskService
from kvm_backup.services.vm_lock import hold_vm
from tests.unit.builders import VM_UUID, Shelf, flip_bit

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def no_host() -> Hypervisor:
    """No point here is a snapshot, so that nobody asks libvirt."""
    raise AssertionError("libvirt was asked")


def no_remote(*_asked: object) -> ShipService:
    """Nothing is shipped here."""
    raise AssertionError("something was shipped")


class Bench:
    """A repository with a chain of three points, and what does tasks on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf(folder / "repository")
        self.points: list[Manifest] = [self.shelf.add()]
        for seed in (2, 3):
            self.points.append(self.shelf.add(self.points[-1], seed=seed))
        self.told: list[events.Event] = []
        self.stop_at_first_bytes = self.stopping = False

    @property
    def vm_folder(self) -> str:
        return self.points[0].id.split("/")[0]

    def do(self, task: Task, *, again: bool = False) -> Outcome:
        service = TaskService(
            open_store=lambda _name: LocalStore(self.shelf.repository),
            hypervisor=no_host,
            prune_service=self._prune_service,
            ship_service=no_remote,
            locks=lambda: self.folder / "locks",
            lock_wait=0.0,
        )
        asked = RunRequest("r1", "alpha", "web", task, "default", Trigger.WEB, MOMENT, vm_uuid=VM_UUID)
        return service.run(asked, self._tell, lambda: self.stopping, again=again)

    def kinds(self) -> list[str]:
        """What was told, without how far it was."""
        return [event.name for event in self.told if not isinstance(event, events.Progress)]

    def damage(self, point: Manifest) -> None:
        path = self.shelf.path(point)
        flip_bit(path, path.stat().st_size // 2)

    def _tell(self, event: events.Event) -> None:
        self.told.append(event)
        self.stopping = self.stopping or (self.stop_at_first_bytes and isinstance(event, events.Progress))

    def _prune_service(
        self, _name: str, listener: events.Listener, stop_requested: Callable[[], bool]
    ) -> PruneService:
        return PruneService(
            repository=self.shelf.repository,
            catalogue=Catalogue.open(self.folder / "catalogue.db"),
            locks=self.folder / "locks",
            rule_for=lambda _name, _uuid: RetentionRule(last=1, daily=0, weekly=0, monthly=0, yearly=0),
            zone=ZoneInfo("UTC"),
            lock_wait=0.0,
            space_reserve=0,
            level=1,
            listener=listener,
            stop_requested=stop_requested,
            remotes=(),
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def code(outcome: Outcome) -> str | None:
    return outcome[0].error_code


# Verify


def test_a_verify_of_a_vm_checks_each_of_its_points_and_tells_how_far_it_is(bench: Bench) -> None:
    finished, error = bench.do(VerifyTask(bench.vm_folder))
    assert error is None
    assert bench.kinds() == ["started", "step", "verified", "verified", "verified", "finished"]
    assert bench.told[-1] == finished
    assert (finished.point, finished.bytes_read) == (None, sum(point.bytes_stored for point in bench.points))
    last = [event for event in bench.told if isinstance(event, events.Progress)][-1]
    assert last.done == last.total > 0


def test_a_verify_of_a_point_checks_what_it_builds_on_and_no_more(bench: Bench) -> None:
    finished, error = bench.do(VerifyTask(bench.vm_folder, bench.points[1].id, deep=True))
    assert (error, finished.point) == (None, bench.points[1].id)
    verdicts = [event.verdict for event in bench.told if isinstance(event, events.PointVerified)]
    assert [(one.point, one.deep) for one in verdicts] == [(point.id, True) for point in bench.points[:2]]


def test_damaged_points_are_the_error_of_a_verify_the_first_by_name_and_all_in_the_detail(bench: Bench) -> None:
    bench.damage(bench.points[1])
    bench.shelf.path(bench.points[2]).unlink()
    finished, _ = bench.do(VerifyTask(bench.vm_folder))
    assert (finished.error_code, finished.point) == ("damaged-point", bench.points[1].id)
    assert finished.error is not None
    assert "2 of 3 points are damaged" in finished.error
    lines = (finished.detail or "").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[point.id, "vda.qcow2"] for point in bench.points[1:]]
    assert final_state(finished) is RunState.FAILED


def test_a_point_without_a_readable_manifest_is_found_damaged(bench: Bench) -> None:
    bench.shelf.replace_manifest(bench.points[2], b"{")
    finished, _ = bench.do(VerifyTask(bench.vm_folder, bench.points[2].id))
    assert (finished.error_code, finished.point) == ("damaged-point", bench.points[2].id)


def test_a_verify_of_what_is_not_there_fails(bench: Bench) -> None:
    assert code(bench.do(VerifyTask("gone--00000000"))) == "point-not-found"
    assert code(bench.do(VerifyTask("../..", "../../etc/passwd"))) == "point-not-found"
    assert code(bench.do(VerifyTask("../.."))) == "point-not-found"


@pytest.mark.parametrize("way", ["verify", "restore", "prune"])
def test_what_is_asked_to_stop_ends_as_cancelled_and_leaves_nothing(bench: Bench, way: str, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    tasks: dict[str, Task] = {
        "verify": VerifyTask(bench.vm_folder),
        "restore": RestoreTask(bench.points[2].id, ToFolder(str(target))),
        "prune": PruneTask(bench.vm_folder),
    }
    before = sorted(bench.shelf.root.rglob("*"))
    bench.stop_at_first_bytes = True
    finished, _ = bench.do(tasks[way])
    assert (finished.error_code, final_state(finished)) == ("cancelled", RunState.CANCELLED)
    assert any(isinstance(event, events.Progress) for event in bench.told)
    assert sorted(bench.shelf.root.rglob("*")) == before
    assert not target.exists()


# Prune


def test_a_prune_tells_what_became_of_the_points(bench: Bench) -> None:
    finished, error = bench.do(PruneTask(bench.vm_folder))
    assert error is None
    assert [point.id for point in bench.shelf.repository.all_points()] == [bench.points[2].id]
    [pruned] = [event.pruned for event in bench.told if isinstance(event, events.VmPruned)]
    assert [point.kept for point in pruned.points] == [False, False, True]
    detail = str(finished.detail)
    assert detail.startswith("points kept: 1, removed: 2, made full: 1; ")
    french = told(detail, "fr")
    assert french.startswith("points conservés\u202f: 1, supprimés\u202f: 2, devenus complets\u202f: 1\u202f; ")
    assert french.endswith((" libérés", " occupés en plus"))


def test_a_prune_of_a_vm_that_another_run_holds_fails(bench: Bench) -> None:
    with hold_vm(bench.folder / "locks", "web", VM_UUID, wait=0.0):
        finished, _ = bench.do(PruneTask(bench.vm_folder))
    assert finished.error_code == "vm-busy"
    assert len(list(bench.shelf.repository.all_points())) == 3


# Restore


def restored_to(bench: Bench, folder: Path, *, again: bool = False) -> Outcome:
    return bench.do(RestoreTask(bench.points[2].id, ToFolder(str(folder))), again=again)


def test_a_restore_to_a_folder_tells_its_files_and_what_it_wrote(bench: Bench, tmp_path: Path) -> None:
    finished, error = restored_to(bench, tmp_path / "restored")
    assert error is None
    [restored] = [event.restored for event in bench.told if isinstance(event, events.PointRestored)]
    assert {Path(disk.path).name for disk in restored.disks} == {"vda.qcow2"}
    assert (finished.point, finished.bytes_stored) == (bench.points[2].id, restored.disks[0].bytes_written)
    assert bench.kinds() == ["started", "step", "step", "restored", "finished"]


def test_a_second_attempt_goes_on_where_a_killed_one_had_put_files_in_place(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "restored"
    folder.mkdir()
    killed = Staging(folder)
    killed.__enter__()
    killed.path_for(folder / "vda.qcow2").write_bytes(b"half of it")
    killed.publish([folder / "vda.qcow2"])
    os.close(killed._lock)
    assert code(restored_to(bench, folder, again=True)) is None
    assert (folder / "vda.qcow2").stat().st_size > 100


def test_a_second_attempt_takes_what_a_killed_one_had_completed_for_its_result(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "restored"
    restored_to(bench, folder)
    before = (folder / "vda.qcow2").stat()
    finished, error = restored_to(bench, folder, again=True)
    assert (error, finished.point) == (None, bench.points[2].id)
    assert os.path.samestat((folder / "vda.qcow2").stat(), before)
    assert (folder / "vda.qcow2").stat().st_mtime_ns == before.st_mtime_ns


def test_what_stands_in_the_folder_and_is_another_points_stays(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "restored"
    bench.do(RestoreTask(bench.points[0].id, ToFolder(str(folder))))
    for again in (False, True):
        _, error = restored_to(bench, folder, again=again)
        assert isinstance(error, TargetExistsError)


def test_a_restore_of_a_damaged_point_writes_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.damage(bench.points[0])
    assert code(restored_to(bench, tmp_path / "restored")) == "damaged-point"
    assert not (tmp_path / "restored").exists()


def test_a_fault_of_ours_ends_the_run_with_a_record_of_it(bench: Bench) -> None:
    finished, error = bench.do(RestoreTask(bench.points[2].id, InPlace()))
    assert isinstance(error, KvmBackupError)
    assert "unexpected AssertionError: libvirt was asked" in (finished.error or "")


def test_a_run_knows_the_vm_that_it_makes_in_each_attempt() -> None:
    assert uuid_of_new_vm("r1") == uuid_of_new_vm("r1") != uuid_of_new_vm("r2")
