"""Runs."""

from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime

from kvm_backup.database.history import RunFilter
from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import RunKind, RunState
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import Limit, problems
from kvm_backup.web.run_place import parse_place, place_of
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/runs", tags=["runs"])

_LINES_MAX = 10_000


@router.get("", responses=problems())
def list_runs(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    vm: Annotated[str | None, Query(max_length=300)] = None,
    state: Annotated[list[RunState] | None, Query()] = None,
    kind: RunKind | None = None,
    schedule: Annotated[str | None, Query(max_length=200)] = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    older: Annotated[str | None, Query(max_length=300)] = None,
    limit: Limit = 50,
) -> models.RunList:
    """Runs, the newest first. `vm` is a name or UUID; `older` is what the page before told."""
    wanted = RunFilter(
        vm=vm,
        states=tuple(state) if state else None,
        kind=kind,
        schedule_id=schedule,
        since=since,
        until=until,
    )
    found = application_of(request).history.newest(wanted, limit=limit + 1, older_than=_place(older))
    shown = found[:limit]
    more = place_of(shown[-1]) if len(found) > limit else None
    return models.RunList(runs=[models.Run.model_validate(run) for run in shown], older=more)


@router.get("/{run_id}", responses=problems(404))
def get_run(request: Request, user: Viewer, run_id: str) -> models.Run:  # noqa: ARG001
    """One run with its steps, by its id or a beginning of it that no other has."""
    return models.Run.model_validate(application_of(request).history.get(run_id))


@router.get("/{run_id}/log", responses=problems(404))
def get_run_log(request: Request, user: Viewer, run_id: str) -> models.Log:  # noqa: ARG001
    """Its lines in the log, as far as the log still has them."""
    application = application_of(request)
    run = application.history.get(run_id)
    with closing(application.log_reader(run.id, run.created)) as reader:
        return models.Log(lines=list(islice(reader.new_lines(), _LINES_MAX)))


@router.post("/{run_id}/cancel", status_code=202, responses=problems(404, 409))
def cancel_run(request: Request, user: Operator, run_id: str) -> models.Run:
    """Cancel it: one that has not begun ends now, one that goes on within seconds."""
    note(request, "run.cancel", run_id)
    return models.Run.model_validate(application_of(request).queue.cancel(run_id, who=user.name))


@router.post("/{run_id}/retry", status_code=202, responses=problems(404, 409))
def retry_run(request: Request, user: Operator, run_id: str) -> models.Run:
    """Do a run that has ended once more. The answer is the new run."""
    note(request, "run.retry", run_id)
    return models.Run.model_validate(application_of(request).queue.retry(run_id, who=user.name))


def _place(older: str | None) -> tuple[datetime, str] | None:
    """Raises BadArgumentError."""
    if older is None:
        return None
    place = parse_place(older)
    try:
        if place is not None:
            place[0].astimezone()
    except (ValueError, OverflowError):
        place = None
    if place is None:
        raise BadArgumentError(
            phrase("{older!r} is no place in the list of runs", older=older),
            hint=phrase("Give what the answer before told as 'older', or leave it out."),
        )
    return place
