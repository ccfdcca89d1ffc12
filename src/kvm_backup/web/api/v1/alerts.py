"""Alerts."""

from fastapi import APIRouter, Request

from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import Limit, Offset, alert_of, problems
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/alerts", tags=["alerts"])


@router.get("", responses=problems())
def list_alerts(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    past: bool = False,
    acknowledged: bool | None = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> models.AlertList:
    """Open alerts, the most severe first; with `past` all that ever were, the newest first."""
    alerts = application_of(request).alerts
    if past:
        found, total = alerts.history(offset=offset, limit=limit), alerts.count_history()
    else:
        found = alerts.open(acknowledged=acknowledged, offset=offset, limit=limit)
        total = alerts.count_open(acknowledged=acknowledged)
    shown = [alert_of(alert) for alert in found]
    return models.AlertList(alerts=shown, total=total, offset=offset, limit=limit)


@router.get("/{alert_id}", responses=problems(404))
def get_alert(request: Request, user: Viewer, alert_id: str) -> models.Alert:  # noqa: ARG001
    """One alert, over or not."""
    return alert_of(application_of(request).alerts.get(alert_id))


@router.post("/{alert_id}/acknowledge", responses=problems(404))
def acknowledge_alert(request: Request, user: Operator, alert_id: str) -> models.Alert:
    """Somebody has seen it: it counts no longer, until it is over and comes back."""
    note(request, "alert.acknowledge", alert_id)
    return alert_of(application_of(request).alerts.acknowledge(alert_id, user.name))
