"""Backup tasks: what runs, what waits, what has ended; one run with its steps, figures and log."""

from collections import deque
from contextlib import closing, suppress
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.database.history import RunFilter
from kvm_backup.database.inventory import VmFilter
from kvm_backup.domain.errors import KvmBackupError, VmNotFoundError
from kvm_backup.domain.run import Run, RunKind, RunState
from kvm_backup.domain.task import RestoreTask, is_in_place
from kvm_backup.services.run_views import restore_words, run_details
from kvm_backup.web.context import Message, redirect, render, wants_fragment
from kvm_backup.web.language import _
from kvm_backup.web.log_lines import LogLine, log_line
from kvm_backup.web.once import asked_once
from kvm_backup.web.run_place import parse_place, place_of
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/runs", include_in_schema=False)

_LINES = 50
_VMS_SEARCHED = 50
_LOG_LINES_MAX = 2000
UNFINISHED = (RunState.RUNNING, RunState.QUEUED, RunState.WAITING)
_STATES = {
    "unfinished": UNFINISHED,
    "bad": (RunState.FAILED, RunState.INTERRUPTED),
} | {state.value: (state,) for state in RunState}


@router.get("")
def runs(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    q: Annotated[str, Query(max_length=200)] = "",
    state: str = "",
    kind: str = "",
    vm: Annotated[str, Query(max_length=300)] = "",
    schedule: Annotated[str, Query(max_length=200)] = "",
    day: str = "",
    older: Annotated[str, Query(max_length=300)] = "",
) -> Response:
    """The list, newest first; unknown values of the filters are as if they were not there."""
    application = application_of(request)
    since, until = _day(day, application.zone)
    wanted = RunFilter(
        vms=_vms(application, q.strip(), vm),
        states=_STATES.get(state),
        kind=RunKind(kind) if kind in list(RunKind) else None,
        schedule_id=schedule or None,
        since=since,
        until=until,
    )
    found = application.history.newest(wanted, limit=_LINES + 1, older_than=parse_place(older))
    more = len(found) > _LINES
    shown = found[:_LINES]
    plain = not (older or state or kind or q or vm or schedule or day)
    return render(
        request,
        "runs/_list.html" if wants_fragment(request) else "runs/runs.html",
        going=application.history.going(application.host, limit=_LINES) if plain else [],
        counted=application.history.counts_unfinished(application.host) if plain else {},
        runs=[run for run in shown if run.state.final] if plain else shown,
        filtered=not plain,
        q=q,
        state=state,
        kind=kind,
        day=day if since else "",
        vm=vm,
        vm_name=_name_of(application, vm),
        schedule=schedule,
        older=older,
        next_page=place_of(shown[-1]) if more else None,
    )


@router.get("/{run_id}")
def one_run(request: Request, user: Viewer, run_id: str) -> Response:  # noqa: ARG001
    """One run; as a fragment, what of it changes."""
    application = application_of(request)
    run = application.history.get(run_id)
    return render(
        request,
        "runs/_run.html" if wants_fragment(request) else "runs/run.html",
        run=run,
        details=run_details(run),
        restored=restore_words(run.task) if isinstance(run.task, RestoreTask) else "",
        left_off=run.state is RunState.SUCCEEDED and run.task is not None and is_in_place(run.task),
        log=_log(application, run),
        log_lines_max=_LOG_LINES_MAX,
        may_retry=may_retry(run),
    )


@router.post("/{run_id}/cancel")
def cancel(request: Request, user: Operator, run_id: str) -> Response:
    """Ask a run to end; one that has not begun ends now."""
    note(request, "run.cancel", run_id)
    run = application_of(request).queue.cancel(run_id, who=user.name)
    text = (
        _("The run is cancelled.") if run.state.final else _("The run was asked to end; it does so within seconds.")
    )
    return redirect(request, f"/runs/{run.id}", Message(text))


@router.post("/{run_id}/retry")
def retry(request: Request, user: Operator, run_id: str) -> Response:
    """Do a run that has ended once more, as a new one."""
    note(request, "run.retry", run_id)
    run = asked_once(request, user, lambda: application_of(request).queue.retry(run_id, who=user.name))
    return redirect(request, f"/runs/{run.id}", Message(_("This is the new run.")))


def may_retry(run: Run) -> bool:
    """Whether a button offers to do it again: a restore is asked for anew, with its own questions."""
    return run.state.final and run.kind is not RunKind.RESTORE


def _vms(application: Application, searched: str, vm: str) -> tuple[str, ...] | None:
    """The names and UUIDs that a search means; a name that the inventory does not have may still have runs."""
    if vm:
        name = _name_of(application, vm)
        return (vm, name) if name else (vm,)
    if not searched:
        return None
    known = application.inventory.page(VmFilter(search=searched), limit=_VMS_SEARCHED)
    return (searched, *(name for one in known for name in (one.name, one.uuid)))


def _name_of(application: Application, vm: str) -> str:
    with suppress(VmNotFoundError):
        return application.inventory.find(vm).name if vm else ""
    return vm


def _day(text: str, zone: ZoneInfo) -> tuple[datetime | None, datetime | None]:
    """From the day's first moment to the next day's."""
    with suppress(ValueError, OverflowError):
        day = date.fromisoformat(text)
        return datetime.combine(day, time(), zone), datetime.combine(day + timedelta(days=1), time(), zone)
    return None, None


def _log(application: Application, run: Run) -> list[LogLine] | None:
    """Its newest lines; None when the log cannot be read."""
    try:
        with closing(application.log_reader(run.id, run.created)) as reader:
            lines: deque[dict[str, Any]] = deque(reader.new_lines(), _LOG_LINES_MAX)
    except KvmBackupError:
        return None
    return [log_line(line) for line in lines]
