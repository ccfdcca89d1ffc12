"""What repositories and runs hold becomes facts of VMs."""

import shutil
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kvm_backup.domain.alert import AlertKind, Damage
from kvm_backup.domain.errors import (
    DamagedPointError,
    NoSpaceError,
    RepositoryNotFoundError,
    SettingsError,
    VmNotFoundError,
)
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import RunKind, RunState
from kvm_backup.domain.task import PruneTask, VerifyTask
from kvm_backup.repository.local import LocalRepository
from tests.unit.services.survey.conftest import DB, NOW, WEB, World

FULL_DISK = NoSpaceError("no space left", hint="Free some.")
DAMAGED = DamagedPointError("vda.qcow2 does not match its digest", hint="Restore another one.")


def test_points_are_counted_at_the_first_look(world: World) -> None:
    full = world.point()
    world.now += timedelta(hours=1)
    newest = world.point(parent=full)
    world.look()
    points = world.vm().points
    assert (points.last_point, points.last_point_at) == (newest.id, newest.created)
    assert (points.last_point_mode, points.last_point_repository) == (Mode.INCREMENTAL, "default")
    assert (points.chain_length, points.points) == (2, 2)
    assert points.bytes_stored == full.bytes_stored + newest.bytes_stored
    assert world.vm(DB).points.points == 0


def test_a_run_that_ended_brings_its_point_with_the_next_look(world: World) -> None:
    world.look()
    made = world.point()
    run = world.run(point=made.id)
    assert world.look(seconds=2)
    web = world.vm()
    assert web.points.last_point == made.id
    assert (web.runs.last_run, web.runs.last_run_state, web.runs.last_run_at) == (run.id, run.state, run.ended)


def test_points_that_a_prune_removed_are_gone_with_the_next_look(world: World) -> None:
    old = world.point()
    world.now += timedelta(days=1)
    world.point()
    world.look()
    shutil.rmtree(world.shelves[WEB].repository.path_of(old.id))
    world.run(kind=RunKind.PRUNE, requested_mode=None, task=PruneTask(old.folder))
    world.look(seconds=2)
    assert world.vm().points.points == 1


def test_a_run_is_taken_once_however_often_is_looked_and_after_a_restart(world: World) -> None:
    world.look()
    world.run(RunState.FAILED, error=FULL_DISK)
    world.look(seconds=2)
    world.look(seconds=2)
    world.restart()
    world.look(seconds=2)
    assert world.vm().runs.failed_runs == 1


def test_a_run_that_ended_while_the_service_was_down_is_taken_when_it_is_back(world: World) -> None:
    world.run()
    world.look(seconds=1)
    world.now += timedelta(days=20)
    missed = world.run(RunState.FAILED, error=FULL_DISK)
    world.restart()
    world.look(hours=1)
    assert world.vm().runs.failed_run == missed.id


def test_thousands_of_runs_that_end_within_a_minute_are_all_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvm_backup.services.survey.runs._AT_ONCE", 10)
    world.look()
    for number in range(35):
        world.now += timedelta(milliseconds=1 if number % 12 else 0)
        world.run(RunState.FAILED, error=FULL_DISK, seconds=1)
    world.look(seconds=2)
    assert world.vm().runs.failed_runs == 35
    assert not world.look(seconds=2)


def test_a_failed_run_alarms_until_one_succeeds_and_a_cancelled_one_says_nothing(world: World) -> None:
    world.look()
    world.run(RunState.FAILED, error=FULL_DISK)
    world.look(seconds=2)
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.facts["error"], wrong.facts["hint"]) == (
        AlertKind.RUN_FAILED,
        "no space left",
        "Free some.",
    )
    world.run(RunState.CANCELLED)
    world.look(seconds=2)
    assert world.vm().runs.last_run_state is RunState.CANCELLED
    assert [condition.kind for condition in world.wrong()] == [AlertKind.RUN_FAILED]
    world.run()
    world.look(seconds=2)
    assert world.wrong() == []


def test_the_failed_run_of_a_name_that_no_vm_has_alarms_as_long_as_a_schedule_says_it(world: World) -> None:
    schedule = world.schedule("wbe")
    world.look()
    world.run(RunState.FAILED, uuid=None, vm_name="wbe", error=VmNotFoundError("no VM is called 'wbe'", hint="x"))
    world.look(seconds=2)
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.subject.name) == (AlertKind.RUN_FAILED, "wbe")
    world.schedules.update(lambda before: [one for one in before if one.id != schedule.id])
    world.look(seconds=2)
    assert world.wrong() == []


def test_how_long_scheduled_runs_take_is_learnt(world: World) -> None:
    world.look()
    world.run(seconds=7200)
    world.look(seconds=2)
    assert world.vm().runs.usual == timedelta(hours=2)
    world.run(seconds=60, attempt=2)
    world.run(seconds=60)
    world.look(seconds=2)
    assert world.vm().runs.usual == timedelta(minutes=108)


def test_a_schedule_protects_its_vms_from_when_it_is_seen(world: World) -> None:
    world.point()
    world.look()
    schedule = world.schedule("web", DB)
    world.look(seconds=2)
    web, db = world.vm(), world.vm(DB)
    assert (web.protection, db.protection) == (Protection.PROTECTED, Protection.PENDING)
    assert web.schedule_ids == db.schedule_ids == (schedule.id,)
    assert web.next_due == NOW.replace(hour=2) + timedelta(days=1)
    world.look(hours=16)
    assert [(world.vm(uuid).protection, world.vm(uuid).overdue) for uuid in (WEB, DB)] == [
        (Protection.OVERDUE, True),
        (Protection.NEVER, True),
    ]
    assert {condition.kind for condition in world.wrong()} == {AlertKind.OVERDUE, AlertKind.NEVER_BACKED_UP}
    world.run(point=world.point().id)
    world.look(seconds=2)
    assert world.vm().protection is Protection.PROTECTED


def test_a_schedule_that_is_switched_off_promises_nothing(world: World) -> None:
    world.schedule("web")
    world.look()
    world.schedules.update(lambda before: [replace(one, enabled=False) for one in before])
    world.look(seconds=2)
    assert world.vm().protection is Protection.UNSCHEDULED


def test_what_a_restart_finds_promised_is_as_old_as_before(world: World) -> None:
    world.schedule("web")
    world.look()
    before = world.vm().promises
    world.restart()
    world.look(days=3)
    assert world.vm().promises == before
    assert world.vm().overdue


def test_a_schedule_that_cannot_be_planned_and_a_damaged_file_are_told(world: World) -> None:
    world.schedule("web", time="25:00")
    world.look()
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.subject.name) == (AlertKind.SCHEDULE_UNUSABLE, "nightly 0")
    world.schedules.path.write_text("{")
    world.look(seconds=2)
    assert AlertKind.SCHEDULES_FILE_DAMAGED in [condition.kind for condition in world.wrong()]


def test_a_settings_file_that_cannot_be_used_is_told_as_long_as_that_lasts(world: World) -> None:
    world.look()
    world.settings_problem = SettingsError("setting 'x': there is no such setting", hint="See the manual.")
    assert world.look(seconds=2)
    assert not world.look(seconds=2)
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.subject.name) == (AlertKind.SETTINGS_FILE_UNUSABLE, "alpha")
    assert wrong.facts == {"message": "setting 'x': there is no such setting", "hint": "See the manual."}
    world.settings_problem = None
    assert world.look(seconds=2)
    assert world.wrong() == []


def test_a_repository_that_is_away_is_told_and_its_points_stay_known(world: World) -> None:
    made = world.point()
    world.look()
    present = world.opened["default"]

    def away() -> LocalRepository:
        raise RepositoryNotFoundError("there is none", hint="Mount it.")

    world.opened["default"] = away
    for restarted in (False, True):
        if restarted:
            world.restart()
        world.look(hours=1)
        assert world.vm().points.last_point == made.id
        assert [condition.kind for condition in world.wrong()] == [AlertKind.REPOSITORY_AWAY]
    world.opened["default"] = present
    world.look(hours=1)
    assert world.wrong() == []


def test_a_point_whose_manifest_cannot_be_read_is_damaged_and_no_good_one(world: World) -> None:
    good = world.point()
    world.now += timedelta(hours=1)
    bad = world.point()
    whole = world.shelves[WEB].path(bad, "manifest.json").read_bytes()
    world.shelves[WEB].replace_manifest(bad, b"{}")
    world.look()
    assert world.vm().points.last_point == good.id
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.subject.name, wrong.facts["found_by"]) == (AlertKind.DAMAGED_POINT, bad.id, "manifest")
    world.shelves[WEB].replace_manifest(bad, whole)
    world.look(hours=1)
    assert world.wrong() == []
    assert world.vm().points.last_point == bad.id


def verified(
    world: World, point: Manifest, *damaged: Manifest, whole_vm: bool = False, deep: bool = False, **changes: Any
) -> None:
    """A verification of a point and its chain, or of all points of its VM, has ended."""
    ended: dict[str, Any] = {"point": point.id}
    if damaged:
        ended = {
            "state": RunState.FAILED,
            "error": DAMAGED,
            "point": damaged[0].id,
            "detail": "\n".join(f"{one.id}: vda.qcow2: bytes differ: all" for one in damaged),
        }
    task = VerifyTask(point.folder, None if whole_vm else point.id, deep)
    world.run(**(ended | {"kind": RunKind.VERIFY, "requested_mode": None, "task": task} | changes))
    world.look(seconds=2)


def test_what_a_verification_found_alarms_until_another_one_finds_the_point_whole(world: World) -> None:
    made = world.point()
    world.look()
    verified(world, made, made)
    [wrong] = world.wrong()
    assert (wrong.kind, wrong.facts["message"]) == (AlertKind.DAMAGED_POINT, "vda.qcow2: bytes differ: all")
    world.look(hours=1)
    assert world.vm().points.last_point is None
    verified(world, made)
    world.look(hours=1)
    assert world.wrong() == []
    assert world.vm().points.last_point == made.id


def test_a_verification_of_all_points_takes_back_what_it_found_whole(world: World) -> None:
    first = world.point()
    world.now += timedelta(hours=1)
    second = world.point()
    world.look()
    verified(world, first, first, second, whole_vm=True)
    assert {wrong.subject.name for wrong in world.wrong()} == {first.id, second.id}
    verified(world, first, second, whole_vm=True)
    assert [wrong.subject.name for wrong in world.wrong()] == [second.id]


def test_a_point_that_is_whole_speaks_for_those_it_builds_on_and_no_others(world: World) -> None:
    full = world.point()
    world.now += timedelta(hours=1)
    other = world.point()
    world.now += timedelta(hours=1)
    newest = world.point(parent=full)
    world.look()
    verified(world, full, full, other, whole_vm=True)
    verified(world, newest)
    assert [wrong.subject.name for wrong in world.wrong()] == [other.id]


def test_only_a_deep_verification_takes_back_what_a_deep_one_found(world: World) -> None:
    made = world.point()
    world.look()
    verified(world, made, made, deep=True)
    verified(world, made)
    assert [wrong.facts["found_by"] for wrong in world.wrong()] == ["deep verify"]
    verified(world, made, deep=True)
    assert world.wrong() == []


def test_a_verification_that_could_not_be_done_says_nothing_of_the_point(world: World) -> None:
    made = world.point()
    world.look()
    verified(world, made, state=RunState.FAILED, error=FULL_DISK)
    assert world.wrong() == []


def test_a_damaged_point_that_was_removed_alarms_no_longer(world: World) -> None:
    made = world.point()
    world.look()
    verified(world, made, made)
    shutil.rmtree(world.shelves[WEB].repository.path_of(made.id))
    world.look(hours=1)
    assert world.wrong() == []


def test_damage_that_was_known_before_a_restart_stays_known(world: World) -> None:
    made = world.point()
    world.look()
    world.restart()
    world.survey.begin(world.now, [Damage(made.id, "default", "x", "verify")])
    world.look(seconds=2)
    assert [condition.kind for condition in world.wrong()] == [AlertKind.DAMAGED_POINT]


def test_space_is_sampled_hourly(world: World) -> None:
    made = world.point()
    world.look()
    world.look(minutes=30)
    world.look(minutes=30)
    [first, second] = world.statistics.space(NOW)["default"]
    assert (first.at, second.at, first.used) == (NOW, NOW + timedelta(hours=1), made.bytes_stored)
    assert first.total > first.free > 0


def test_a_disk_without_room_is_told_for_repositories_and_our_own_folders(world: World) -> None:
    world.folders["scratch"] = world.folder
    world.folders["not made yet"] = world.folder / "nowhere"
    world.reserve = 2**60
    world.restart()
    world.look()
    found = [(condition.kind, condition.subject.name) for condition in world.wrong()]
    assert found == [(AlertKind.LOW_SPACE, "default"), (AlertKind.LOW_SPACE, "scratch")]


def test_a_run_of_another_host_is_none_of_ours(world: World) -> None:
    world.look()
    world.run(RunState.FAILED, error=FULL_DISK, host="beta")
    assert not world.look(seconds=2)


def test_what_commands_in_other_processes_did_is_seen_within_a_minute(world: World) -> None:
    old = world.point()
    world.now += timedelta(days=1)
    kept = world.point()
    world.look()
    shutil.rmtree(world.shelves[WEB].repository.path_of(old.id))
    assert world.look(minutes=1)
    assert world.vm().points.points == 1
    [sample] = world.statistics.space(world.now - timedelta(days=1))["default"]
    assert sample.used == kept.bytes_stored
    made = world.point(DB)
    assert world.look(minutes=1)
    assert world.vm(DB).points.last_point == made.id
    [sample] = world.statistics.space(world.now - timedelta(days=1))["default"]
    assert sample.used == kept.bytes_stored + made.bytes_stored
