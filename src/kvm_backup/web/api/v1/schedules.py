"""Schedules."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kvm_backup.services.schedules.commands import Changes, NewSchedule
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import Limit, Offset, Search, problems, schedule_of
from kvm_backup.web.scheduling import check_repository
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/schedules", tags=["schedules"])


@router.get("", responses=problems())
def list_schedules(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    search: Search = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> models.ScheduleList:
    """All schedules, or those whose name or VM holds `search`."""
    wanted = (search or "").casefold()
    found = [
        schedule
        for schedule in application_of(request).schedules.all()
        if wanted in schedule.name.casefold() or any(wanted in vm.casefold() for vm in schedule.vm_names)
    ]
    shown = [schedule_of(schedule) for schedule in found[offset : offset + limit]]
    return models.ScheduleList(schedules=shown, total=len(found), offset=offset, limit=limit)


@router.post("", status_code=201, responses=problems(409))
def add_schedule(request: Request, user: Operator, wanted: models.NewSchedule) -> models.Schedule:  # noqa: ARG001
    """Make a schedule. Scripts are set by an administrator, on a page or by the command line."""
    note(request, "schedule.add", wanted.name)
    application = application_of(request)
    check_repository(application, wanted.repository or "")
    new = NewSchedule(
        wanted.name,
        wanted.vm_names,
        wanted.schedule_type,
        wanted.schedule_time,
        wanted.backup_mode,
        repository=wanted.repository or "",
        keep=_as_typed(wanted.keep),
        ship_to=_ship_to(wanted.ship_to),
    )
    return schedule_of(application.schedules.add(new))


@router.get("/{schedule_id}", responses=problems(404))
def get_schedule(request: Request, user: Viewer, schedule_id: str) -> models.Schedule:  # noqa: ARG001
    """One schedule, by its id or a beginning of it that no other has."""
    return schedule_of(application_of(request).schedules.find(schedule_id))


@router.patch("/{schedule_id}", responses=problems(404, 409))
def change_schedule(
    request: Request,
    user: Operator,  # noqa: ARG001 - who may do it
    schedule_id: str,
    wanted: models.ScheduleChanges,
) -> models.Schedule:
    """Change a schedule; it is planned anew when its type or time changes."""
    note(request, "schedule.edit", schedule_id)
    application = application_of(request)
    schedule = application.schedules.find(schedule_id)
    check_repository(application, wanted.repository or "", schedule)
    changes = Changes(
        name=wanted.name,
        vm_names=wanted.vm_names,
        schedule_type=wanted.schedule_type,
        schedule_time=wanted.schedule_time,
        backup_mode=wanted.backup_mode,
        repository=wanted.repository,
        keep=_as_typed(wanted.keep),
        ship_to=_ship_to(wanted.ship_to) if "ship_to" in wanted.model_fields_set else None,
    )
    return schedule_of(application.schedules.edit(schedule.id, changes))


@router.delete("/{schedule_id}", status_code=204, responses=problems(404))
def remove_schedule(request: Request, user: Operator, schedule_id: str) -> Response:  # noqa: ARG001
    """Forget a schedule. Restore points stay."""
    note(request, "schedule.remove", schedule_id)
    application_of(request).schedules.remove(schedule_id)
    return Response(status_code=204)


@router.post("/{schedule_id}/enable", responses=problems(404))
def enable_schedule(request: Request, user: Operator, schedule_id: str) -> models.Schedule:  # noqa: ARG001
    """Let it run again, from its next time on."""
    note(request, "schedule.enable", schedule_id)
    return schedule_of(application_of(request).schedules.enable(schedule_id))


@router.post("/{schedule_id}/disable", responses=problems(404))
def disable_schedule(request: Request, user: Operator, schedule_id: str) -> models.Schedule:  # noqa: ARG001
    """Keep it from running until it is enabled again."""
    note(request, "schedule.disable", schedule_id)
    return schedule_of(application_of(request).schedules.disable(schedule_id))


@router.post("/{schedule_id}/run", status_code=202, responses=problems(404, 409))
def run_schedule(request: Request, user: Operator, schedule_id: str) -> models.RunsAsked:
    """Run it now: one run for each of its VMs. Its next time stays."""
    note(request, "schedule.run", schedule_id)
    runs = application_of(request).queue.schedule(schedule_id, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])


@router.get("/{schedule_id}/next", responses=problems(404))
def next_times(
    request: Request,
    user: Viewer,  # noqa: ARG001
    schedule_id: str,
    count: Annotated[int, Query(ge=1, le=100)] = 5,
) -> models.DueTimes:
    """Its next times, whether it is enabled or not."""
    schedules = application_of(request).schedules
    return models.DueTimes(times=schedules.next_times(schedules.find(schedule_id), count))


def _ship_to(names: list[str] | None) -> tuple[str, ...]:
    """Names as the service takes them: null is every server, an empty list none."""
    return ("default",) if names is None else tuple(names) or ("none",)


def _as_typed(keep: Mapping[Any, int | None]) -> dict[str, str]:
    """Numbers as a person would have typed them; null leaves a kind to the repository's rule again."""
    return {kind: "" if count is None else str(count) for kind, count in keep.items()}
