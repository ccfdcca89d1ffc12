"""The cookies that tell browsers apart. Scripts cannot read them, and other sites cannot send them along."""

import re

from starlette.requests import Request
from starlette.responses import Response

from kvm_backup.domain.account import SESSION_TIME

_SESSION = "kvm_backup_session"
_FORM = "kvm_backup_form"
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def session_secret(request: Request) -> str | None:
    """What the browser shows to be signed in, when it has the shape of one of ours."""
    return _secret(request, _SESSION)


def form_secret(request: Request) -> str | None:
    """What ties the forms of somebody who is not signed in to one browser."""
    return _secret(request, _FORM)


def keep_session(request: Request, response: Response, secret: str) -> None:
    """Sign the browser in; the cookie of its forms has done its work."""
    _set(request, response, _SESSION, secret, int(SESSION_TIME.total_seconds()))
    _delete(request, response, _FORM)


def keep_form(request: Request, response: Response, secret: str) -> None:
    """Until the browser is closed."""
    _set(request, response, _FORM, secret, None)


def drop_session(request: Request, response: Response) -> None:
    """Sign the browser out."""
    _delete(request, response, _SESSION)


def _name(request: Request, name: str) -> str:
    # Behind TLS the prefix makes browsers take the cookie from this host alone, with Secure, for all paths.
    return f"__Host-{name}" if _secure(request) else name


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _secret(request: Request, name: str) -> str | None:
    value = request.cookies.get(_name(request, name), "")
    return value if _SECRET.fullmatch(value) else None


def _set(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=_secure(request),
        httponly=True,
        samesite="lax",
    )


def _delete(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(_name(request, name), path="/", secure=_secure(request), httponly=True, samesite="lax")
