"""Who is asking, and whether they may.

`AccessMiddleware` stands before every route and lets nothing through that is not allowed: without a session or a
token only what `_open_to_all` lists, and to change something a token of the session's own page (csrf.py) and the role
`_least_role` names. Routes ask for more by the dependencies below:

    @router.post("/schedules")
    def add(request: Request, user: Operator, ...) -> Response:

Every request has `request.state.user` (an Account, or None) and `request.state.csrf_token`.
"""

import time
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Account, Actor, Role, Session, Via, role_word
from kvm_backup.domain.errors import DatabaseError, ForbiddenError, KvmBackupError, NotSignedInError
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.secrets import new_secret
from kvm_backup.web.context import wants_fragment
from kvm_backup.web.errors import API, failure, status_of
from kvm_backup.web.language import in_words
from kvm_backup.web.preferences import local_path
from kvm_backup.web.security import csrf
from kvm_backup.web.security.audit import Auditor, address_of, stranger, told_path
from kvm_backup.web.security.sessions import drop_session, form_secret, keep_form, session_secret

LOGIN = "/login"
SETUP = "/setup/"
_API_DOCS = f"{API}docs"
"""The one page below the API's address."""
_RECHECK_SECONDS = 15.0
"""How long an answer that goes on, such as live events, lives on after its session has ended."""


def viewer(request: Request) -> Account:
    """Who is signed in. Raises NotSignedInError."""
    return _at_least(request, Role.VIEWER)


def operator(request: Request) -> Account:
    """Raises NotSignedInError, ForbiddenError."""
    return _at_least(request, Role.OPERATOR)


def administrator(request: Request) -> Account:
    """Raises NotSignedInError, ForbiddenError."""
    return _at_least(request, Role.ADMINISTRATOR)


Viewer = Annotated[Account, Depends(viewer)]
Operator = Annotated[Account, Depends(operator)]
Administrator = Annotated[Account, Depends(administrator)]


def application_of(request: Request) -> Application:
    """What the pages work with."""
    application: Application = request.app.state.application
    return application


def session_of(request: Request) -> Session | None:
    """The session that the request belongs to; None when it came with a token."""
    session: Session | None = request.state.session
    return session


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who asks, and what they showed: the text of a token, or the secret of a session."""

    user: Account | None = None
    session: Session | None = None
    secret: str = ""
    token: str | None = None
    token_name: str = ""


class AccessMiddleware:
    """Stands inside those for language and errors."""

    def __init__(self, app: ASGIApp, application: Application) -> None:
        self.app = app
        self._application = application
        self._auditor = Auditor(application.audit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # we serve none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        _nobody_yet(request)
        status = 500
        refused = ""

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            caller = await run_in_threadpool(self._caller, request)
            _introduce(request, caller)
            receive = await self._checked(request, caller, receive)
        except KvmBackupError as error:
            refused = error.code
            answer = await run_in_threadpool(_refusal, request, error)
            await answer(scope, receive, noting_status)
        else:
            await self._pass_on(request, caller, receive, noting_status)
        finally:
            if request.url.path != LOGIN:
                await run_in_threadpool(self._audit, request, status, refused)

    def _caller(self, request: Request) -> _Caller:
        """Raises NotSignedInError for a token that is not valid, DatabaseError."""
        token = _bearer(request)
        if token is not None:
            holder = self._application.api_tokens.who(token)
            if holder is None:
                raise _not_signed_in(phrase("the token is unknown, revoked or expired"))
            return _Caller(user=holder[0], token=token, token_name=holder[1].name)
        secret = session_secret(request)
        if secret is None or _open_to_all(request):
            return _Caller()
        found = self._application.sign_in.who(secret)
        return _Caller() if found is None else _Caller(user=found[0], session=found[1], secret=secret)

    async def _checked(self, request: Request, caller: _Caller, receive: Receive) -> Receive:
        """Raises NotSignedInError, ForbiddenError, ForgedRequestError, RequestTooLargeError, ClientDisconnect."""
        open_to_all = _open_to_all(request)
        if caller.user is None and not open_to_all:
            raise _not_signed_in(phrase("you are not signed in"))
        if request.method not in csrf.SAFE_METHODS:
            body, receive = await csrf.read_body(request.headers, receive)
            if caller.token is None:
                csrf.check(request.headers, body, _form_owner(request, caller))
        if not open_to_all:
            if caller.token is not None and _for_people(request):
                raise ForbiddenError(
                    phrase("a token cannot do this"), hint=phrase("Sign in with a browser, or use the command line.")
                )
            _at_least(request, _least_role(request))
        return receive

    async def _pass_on(self, request: Request, caller: _Caller, receive: Receive, send: Send) -> None:
        new_form = request.state.new_form
        checked, streams = time.monotonic(), False

        async def watching(message: Message) -> None:
            nonlocal checked, streams
            if message["type"] == "http.response.start":
                streams = _header(message, b"content-type").startswith(b"text/event-stream")
                if new_form:
                    cookie = Response()
                    keep_form(request, cookie, new_form)
                    message["headers"] = [*message["headers"], *_cookies_of(cookie)]
            elif message.get("more_body") and time.monotonic() - checked > _RECHECK_SECONDS:
                if not await run_in_threadpool(self._still_valid, caller):
                    raise _EndedMeanwhileError
                checked = time.monotonic()
            await send(message)

        try:
            await self.app(request.scope, receive, watching)
        except _EndedMeanwhileError:
            # Events just end; a download must not look as if it were whole, so its connection breaks.
            if streams:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _still_valid(self, caller: _Caller) -> bool:
        try:
            if caller.token is not None:
                return self._application.api_tokens.who(caller.token) is not None
            return not caller.secret or self._application.sign_in.who(caller.secret) is not None
        except DatabaseError:
            return True  # nobody's session ended; the database is away for a moment

    def _audit(self, request: Request, status: int, refused: str) -> None:
        try:
            self._auditor.request_ended(request, status, refused)
        except DatabaseError as error:
            # What was done cannot be undone for want of a line: the service's log tells instead.
            request.app.state.log.error(
                "audit-not-written", method=request.method, path=told_path(request), error=error.message
            )


class _EndedMeanwhileError(Exception):
    """The session or token of an answer that goes on has ended."""


def _nobody_yet(request: Request) -> None:
    state = request.state
    state.user = state.session = None
    state.csrf_token = state.new_form = ""
    state.actor = stranger(request)


def _introduce(request: Request, caller: _Caller) -> None:
    state = request.state
    state.user, state.session = caller.user, caller.session
    if caller.user is not None:
        name, via = caller.user.name, Via.WEB
        if caller.token is not None:
            name, via = f"{name} ({caller.token_name})", Via.TOKEN
        state.actor = Actor(name, via, address_of(request))
    if caller.token is None:
        owner = _form_owner(request, caller)
        if owner is None and _needs_nobody(request):
            owner = state.new_form = new_secret()
        state.csrf_token = csrf.token_for(owner) if owner else ""


def _at_least(request: Request, role: Role) -> Account:
    user: Account | None = request.state.user
    if user is None:
        raise _not_signed_in(phrase("you are not signed in"))
    if not user.role.covers(role):
        raise ForbiddenError(
            phrase("this needs the role {role}, and yours is {own}", role=role_word(role), own=role_word(user.role)),
            hint=phrase("Ask an administrator."),
        )
    return user


def _open_to_all(request: Request) -> bool:
    """What needs no session: signing in, and what a page that does it is made of."""
    path = request.url.path
    if _needs_nobody(request):
        return True
    return request.method in csrf.SAFE_METHODS and (
        path in ("/healthz", "/favicon.ico", "/preferences") or path.startswith("/static/")
    )


def _needs_nobody(request: Request) -> bool:
    """Pages whose forms are sent by somebody who is not signed in, or is about to be somebody else."""
    path = request.url.path
    return path.startswith(SETUP) or path == LOGIN


def _for_people(request: Request) -> bool:
    """Where accounts and tokens are managed: who has a token must not get from it more than it was made for."""
    path = request.url.path
    return path.startswith(("/account", "/administration")) or path == "/logout"


def _bearer(request: Request) -> str | None:
    """The token that a program shows; other schemes are for a proxy in front of us."""
    scheme, _space, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def _form_owner(request: Request, caller: _Caller) -> str | None:
    """The secret that the token of the request's form is made of."""
    return form_secret(request) if _needs_nobody(request) else caller.secret or None


def _least_role(request: Request) -> Role:
    """What a request needs whatever its route asks for."""
    path = request.url.path
    if path.startswith(("/administration", "/api/v1/users", "/api/v1/tokens", "/api/v1/audit")):
        return Role.ADMINISTRATOR
    own = path in ("/logout", "/account") or path.startswith("/account/")
    return Role.VIEWER if own or request.method in csrf.SAFE_METHODS else Role.OPERATOR


def _not_signed_in(message: str) -> NotSignedInError:
    return NotSignedInError(message, hint=phrase("Sign in, or send a valid token: Authorization: Bearer kvmb_…"))


def _refusal(request: Request, error: KvmBackupError) -> Response:
    """Pages lead to the sign-in, everything else tells what is wrong."""
    path = request.url.path
    unknown = isinstance(error, NotSignedInError) and (path == _API_DOCS or not path.startswith(API))
    if unknown and wants_fragment(request):
        answer: Response = Response(status_code=401, headers={"HX-Redirect": _login_url(request)})
    elif unknown and "text/html" in request.headers.get("accept", ""):
        answer = RedirectResponse(_login_url(request), status_code=303)
    else:
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotSignedInError) else {}
        message, hint = in_words(error.message), in_words(error.hint)
        answer = failure(request, status_of(error), message, hint, code=error.code, headers=headers)
    if isinstance(error, NotSignedInError) and _bearer(request) is None and session_secret(request):
        drop_session(request, answer)
    return answer


def _login_url(request: Request) -> str:
    """The sign-in, which leads back to the page that was shown or asked for."""
    if request.method == "GET" and not wants_fragment(request):
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    else:
        shown = urlsplit(request.headers.get("hx-current-url") or request.headers.get("referer") or "")
        wanted = shown.path + (f"?{shown.query}" if shown.query else "")
    wanted = local_path(wanted)
    return LOGIN if wanted == "/" else f"{LOGIN}?next={quote(wanted, safe='')}"


def _header(message: Message, name: bytes) -> bytes:
    return next((value for key, value in message["headers"] if key.lower() == name), b"")


def _cookies_of(response: Response) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in response.raw_headers if key == b"set-cookie"]
