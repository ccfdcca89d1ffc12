"""Alerts: what is wrong until it is over or somebody has seen it, and what was."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from kvm_backup.web.context import Message, redirect, render, wants_fragment
from kvm_backup.web.language import _
from kvm_backup.web.preferences import local_path
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/alerts", include_in_schema=False)

_LINES = 50
_PAGES_MAX = 10_000


@router.get("")
def alerts(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    page: Annotated[int, Query(ge=1, le=_PAGES_MAX)] = 1,
    past: bool = False,
) -> Response:
    """Open alerts, or with `past` all that ever were."""
    service = application_of(request).alerts
    offset = (page - 1) * _LINES
    if past:
        shown, total = service.history(offset=offset, limit=_LINES), service.count_history()
    else:
        shown, total = service.open(offset=offset, limit=_LINES), service.count_open()
    return render(
        request,
        "alerts/_list.html" if wants_fragment(request) else "alerts/alerts.html",
        alerts=shown,
        past=past,
        total=total,
        page=page,
        pages=max(1, -(-total // _LINES)),
        unacknowledged=service.count_open_unacknowledged(),
    )


@router.get("/banner")
def banner(request: Request, user: Viewer) -> Response:  # noqa: ARG001 - who may look
    """What every page tells at its top, while there is something to tell."""
    return render(request, "alerts/_banner.html")


@router.post("/{alert_id}/acknowledge")
def acknowledge(
    request: Request, user: Operator, alert_id: str, back: Annotated[str, Form()] = "/alerts"
) -> Response:
    """Somebody has seen it: it counts no longer, until it is over and comes back."""
    note(request, "alert.acknowledge", alert_id)
    application_of(request).alerts.acknowledge(alert_id, user.name)
    return redirect(request, local_path(back), Message(_("The alert is acknowledged.")))
