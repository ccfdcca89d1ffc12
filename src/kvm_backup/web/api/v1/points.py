"""Restore points."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from kvm_backup.domain.phrase import phrase
from kvm_backup.services.queries import point_details
from kvm_backup.services.stores.trust import require_trust
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import problems
from kvm_backup.web.disk_response import disk_response
from kvm_backup.web.restoring import restore_target
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/points/{repository}/{folder}/{stamp}", tags=["restore points"])
_QCOW2 = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("", responses=problems(404))
def get_point(request: Request, user: Viewer, repository: str, folder: str, stamp: str) -> models.PointDetails:  # noqa: ARG001
    """All that its manifest tells."""
    store = application_of(request).repositories.configured_store(repository)
    return models.PointDetails(**point_details(store, store.view.load(f"{folder}/{stamp}")))


@router.post("/verify", status_code=202, responses=problems(404, 409))
def verify_point(
    request: Request, user: Operator, repository: str, folder: str, stamp: str, wanted: models.VerifyWanted
) -> models.Run:
    """Check it and all that it builds on. The answer is the run."""
    note(request, "point.verify", f"{repository}:{folder}/{stamp}")
    run = application_of(request).queue.verify(f"{folder}/{stamp}", repository, deep=wanted.deep, who=user.name)
    return models.Run.model_validate(run)


@router.post("/restore", status_code=202, responses=problems(404, 409, 507))
def restore_point(
    request: Request, user: Operator, repository: str, folder: str, stamp: str, wanted: models.RestoreWanted
) -> models.Run:
    """Bring it back. The answer is the run."""
    application = application_of(request)
    point_id = f"{folder}/{stamp}"
    note(request, "point.restore", f"{repository}:{point_id}", wanted.way)
    store = application.repositories.configured_store(repository)
    manifest = store.view.load(point_id)
    target = restore_target(user, manifest, **wanted.model_dump(exclude={"foreign"}))
    hint = phrase('Restore a point that this host has shipped; or send "foreign": true if you trust it.')
    require_trust(store, point_id, agreed=wanted.foreign, hint=hint)
    run = application.queue.restore(point_id, target, repository, who=user.name)
    return models.Run.model_validate(run)


@router.get("/disks/{target}", responses=problems(404, 409, 507) | {200: {"content": _QCOW2}})
def download_disk(
    request: Request,
    user: Operator,  # noqa: ARG001 - who may do it
    repository: str,
    folder: str,
    stamp: str,
    target: str,
) -> Response:
    """A disk as one qcow2 file that needs no other."""
    note(request, "point.download", f"{repository}:{folder}/{stamp}", target)
    return disk_response(application_of(request).work.open_disk(repository, f"{folder}/{stamp}", target))
