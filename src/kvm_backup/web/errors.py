"""Failures as pages, as fragments for htmx, and as problem documents (RFC 9457) for the JSON API."""

import traceback
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvm_backup.domain import errors
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.web.context import render, wants_fragment
from kvm_backup.web.language import _, in_words
from kvm_backup.web.security.audit import told_path

API = "/api/"
_LONGEST_TRACEBACK = 4000
_STATUS: tuple[tuple[type[KvmBackupError], int], ...] = (
    (errors.NotSignedInError, 401),
    (errors.SignInError, 401),
    (errors.ForbiddenError, 403),
    (errors.ForgedRequestError, 403),
    (errors.InvitationError, 410),
    (errors.TooManyAttemptsError, 429),
    (errors.UserExistsError, 409),
    (errors.LastAdministratorError, 409),
    (errors.RequestTooLargeError, 413),
    (errors.BadArgumentError, 422),
    (errors.DatabaseError, 503),
    (errors.SchedulesFileError, 503),
    (errors.HypervisorUnavailableError, 503),
    (errors.RemoteUnreachableError, 503),
    (errors.HostKeyError, 409),
    (errors.RemoteAccessError, 409),
    (errors.RemoteSetupError, 409),
    (errors.RepositoryFormatError, 409),
    (errors.EncryptionKeyError, 422),
    (errors.DamagedManifestError, 422),
    (errors.DamagedPointError, 422),
    (errors.DamagedImageError, 422),
    (errors.BrokenChainError, 422),
    (errors.UnsupportedDiskError, 422),
    (errors.PointChangedError, 409),
    (errors.ScheduleChangedError, 409),
    (errors.VmBusyError, 409),
    (errors.VmRunningError, 409),
    (errors.VmStateChangedError, 409),
    (errors.TargetExistsError, 409),
    (errors.PointElsewhereError, 409),
    (errors.ForeignPointError, 409),
    (errors.NotConfirmedError, 422),
    (errors.NoSpaceError, 507),
)


def status_of(error: KvmBackupError) -> int:
    """The HTTP status that fits an error."""
    if error.exit_code == errors.EXIT_NOT_FOUND:
        return 404
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def add_error_pages(app: FastAPI) -> None:
    """Let every failure be told in the look of the page."""
    app.add_exception_handler(KvmBackupError, _on_our_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)


def failure(
    request: Request,
    status: int,
    message: str,
    hint: str = "",
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A failure as the one who asked reads it: JSON for the API, a message for htmx, else a page."""
    if _is_api(request):
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": code or HTTPStatus(status).phrase.lower().replace(" ", "-"),
            "detail": message,
            "hint": hint or None,
        }
        return JSONResponse(problem, status, headers, media_type="application/problem+json")
    into_messages = {"HX-Retarget": "#messages", "HX-Reswap": "innerHTML show:top"} if wants_fragment(request) else {}
    return render(
        request,
        "error.html",
        status=status,
        headers={**(headers or {}), **into_messages},
        title=_titles().get(status) or _("That did not work"),
        cause=message,
        hint=hint,
        error_status=status,
    )


def _titles() -> dict[int, str]:
    return {
        403: _("Not allowed"),
        404: _("Not found"),
        405: _("That did not work"),
        409: _("Not now"),
        422: _("That cannot be used"),
        503: _("Not available right now"),
    }


def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, KvmBackupError)
    return failure(request, status_of(error), in_words(error.message), in_words(error.hint), code=error.code)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code < 400:  # a dependency that sends the user elsewhere, such as to the login
        return Response(status_code=error.status_code, headers=headers)
    told = {
        400: _("The request cannot be read."),
        403: _("Your account may not do this."),
        404: _("There is no such page. What it showed may have been removed."),
        405: _("This address does not take such a request."),
    }
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    # What the framework says of it is for programs, and in English.
    given = error.detail if error.detail != HTTPStatus(error.status_code).phrase and _is_api(request) else None
    message = given or told.get(error.status_code) or HTTPStatus(error.status_code).phrase
    return failure(request, error.status_code, message, headers=headers)


def _methods(request: Request) -> list[str]:
    """What the address of a request does take: Starlette tells only what its first route there does."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path is not None and compile_path(route.path)[0].match(request.url.path):
            found |= route.methods or set()
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0] if error.errors() else {"loc": (), "msg": ""}
    place = ".".join(str(part) for part in first["loc"][1:]) or "?"
    if not _is_api(request):
        return failure(request, 422, _("{field} cannot be used.", field=place))
    return failure(request, 422, _("{field} cannot be used: {problem}", field=place, problem=first["msg"]))


def _is_api(request: Request) -> bool:
    return request.url.path.startswith(API)


class IncidentMiddleware:
    """An unexpected failure is logged with its traceback; the page tells only the number to look for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            if scope["type"] != "http":
                raise
            request = Request(scope)
            incident = await run_in_threadpool(_logged, request, error)
            if started:
                raise  # the server breaks the connection off, so that nobody takes the part for the whole
            await _incident_told(request, incident)(scope, receive, send)


def _logged(request: Request, error: Exception) -> str:
    incident = uuid4().hex[:12]
    log: Any = request.app.state.log
    with suppress(KvmBackupError):  # a full disk must not hide the page that tells of the incident
        log.error(
            "web-incident",
            incident=incident,
            method=request.method,
            path=told_path(request),
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error))[-_LONGEST_TRACEBACK:],
        )
    return incident


def _incident_told(request: Request, incident: str) -> Response:
    message = _("Something went wrong that should not. This is a fault of KVM Backup.")
    hint = _("Its log has the details under incident {incident}.", incident=incident)
    try:
        return failure(request, 500, message, hint)
    except Exception:  # noqa: BLE001 - what went wrong may be the frame of all pages
        return PlainTextResponse(f"{message} {hint}\n", status_code=500)
