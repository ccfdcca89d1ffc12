"""Repositories: those on this host, those on other servers, and what waits to be shipped there."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.web.context import Message, redirect, render, wants_fragment
from kvm_backup.web.language import _, ngettext
from kvm_backup.web.once import asked_once
from kvm_backup.web.pages import schedule_words
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/repositories", include_in_schema=False)

LIST = "/repositories"
_LINES = 50
_PAGES_MAX = 100_000


@router.get("")
def repositories(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    q: Annotated[str, Query(max_length=200)] = "",
    remote: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=_PAGES_MAX)] = 1,
) -> Response:
    """The page, or what of it changes; a remote that nobody knows is as if it was not asked for."""
    application = application_of(request)
    there = application.places.there()
    wanted = remote if remote in {one.name for one in there} else ""
    queue = application.places.queue(
        remote=wanted or None, search=q.strip() or None, offset=(page - 1) * _LINES, limit=_LINES
    )
    stuck, stuck_total = application.places.unshippable(remote=wanted or None, search=q.strip() or None, limit=_LINES)
    return render(
        request,
        "repositories/_list.html" if wants_fragment(request) else "repositories/repositories.html",
        here_places=application.places.here(),
        there=there,
        queue=queue,
        unshippable=stuck,
        unshippable_total=stuck_total,
        q=q,
        remote=wanted,
        page=page,
        pages=max(1, -(-queue.total // _LINES)),
        words=schedule_words,
    )


@router.post("/{name}/ship")
def ship_all(request: Request, user: Operator, name: str) -> Response:
    """Ship everything now that waits for a remote."""
    note(request, "repository.ship", name)
    runs = asked_once(request, user, lambda: application_of(request).queue.ship(name, who=user.name))
    text = ngettext(
        "{count} shipment to {name} begins now.", "{count} shipments to {name} begin now.", len(runs), name=name
    )
    return redirect(request, LIST, Message(text))


@router.post("/{name}/ship/{folder}")
def ship_one(request: Request, user: Operator, name: str, folder: str) -> Response:
    """Ship now what waits of one VM: a run that waits until later begins at once."""
    note(request, "repository.ship", name, folder)
    [run] = asked_once(request, user, lambda: application_of(request).queue.ship(name, folder, who=user.name))
    return redirect(request, LIST, Message(_("{vm} is shipped to {name} now.", vm=run.vm_name, name=name)))


@router.post("/{name}/cancel/{folder}")
def cancel(request: Request, user: Operator, name: str, folder: str) -> Response:
    """End the run that ships a VM. What waits stays, and is asked for again."""
    note(request, "repository.cancel", name, folder)
    application = application_of(request)
    run = application.places.run_of(name, folder)
    if run is None:
        raise PointNotFoundError(
            phrase("nothing of it is being shipped to {name}", name=name),
            hint=phrase("It may have arrived meanwhile: the page of repositories shows it."),
        )
    asked = application.queue.cancel(run.id, who=user.name)
    text = (
        _("The shipment is cancelled.")
        if asked.state.final
        else _("The shipment was asked to end; it does so within seconds.")
    )
    hint = _("What waits stays: it is shipped with the next backup, within the hour, or by a press on Ship now.")
    return redirect(request, LIST, Message(text, "info", hint))
