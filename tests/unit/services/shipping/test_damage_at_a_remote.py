"""A verification that finds a point on another server damaged alarms until the point is whole or gone there."""

from datetime import timedelta

from kvm_backup.domain.alert import AlertKind, conditions
from kvm_backup.domain.errors import DamagedPointError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import VerifyTask
from tests.unit.services.shipping.conftest import Harbour


def verified(harbour: Harbour, point: Manifest, state: RunState) -> None:
    """A run that has checked it there, and a look at what came of it."""
    history = harbour.application.history
    number = len(history.newest(limit=100))
    run = history.create(
        Run(
            id=f"{number:032x}",
            vm_name="web",
            kind=RunKind.VERIFY,
            trigger=Trigger.WEB,
            host="alpha",
            repository="nas",
            requested_mode=None,
            state=RunState.QUEUED,
            created=harbour.now,
            task=VerifyTask(point.folder, point.id),
        )
    )
    history.start(run.id)
    told = RunResult()
    if state is RunState.FAILED:
        told = RunResult(error="damaged", error_code=DamagedPointError.code, detail=f"{point.id}: vda.qcow2: differs")
    history.finish(run.id, state, told)
    look(harbour)


def look(harbour: Harbour, **later: float) -> None:
    harbour.now += timedelta(**later)
    harbour.application.survey.look(harbour.now)


def alarms(harbour: Harbour) -> list[tuple[str, str]]:
    found = conditions(harbour.application.survey.situation())
    return [(one.subject.name, one.facts["repository"]) for one in found if one.kind is AlertKind.DAMAGED_POINT]


def test_damage_there_is_told_until_it_is_found_whole(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    harbour.arrive("nas", point)
    harbour.application.survey.begin(harbour.now)
    look(harbour)
    verified(harbour, point, RunState.FAILED)
    assert alarms(harbour) == [(point.id, "nas")]
    look(harbour, hours=2)
    assert alarms(harbour) == [(point.id, "nas")]
    verified(harbour, point, RunState.SUCCEEDED)
    assert alarms(harbour) == []


def test_a_damaged_point_that_went_there_alarms_no_longer(harbour: Harbour) -> None:
    point = harbour.shelf.add()
    harbour.arrive("nas", point)
    harbour.application.survey.begin(harbour.now)
    look(harbour)
    verified(harbour, point, RunState.FAILED)
    harbour.application.shipping.mirror("nas").forget(point.id)
    look(harbour, hours=2)
    assert alarms(harbour) == []
