"""What is the same in every route: which problems it may answer with, pages, and values made from ours."""

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse

from kvm_backup.domain import alert_text
from kvm_backup.domain.alert import Alert
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.state import state_of
from kvm_backup.web import formats
from kvm_backup.web.api.v1 import models
from kvm_backup.web.language import in_words

PROBLEM = "application/problem+json"
_WHY = {
    400: "The body is no JSON.",
    401: "Nobody is signed in, or the token is not valid.",
    403: "The account may not do this, or the request was forged.",
    404: "There is no such thing.",
    409: "It cannot be done now, or something of that name exists.",
    413: "The request is too large.",
    422: "Something that was sent cannot be used.",
    500: "It failed; the problem tells why.",
    503: "The database or libvirt does not answer.",
    507: "There is not enough space.",
}

Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Limit = Annotated[int, Query(ge=1, le=500)]
Search = Annotated[str | None, Query(max_length=200)]


class ProblemResponse(JSONResponse):
    """Tells the documentation how problems are sent."""

    media_type = PROBLEM


def problems(*more: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for its documentation; those of every route are among them."""
    return {
        status: {
            "description": _WHY[status],
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({400, 401, 403, 413, 422, 500, 503, *more})
    }


def schedule_of(schedule: Schedule) -> models.Schedule:
    """Scripts are not told: they are commands of root."""
    return models.Schedule(
        id=schedule.id,
        name=schedule.name,
        vm_names=list(schedule.vm_names),
        schedule_type=schedule.schedule_type,
        schedule_time=schedule.schedule_time,
        backup_mode=schedule.backup_mode,
        enabled=schedule.enabled,
        state=state_of(schedule),
        last_run=schedule.last_run,
        next_run=schedule.next_run,
        created_at=schedule.created_at,
        repository=schedule.repository,
        retention=models.Retention.model_validate(schedule.retention),
        ship_to=None if schedule.ship_to is None else list(schedule.ship_to),
    )


def alert_of(alert: Alert) -> models.Alert:
    """With its texts in the language of the request."""
    return models.Alert(
        id=alert.id,
        kind=alert.kind,
        severity=alert.severity,
        subject=models.Subject.model_validate(alert.subject),
        host=alert.host,
        raised=alert.raised,
        last_seen=alert.last_seen,
        resolved=alert.resolved,
        acknowledged_at=alert.acknowledged_at,
        acknowledged_by=alert.acknowledged_by,
        title=in_words(alert_text.title(alert, formats.size)),
        cause=in_words(alert_text.cause(alert, formats.size)),
        advice=in_words(alert_text.advice(alert)),
    )
