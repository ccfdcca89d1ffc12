"""Scheduled backups: the list, one schedule with its history, and what is done to them."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.database.history import RunFilter
from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import InvalidScheduleError, KvmBackupError, ScheduleNotFoundError
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.run import Run, RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import ScheduleType
from kvm_backup.services.schedules.state import ScheduleState
from kvm_backup.web.context import Message, redirect, render, wants_fragment
from kvm_backup.web.language import _, ngettext
from kvm_backup.web.once import asked_once
from kvm_backup.web.pages import schedule_words
from kvm_backup.web.pages.schedule_rows import SORTS, Wish, listing, one_row
from kvm_backup.web.preferences import local_path
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(include_in_schema=False)

LIST = "/schedules"
CHANGED = {"HX-Trigger": "schedules-changed"}
"""Lets the list of the open page look again."""
_NEXT_TIMES = 5
_VMS_SHOWN = 100
_RUNS_SHOWN = 25
_GOING_LOOKED_AT = 500
_ENDED = tuple(state for state in RunState if state.final)

Page = Annotated[int, Query(ge=1, le=1_000_000)]


@router.get(LIST)
def schedules(
    request: Request,
    user: Viewer,
    q: Annotated[str, Query(max_length=200)] = "",
    state: str = "",
    type: str = "",  # noqa: A002 - the parameter's name in the address
    sort: str = "next",
    page: Page = 1,
) -> Response:
    """The list. What it cannot be filtered or sorted by counts as not given."""
    application = application_of(request)
    wish = Wish(
        search=q,
        state=state if state in list(ScheduleState) else "",
        type=type if type in list(ScheduleType) else "",
        sort=sort if sort in SORTS else "next",
        page=page,
    )
    found, problem = application.schedule_file.read_or_last_good()
    return render(
        request,
        "schedules/_list.html" if wants_fragment(request) else "schedules/list.html",
        listing=listing(found, wish, application.history),
        wish=wish,
        problem=problem,
        may_change=may_change(user) and problem is None,
        words=schedule_words,
    )


@router.post("/schedules/{schedule_id:path}/enable")
def enable(request: Request, user: Operator, schedule_id: str) -> Response:
    """Let it run again."""
    schedule = noted(request, schedule_id, "schedule.enable")
    enabled = application_of(request).schedules.enable(schedule.id)
    return _done(request, user, enabled, _("{name} is enabled.", name=enabled.name))


@router.post("/schedules/{schedule_id:path}/disable")
def disable(request: Request, user: Operator, schedule_id: str) -> Response:
    """Keep it from running."""
    schedule = noted(request, schedule_id, "schedule.disable")
    disabled = application_of(request).schedules.disable(schedule.id)
    return _done(request, user, disabled, _("{name} is disabled.", name=disabled.name))


@router.post("/schedules/{schedule_id:path}/run")
def run(request: Request, user: Operator, schedule_id: str) -> Response:
    """Back its VMs up now; its next time stays."""
    schedule = noted(request, schedule_id, "schedule.run")
    application = application_of(request)
    started = asked_once(request, user, lambda: application.queue.schedule(schedule.id, who=user.name))
    text = ngettext(
        "{name}: {count} backup was asked for.",
        "{name}: {count} backups were asked for.",
        len(started),
        name=schedule.name,
    )
    return _done(request, user, schedule, text)


@router.get("/schedules/{schedule_id:path}/delete")
def ask_to_delete(request: Request, user: Operator, schedule_id: str) -> Response:  # noqa: ARG001 - who may
    """What goes and what stays, before it goes."""
    schedule = exact(application_of(request), schedule_id)
    return render(request, "schedules/delete.html", schedule=schedule, at=address(schedule), words=schedule_words)


@router.post("/schedules/{schedule_id:path}/delete")
def delete(request: Request, user: Operator, schedule_id: str) -> Response:  # noqa: ARG001 - who may
    """Forget it; points and runs stay."""
    schedule = noted(request, schedule_id, "schedule.delete")
    removed = application_of(request).schedules.remove(schedule.id)
    message = Message(_("{name} is deleted. Its restore points stay.", name=removed.name))
    if from_list(request):
        return render(request, "fragment.html", message=message, headers=CHANGED)
    return redirect(request, LIST, message)


@router.get("/schedules/{schedule_id:path}")
def schedule_page(
    request: Request,
    user: Viewer,
    schedule_id: str,
    vms: str = "",
) -> Response:
    """One schedule: what it does, when, for which VMs, and what came of it."""
    application = application_of(request)
    schedule, problem = shown(application, schedule_id)
    names = schedule.vm_names if vms == "all" else schedule.vm_names[:_VMS_SHOWN]
    return render(
        request,
        "schedules/_schedule.html" if wants_fragment(request) else "schedules/schedule.html",
        schedule=schedule,
        row=one_row(schedule, application.history),
        at=address(schedule),
        problem=problem,
        may_change=may_change(user) and problem is None,
        next_times=_next_times(application, schedule),
        vms=[(name, record) for name, record in known_vms(application, names).items()],
        unknown=unknown_vms(application, schedule.vm_names),
        going=_going(application, schedule),
        ended=application.history.newest(RunFilter(schedule_id=schedule.id, states=_ENDED), limit=_RUNS_SHOWN),
        default_repository=application.settings.default_repository,
        remotes=application.shipping.remotes,
        words=schedule_words,
    )


def may_change(user: Account) -> bool:
    """Whether pages offer this user what changes something."""
    return user.role.covers(Role.OPERATOR)


def address(schedule: Schedule) -> str:
    """Where a schedule's page is."""
    return f"{LIST}/{quote(schedule.id, safe='')}"


def shown(application: Application, schedule_id: str) -> tuple[Schedule, KvmBackupError | None]:
    """A schedule by its whole id, and why what is known of it may be old.

    Raises ScheduleNotFoundError; what is wrong with the file when nothing is known.
    """
    known, problem = application.schedule_file.read_or_last_good()
    found = next((schedule for schedule in known if schedule.id == schedule_id), None)
    if found is not None:
        return found, problem
    if problem is not None:
        raise problem
    raise ScheduleNotFoundError(
        phrase("there is no such schedule"), hint=phrase("Somebody may have deleted it meanwhile.")
    )


def exact(application: Application, schedule_id: str) -> Schedule:
    """A schedule that can be changed now, by its whole id. Raises ScheduleNotFoundError, SchedulesFileError."""
    schedule, problem = shown(application, schedule_id)
    if problem is not None:
        raise problem
    return schedule


def noted(request: Request, schedule_id: str, action: str) -> Schedule:
    """The same, for which the audit log tells what is done to it."""
    note(request, action, schedule_id)
    schedule = exact(application_of(request), schedule_id)
    note(request, action, schedule.name, schedule.id)
    return schedule


def known_vms(application: Application, names: Sequence[str]) -> dict[str, VmRecord | None]:
    """VMs by what a schedule calls them; None for one that this host does not know. Raises DatabaseError."""
    found = application.inventory.named(names)
    return {name: found.get(name) for name in names}


def unknown_vms(application: Application, names: Sequence[str]) -> list[str]:
    """Names that no VM of this host has, once its VMs were listed. Raises DatabaseError."""
    if application.inventory.host_facts().listed is None:
        return []
    return [name for name, record in known_vms(application, names).items() if record is None]


def from_list(request: Request) -> bool:
    """Whether a dialog over the list asks, which then changes in its place."""
    return wants_fragment(request) and urlsplit(request.headers.get("hx-current-url", "")).path == LIST


def _next_times(application: Application, schedule: Schedule) -> Sequence[object]:
    try:
        return application.schedules.next_times(schedule, _NEXT_TIMES)
    except InvalidScheduleError:
        return ()


def _going(application: Application, schedule: Schedule) -> list[Run]:
    found = application.history.going(application.host, limit=_GOING_LOOKED_AT)
    return [run for run in found if run.schedule_id == schedule.id][:_RUNS_SHOWN]


def _done(request: Request, user: Account, schedule: Schedule, text: str) -> Response:
    """The row again, or the page that the form was on."""
    if wants_fragment(request):
        row = one_row(schedule, application_of(request).history)
        return render(
            request, "schedules/_row.html", row=row, said=text, may_change=may_change(user), words=schedule_words
        )
    came_from = urlsplit(request.headers.get("referer", ""))
    back = local_path(came_from.path + (f"?{came_from.query}" if came_from.query else ""))
    return redirect(request, back if back.startswith(LIST) else address(schedule), Message(text))
