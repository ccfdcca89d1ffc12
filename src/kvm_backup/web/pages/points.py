"""One restore point: what is in it, and bringing it back: as a new VM, in place, a disk as a file; checking it."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response, StreamingResponse

from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import BadArgumentError, ForbiddenError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.task import AsNewVm, InPlace, RestoreTarget, ToFolder
from kvm_backup.services.queries import point_details
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.errors import status_of
from kvm_backup.web.formats import sentence
from kvm_backup.web.language import _
from kvm_backup.web.pages.vms import point_url
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/points/{repository}/{folder}/{stamp}", include_in_schema=False)

Text = Annotated[str, Form()]
_CHUNK = 1024 * 1024
WAYS = ("new-vm", "in-place", "folder")


@router.get("")
def point(request: Request, user: Viewer, repository: str, folder: str, stamp: str) -> Response:  # noqa: ARG001
    """The point and what can be done with it."""
    application = application_of(request)
    store = application.repository(repository)
    manifest = store.load(f"{folder}/{stamp}")
    everything = application.points_everywhere(manifest.vm_uuid).points
    own = [held.point for held in everything if held.repository == repository]
    return render(
        request,
        "points/point.html",
        point=manifest,
        details=point_details(store, manifest),
        repository=repository,
        at=point_url(repository, manifest.id),
        chain=_chain(manifest, own),
        children=[one for one in own if one.parent == manifest.id],
    )


@router.get("/restore")
def ask_restore(
    request: Request,
    user: Operator,  # noqa: ARG001 - who may do it
    repository: str,
    folder: str,
    stamp: str,
    way: Annotated[str, Query()] = "new-vm",
) -> Response:
    """The form of one way to restore."""
    typed = {"way": way if way in WAYS else "new-vm"}
    return _form(request, repository, f"{folder}/{stamp}", typed, {})


@router.post("/restore")
def restore(
    request: Request,
    user: Operator,
    repository: str,
    folder: str,
    stamp: str,
    way: Text = "",
    name: Text = "",
    start: Text = "",
    stop: Text = "",
    disks_in: Text = "",
    confirm: Text = "",
    to: Text = "",
    image_format: Text = "qcow2",
) -> Response:
    """Queue the restore; leads to its run."""
    typed = {
        "way": way,
        "name": name,
        "start": start,
        "stop": stop,
        "disks_in": disks_in,
        "to": to,
        "image_format": image_format,
        "confirm": confirm,
    }
    application = application_of(request)
    point_id = f"{folder}/{stamp}"
    manifest = application.repository(repository).load(point_id)
    note(request, "point.restore", f"{repository}:{point_id}", way)
    errors: dict[str, str] = {}
    if way == "in-place" and confirm.strip() != manifest.vm_name:
        errors["confirm"] = _("Type the name of the virtual machine to confirm: {name}", name=manifest.vm_name)
    if way == "new-vm" and not name.strip():
        errors["name"] = _("Give the new virtual machine a name.")
    if errors:
        return _form(request, repository, point_id, typed, errors, status=422)
    try:
        run = application.request_restore(point_id, _target(user, typed), repository, who=user.name)
    except KvmBackupError as error:
        field = {"new-vm": "name", "in-place": "confirm", "folder": "to"}.get(way, "way")
        told = {field: f"{sentence(error.message)} {sentence(error.hint)}"}
        return _form(request, repository, point_id, typed, told, status=status_of(error))
    return redirect(request, f"/runs/{quote(run.id, safe='')}", Message(_("The restore is queued.")))


@router.post("/verify")
def verify(request: Request, user: Operator, repository: str, folder: str, stamp: str, deep: Text = "") -> Response:
    """Check the point and all that it builds on; leads to the run."""
    note(request, "point.verify", f"{repository}:{folder}/{stamp}")
    run = application_of(request).request_verify(f"{folder}/{stamp}", repository, deep=bool(deep), who=user.name)
    return redirect(request, f"/runs/{quote(run.id, safe='')}", Message(_("The check is queued.")))


@router.get("/disks/{target}.qcow2")
def download(request: Request, user: Operator, repository: str, folder: str, stamp: str, target: str) -> Response:  # noqa: ARG001
    """A disk as one standalone qcow2 file."""
    note(request, "point.download", f"{repository}:{folder}/{stamp}", target)
    disk = application_of(request).open_disk(repository, f"{folder}/{stamp}", target)
    return StreamingResponse(
        disk.chunks(),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(disk.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(disk.name, safe='')}",
        },
    )


def _target(user: Account, typed: Mapping[str, str]) -> RestoreTarget:
    """Raises BadArgumentError, ForbiddenError: only an administrator may say where root writes."""
    disks_in = typed["disks_in"].strip() or None
    if (disks_in or typed["way"] == "folder") and not user.role.covers(Role.ADMINISTRATOR):
        raise ForbiddenError(
            phrase("only an administrator may choose the folder"), hint=phrase("Leave the folder empty.")
        )
    match typed["way"]:
        case "new-vm":
            return AsNewVm(typed["name"].strip(), disks_in, start=bool(typed["start"]))
        case "in-place":
            return InPlace(disks_in, stop=bool(typed["stop"]))
        case "folder":
            return ToFolder(typed["to"].strip(), "raw" if typed["image_format"] == "raw" else "qcow2")
        case other:
            raise BadArgumentError(
                phrase("{way!r} is no way to restore", way=other), hint=phrase("Choose one of the list.")
            )


def _form(
    request: Request,
    repository: str,
    point_id: str,
    typed: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    status: int = 200,
) -> Response:
    manifest = application_of(request).repository(repository).load(point_id)
    return render(
        request,
        "points/restore.html",
        status=status,
        point=manifest,
        repository=repository,
        at=point_url(repository, manifest.id),
        typed={"name": f"{manifest.vm_name}-restored", "image_format": "qcow2"} | dict(typed),
        errors=errors,
    )


def _chain(manifest: Manifest, own: list[Manifest]) -> list[Manifest]:
    """What the point builds on, the full one first, itself last."""
    by_id = {one.id: one for one in own}
    chain = [manifest]
    while chain[-1].parent is not None and (below := by_id.get(chain[-1].parent)) is not None:
        chain.append(below)
    return chain[::-1]
