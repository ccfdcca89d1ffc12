"""Virtual machines: how each is protected; one of them with its points, runs and XML; backing it up now."""

from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.database.history import RunFilter
from kvm_backup.database.inventory import VmFilter, VmSort
from kvm_backup.domain.errors import KvmBackupError, ScheduleNotFoundError
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.vm import VmState
from kvm_backup.services.point_places import PlacedPoint, PlacedPoints
from kvm_backup.services.schedules.commands import find
from kvm_backup.web import formats
from kvm_backup.web.calendar_rows import calendar_days, calendar_rows
from kvm_backup.web.context import Message, places, redirect, render, wants_fragment
from kvm_backup.web.drawing import Timeline, timeline
from kvm_backup.web.language import _
from kvm_backup.web.once import asked_once
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/vms", include_in_schema=False)

_LINES = 50
_RUNS = 20
_PAGES_MAX = 100_000
_SHORTEST_LINE = timedelta(days=7)
GONE = "gone"


@router.get("")
def vms(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    q: Annotated[str, Query(max_length=200)] = "",
    protection: str = "",
    state: str = "",
    sort: str = VmSort.PROTECTION,
    page: Annotated[int, Query(ge=1, le=_PAGES_MAX)] = 1,
) -> Response:
    """The list; unknown values of the filters are as if they were not there."""
    application = application_of(request)
    inventory = application.inventory
    wanted = VmFilter(
        search=q.strip() or None,
        protection=Protection(protection) if protection in list(Protection) else None,
        state=VmState(state) if state in list(VmState) else None,
        gone=True if protection == GONE else None,
    )
    order = VmSort(sort) if sort in list(VmSort) else VmSort.PROTECTION
    total = inventory.count(wanted)
    shown = inventory.page(
        wanted,
        sort=order,
        descending=order in (VmSort.SIZE, VmSort.STORED, VmSort.POINTS),
        offset=(page - 1) * _LINES,
        limit=_LINES,
    )
    return render(
        request,
        "vms/_list.html" if wants_fragment(request) else "vms/vms.html",
        vms=shown,
        schedules=_names_of_schedules(application),
        counts=inventory.counts(),
        host_facts=inventory.host_facts(),
        total=total,
        page=page,
        pages=max(1, -(-total // _LINES)),
        q=q,
        protection=protection,
        state=state,
        sort=order,
        filtered=bool(q or protection or state),
    )


@router.get("/{uuid}")
def one_vm(request: Request, user: Viewer, uuid: str) -> Response:  # noqa: ARG001
    """One VM; as a fragment, what of it changes."""
    application = application_of(request)
    vm = application.inventory.get(uuid)
    look = application.points.look(vm)
    points = look.placed
    calendar = application.calendar.of([vm])
    return render(
        request,
        "vms/_vm.html" if wants_fragment(request) else "vms/vm.html",
        vm=vm,
        points=points,
        facts=look.facts,
        by_path=look.by_path,
        line=_timeline(request, points),
        schedules=_schedules(application, vm),
        remotes=application.shipping.remotes,
        runs=application.history.newest(RunFilter(vms=(vm.uuid, vm.name)), limit=_RUNS),
        days=calendar_days([vm], calendar),
        rows=calendar_rows([vm], calendar),
    )


@router.get("/{uuid}/xml")
def xml(request: Request, user: Viewer, uuid: str) -> Response:  # noqa: ARG001
    """The VM's XML as libvirt has it now, without secrets."""
    application = application_of(request)
    vm = application.inventory.get(uuid)
    problem: KvmBackupError | None = None
    text = ""
    try:
        text = application.hypervisor.live_xml(vm.uuid)
    except KvmBackupError as error:
        problem = error
    return render(request, "vms/xml.html", vm=vm, xml=text, problem=problem)


@router.get("/{uuid}/backup")
def ask_backup(request: Request, user: Operator, uuid: str, mode: str = "") -> Response:  # noqa: ARG001
    """The form that asks in which mode and where to."""
    application = application_of(request)
    return render(
        request,
        "vms/backup.html",
        vm=application.inventory.get(uuid),
        mode=mode if mode in list(Mode) else Mode.INCREMENTAL.value,
        repository_options=[(name, name) for name in sorted(application.settings.repositories())],
        default_repository=application.settings.default_repository,
    )


@router.post("/{uuid}/backup")
def back_up(
    request: Request,
    user: Operator,
    uuid: str,
    mode: Annotated[str, Form()] = Mode.INCREMENTAL.value,
    repository: Annotated[str, Form()] = "",
) -> Response:
    """Back it up now; leads to the run."""
    application = application_of(request)
    vm = application.inventory.get(uuid)
    wanted = Mode(mode) if mode in list(Mode) else Mode.INCREMENTAL
    note(request, "vm.backup", vm.name, wanted.value)
    run = asked_once(
        request,
        user,
        lambda: application.queue.backup(vm.uuid, wanted, repository or None, who=user.name),
        wanted,
        repository,
    )
    return redirect(request, f"/runs/{quote(run.id, safe='')}", Message(_("The backup is queued.")))


def _names_of_schedules(application: Application) -> dict[str, str]:
    """By id; what a VM is protected by may be removed a moment ago, and lacks then."""
    known, _problem = application.schedule_file.read_or_last_good()
    return {schedule.id: schedule.name for schedule in known}


def _schedules(application: Application, vm: VmRecord) -> list[Schedule]:
    known, _problem = application.schedule_file.read_or_last_good()
    found = []
    for schedule_id in vm.schedule_ids:
        try:
            found.append(find(known, schedule_id))
        except ScheduleNotFoundError:
            continue  # removed a moment ago
    return found


def _timeline(request: Request, points: PlacedPoints) -> Timeline | None:
    if not points.points:
        return None
    zone = application_of(request).zone
    remotes = application_of(request).shipping.remotes
    now = datetime.now(UTC)
    start = min(points.points[-1].point.created, now - _SHORTEST_LINE)
    moments = [
        (
            held.point.created,
            "foreign" if held.foreign else held.point.mode.value,
            point_url(held.repository, held.point.id),
            f"{formats.clock_time(held.point.created, zone)} · {_size_or_place(held, remotes)}",
        )
        for held in points.points
    ]
    return timeline(moments, start, now, zone, formats.short_day)


def _size_or_place(held: PlacedPoint, remotes: Container[str]) -> str:
    if held.foreign:
        return _("{size}, not from this host").format(size=formats.size(held.point.bytes_stored))
    if held.elsewhere is None:
        return formats.size(held.point.bytes_stored)
    return _("at {names}").format(names=places(held.elsewhere, remotes)) if held.elsewhere else _("lost")


def point_url(repository: str, point_id: str) -> str:
    """The page of a point."""
    return "/points/" + "/".join(quote(part, safe="") for part in (repository, *point_id.split("/")))
