"""The host as a whole: what the first page shows."""

from fastapi import APIRouter, Request

from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import problems, schedule_of
from kvm_backup.web.security.access import Viewer, application_of

router = APIRouter(tags=["host"])


@router.get("/overview", responses=problems())
def get_overview(request: Request, user: Viewer) -> models.Overview:  # noqa: ARG001
    """What the first page shows."""
    facts = application_of(request).overview.read()
    return models.Overview(
        now=facts.now,
        host=application_of(request).host,
        libvirt_listed=facts.host.listed,
        libvirt_away_since=facts.host.away_since,
        protection=models.ProtectionCounts.model_validate(facts.protection),
        unacknowledged=facts.unacknowledged,
        running=facts.running,
        queued=facts.queued,
        waiting=facts.waiting,
        schedules=facts.schedules,
        schedules_enabled=facts.schedules_enabled,
        next=[schedule_of(schedule) for schedule in facts.coming],
        space=[
            models.Space(
                repository=one.name,
                at=one.last.at,
                used=one.last.used,
                free=one.last.free,
                total=one.last.total,
                growth=one.growth,
                full_in_days=one.full_in_days,
            )
            for one in facts.space
        ],
        days=[
            models.Day(
                day=day.day.isoformat(),
                succeeded=day.succeeded,
                failed=day.failed,
                cancelled=day.cancelled,
                bytes_read=day.bytes_read,
                bytes_stored=day.bytes_stored,
            )
            for day in facts.days
        ],
    )
