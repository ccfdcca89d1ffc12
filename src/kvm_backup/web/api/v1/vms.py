"""Virtual machines."""

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from kvm_backup.database.inventory import VmFilter, VmSort
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.vm import VmState
from kvm_backup.services.queries import point_summary
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import Limit, Offset, Search, problems
from kvm_backup.web.language import in_words
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/vms", tags=["virtual machines"])


@router.get("", responses=problems())
def list_vms(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    search: Search = None,
    protection: Protection | None = None,
    state: VmState | None = None,
    gone: bool | None = None,
    sort: VmSort = VmSort.PROTECTION,
    descending: bool = False,
    offset: Offset = 0,
    limit: Limit = 50,
) -> models.VmList:
    """The virtual machines of this host, the worst protected first.

    `search` is a part of the name or the beginning of the UUID.
    """
    inventory = application_of(request).inventory
    wanted = VmFilter(search=search, protection=protection, state=state, gone=gone)
    found = inventory.page(wanted, sort=sort, descending=descending, offset=offset, limit=limit)
    vms = [models.Vm.model_validate(vm) for vm in found]
    return models.VmList(vms=vms, total=inventory.count(wanted), offset=offset, limit=limit)


@router.get("/{uuid}", responses=problems(404))
def get_vm(request: Request, user: Viewer, uuid: str) -> models.Vm:  # noqa: ARG001
    """One virtual machine."""
    return models.Vm.model_validate(application_of(request).inventory.get(uuid))


@router.get(
    "/{uuid}/xml", responses=problems(404) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def get_vm_xml(request: Request, user: Viewer, uuid: str) -> Response:  # noqa: ARG001
    """Its XML as libvirt has it now, without secrets."""
    application = application_of(request)
    return PlainTextResponse(application.hypervisor.live_xml(application.inventory.get(uuid).uuid))


@router.get("/{uuid}/points", responses=problems(404))
def list_points(request: Request, user: Viewer, uuid: str) -> models.PointList:  # noqa: ARG001
    """Its restore points in all repositories of the settings."""
    application = application_of(request)
    found = application.points.everywhere(application.inventory.get(uuid).uuid)
    points = [
        models.Point(
            **point_summary(application.store(held.repository), held.point, held.elsewhere, foreign=held.foreign)
            | {"repository": held.repository, "links": held.links}
        )
        for held in found.points
    ]
    return models.PointList(
        points=points, problems={name: in_words(error.message) for name, error in found.problems.items()}
    )


@router.post("/{uuid}/backup", status_code=202, responses=problems(404, 409))
def back_up(request: Request, user: Operator, uuid: str, wanted: models.BackupWanted) -> models.Run:
    """Back it up now. The answer is the run, which is queued."""
    application = application_of(request)
    vm = application.inventory.get(uuid)
    note(request, "vm.backup", vm.name, wanted.mode.value)
    run = application.queue.backup(vm.uuid, wanted.mode, wanted.repository, who=user.name)
    return models.Run.model_validate(run)
