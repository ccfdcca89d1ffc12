"""What the audit log tells of requests: whatever changes something, and whatever is refused."""

import re
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from starlette.requests import Request

from kvm_backup.database.audit import AuditLog
from kvm_backup.domain.account import Actor, Outcome, Via
from kvm_backup.web.security.csrf import SAFE_METHODS

NOBODY = "-"
"""Who is not signed in."""
_STRANGERS_PER_MINUTE = 60
_MINUTE = 60.0
_WORDS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
_FILLED = re.compile(r"{[^}]*}")


def note(request: Request, action: str, subject: str = "", detail: str = "") -> None:
    """Say what this request does, in place of what its address tells; also for one that only reads.

    `action` is a stable word, `THING.VERB`, such as `schedule.delete`; `subject` what it is done to.
    """
    request.state.audit_note = (action, subject, detail)


def actor_of(request: Request) -> Actor:
    """Who sent the request."""
    actor: Actor = request.state.actor
    return actor


def address_of(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else "unknown"


class Auditor:
    """Writes down what requests did. Strangers fill the log with so many lines a minute, and not more."""

    def __init__(self, log: AuditLog, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic = monotonic
        self._lock = Lock()
        self._minute = 0
        self._lines = 0

    def request_ended(self, request: Request, status: int, refused: str = "") -> None:
        """`refused` is the code of the error by which the request was sent away."""
        given: tuple[str, str, str] | None = getattr(request.state, "audit_note", None)
        if given is None and request.method in SAFE_METHODS:
            return
        actor = actor_of(request)
        if actor.name == NOBODY and not self._within_budget():
            return
        action, subject, detail = given or (_action(request), _subject(request), "")
        outcome = Outcome.DONE
        if status in (401, 403) or refused:
            outcome = Outcome.REFUSED
        elif status >= 400:
            outcome = Outcome.FAILED
        why = refused or (str(status) if status >= 400 else "")
        self._log.add(actor, action, subject, outcome, ", ".join(text for text in (detail, why) if text))

    def _within_budget(self) -> bool:
        with self._lock:
            minute = int(self._monotonic() / _MINUTE)
            if minute != self._minute:
                self._minute, self._lines = minute, 0
            self._lines += 1
            return self._lines <= _STRANGERS_PER_MINUTE


def stranger(request: Request) -> Actor:
    """Who is not signed in, as the audit log names them."""
    return Actor(NOBODY, Via.WEB, address_of(request))


_SECRET_PATHS = ("/setup/",)
"""Whose addresses hold a secret, which no log may."""


def told_path(request: Request) -> str:
    """The address of a request as a log may hold it."""
    path = request.url.path
    return next((f"{start}…" for start in _SECRET_PATHS if path.startswith(start)), path)


def _action(request: Request) -> str:
    """`POST /schedules/{id}/enable` is `schedule.enable`, `POST /schedules` is `schedule.create`."""
    route: Any = request.scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        return f"{request.method.lower()} {told_path(request)}"
    parts = [part for part in _FILLED.sub("", path).removeprefix("/api/v1").split("/") if part]
    named = _FILLED.search(path.rsplit("/", 1)[-1]) is None and len(parts) > 1
    if parts:
        parts[0] = parts[0].removesuffix("s")
    if not named:
        parts.append(_WORDS.get(request.method, request.method.lower()))
    return ".".join(parts)


def _subject(request: Request) -> str:
    path = told_path(request)
    if request.scope.get("route") is None or path != request.url.path:
        return path
    return "/".join(str(value) for value in request.path_params.values())
