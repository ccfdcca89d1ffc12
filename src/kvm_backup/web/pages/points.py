"""One restore point: what is in it, and bringing it back: as a new VM, in place, a disk as a file; checking it."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import BadArgumentError, ForeignPointError, KvmBackupError, VmRunningError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.services.point_places import PlacedPoint
from kvm_backup.services.power import SHUTDOWN_PATIENCE
from kvm_backup.services.queries import point_details
from kvm_backup.services.stores.store import unnamed_hint
from kvm_backup.services.stores.trust import foreign_warning, require_trust
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.disk_response import disk_response
from kvm_backup.web.errors import status_of
from kvm_backup.web.formats import sentence
from kvm_backup.web.language import _
from kvm_backup.web.once import asked_once
from kvm_backup.web.pages.vms import point_url
from kvm_backup.web.restoring import WAYS, restore_target
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/points/{repository}/{folder}/{stamp}", include_in_schema=False)

Text = Annotated[str, Form()]
Typed = Annotated[str, Query(max_length=4096)]

_FIELDS = {
    "new-vm": ("name", "start", "disks_in"),
    "in-place": ("stop", "disks_in"),
    "folder": ("to", "image_format"),
}
"""What each way to restore asks for, and what its form hands to that of another way: no confirmation is among it."""


@router.get("")
def point(request: Request, user: Viewer, repository: str, folder: str, stamp: str) -> Response:  # noqa: ARG001
    """The point and what can be done with it."""
    application = application_of(request)
    store = application.repositories.configured_store(repository)
    manifest = store.view.load(f"{folder}/{stamp}")
    own = application.points.held_by(repository, manifest.vm_uuid)
    details = point_details(store, manifest)
    return render(
        request,
        "points/point.html",
        point=manifest,
        details=details,
        foreign=foreign_warning(store, manifest.id),
        way_there=unnamed_hint(details["elsewhere"]) if details["elsewhere"] else "",
        repository=repository,
        at=point_url(repository, manifest.id),
        chain=_chain(manifest, own),
        remotes=application.settings.remotes(),
        place=_place(application, manifest, repository),
        path_by_hand=_path_there(store.place_of(manifest.id)),
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
    name: Typed = "",
    start: Typed = "",
    stop: Typed = "",
    disks_in: Typed = "",
    to: Typed = "",
    image_format: Typed = "",
) -> Response:
    """The form of one way to restore, with what was typed in that of another."""
    before = {
        "name": name,
        "start": start,
        "stop": stop,
        "disks_in": disks_in,
        "to": to,
        "image_format": image_format,
    }
    typed = {"way": way if way in WAYS else "new-vm"} | {field: text for field, text in before.items() if text}
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
    foreign: Text = "",
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
        "foreign": foreign,
    }
    application = application_of(request)
    point_id = f"{folder}/{stamp}"
    store = application.repositories.configured_store(repository)
    manifest = store.view.load(point_id)
    note(request, "point.restore", f"{repository}:{point_id}", way)
    try:
        target = restore_target(
            user,
            manifest,
            way=way,
            name=name,
            start=bool(start),
            confirm=confirm,
            stop=bool(stop),
            disks_in=disks_in,
            folder=to,
            image_format="raw" if image_format == "raw" else "qcow2",
        )
        hint = phrase("Restore a point that this host has shipped; or tick the box if you trust it.")
        require_trust(store, point_id, agreed=bool(foreign), hint=hint)
        run = asked_once(
            request,
            user,
            lambda: application.queue.restore(point_id, target, repository, who=user.name),
            target,
        )
    except KvmBackupError as error:
        told = {_field_of(error, way, name, disks_in): f"{sentence(error.message)} {sentence(error.hint)}"}
        return _form(request, repository, point_id, typed, told, status=status_of(error))
    return redirect(request, f"/runs/{quote(run.id, safe='')}", Message(_("The restore is queued.")))


@router.post("/verify")
def verify(request: Request, user: Operator, repository: str, folder: str, stamp: str, deep: Text = "") -> Response:
    """Check the point and all that it builds on; leads to the run."""
    note(request, "point.verify", f"{repository}:{folder}/{stamp}")
    application = application_of(request)
    run = asked_once(
        request,
        user,
        lambda: application.queue.verify(f"{folder}/{stamp}", repository, deep=bool(deep), who=user.name),
        bool(deep),
    )
    return redirect(request, f"/runs/{quote(run.id, safe='')}", Message(_("The check is queued.")))


@router.get("/disks/{target}.qcow2")
def download(request: Request, user: Operator, repository: str, folder: str, stamp: str, target: str) -> Response:  # noqa: ARG001
    """A disk as one standalone qcow2 file."""
    note(request, "point.download", f"{repository}:{folder}/{stamp}", target)
    return disk_response(application_of(request).work.open_disk(repository, f"{folder}/{stamp}", target))


def _field_of(error: KvmBackupError, way: str, name: str, disks_in: str) -> str:
    """The field of the form at which an error is told."""
    if isinstance(error, ForeignPointError):
        return "foreign"
    if isinstance(error, VmRunningError) and way == "in-place":
        return "stop"
    is_nameless = way == "new-vm" and not name.strip()
    is_relative = bool(disks_in.strip()) and not disks_in.strip().startswith("/")
    if isinstance(error, BadArgumentError) and is_relative and not is_nameless:
        return "disks_in"
    return {"new-vm": "name", "in-place": "confirm", "folder": "to"}.get(way, "way")


def _form(
    request: Request,
    repository: str,
    point_id: str,
    typed: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    status: int = 200,
) -> Response:
    store = application_of(request).repositories.configured_store(repository)
    manifest = store.view.load(point_id)
    asked = _FIELDS.get(typed["way"], _FIELDS["new-vm"])
    kept = {field for fields in _FIELDS.values() for field in fields if field not in asked}
    return render(
        request,
        "points/restore.html",
        status=status,
        point=manifest,
        foreign=foreign_warning(store, manifest.id),
        repository=repository,
        at=point_url(repository, manifest.id),
        place=_place(application_of(request), manifest, repository),
        typed={"name": f"{manifest.vm_name}-restored", "image_format": "qcow2"} | dict(typed),
        asked=asked,
        kept={field: text for field, text in typed.items() if field in kept and text},
        errors=errors,
        shutdown_seconds=round(SHUTDOWN_PATIENCE),
    )


def _path_there(path: str) -> str:
    """The folder of a point as whoever is logged in where it is names it."""
    return urlsplit(path).path if path.startswith("ssh://") else path


def _place(application: Application, manifest: Manifest, repository: str) -> PlacedPoint | None:
    found = application.points.placed(manifest.vm_uuid).points
    return next((one for one in found if one.point.id == manifest.id and one.is_in(repository)), None)


def _chain(manifest: Manifest, own: list[Manifest]) -> list[Manifest]:
    """What the point builds on, the full one first, itself last."""
    by_id = {one.id: one for one in own}
    chain = [manifest]
    while chain[-1].parent is not None and (below := by_id.get(chain[-1].parent)) is not None:
        chain.append(below)
    return chain[::-1]
