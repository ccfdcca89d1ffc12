"""Signing in and out, and choosing a password by a link."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from kvm_backup.domain.account import Account, Actor, Outcome, Via
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError, SignInError, TooManyAttemptsError
from kvm_backup.services.sign_in import SignedIn
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.errors import status_of
from kvm_backup.web.formats import sentence
from kvm_backup.web.language import _, in_words
from kvm_backup.web.pages.account_words import told
from kvm_backup.web.preferences import local_path
from kvm_backup.web.security.access import Viewer, application_of, session_of
from kvm_backup.web.security.audit import NOBODY, address_of, note
from kvm_backup.web.security.sessions import drop_session, keep_session, session_secret

router = APIRouter(include_in_schema=False)

Text = Annotated[str, Form()]


@router.get("/login")
def login_form(request: Request, next: str = "/") -> Response:  # noqa: A002 - the parameter's name in the address
    """The form, or, for who is signed in already, where they wanted to go."""
    secret = session_secret(request)
    if secret and application_of(request).sign_in.who(secret) is not None:
        return RedirectResponse(local_path(next), status_code=303)
    return _form(request, target=local_path(next))


@router.post("/login")
def login(request: Request, name: Text = "", password: Text = "", next: Text = "/") -> Response:  # noqa: A002
    """Sign in, with a session that did not exist before."""
    application = application_of(request)
    target = local_path(next)
    try:
        signed_in = application.sign_in.sign_in(name, password, address=address_of(request), agent=_agent(request))
    except TooManyAttemptsError as error:
        # Written down when it began: each further attempt tells nothing new.
        headers = {"Retry-After": str(error.seconds)}
        return _form(request, target=target, name=name, error=error, headers=headers)
    except SignInError as error:
        _told(request, NOBODY, name, Outcome.REFUSED, error.code)
        return _form(request, target=target, name=name, error=error)
    _told(request, signed_in.account.name, signed_in.account.name, Outcome.DONE)
    return _signed_in(request, signed_in, target)


@router.post("/logout")
def logout(request: Request, user: Viewer) -> Response:
    """End this session."""
    session = session_of(request)
    if session is not None:
        application_of(request).sign_in.end(user, session.id)
    note(request, "session.sign-out", user.name)
    response = redirect(request, "/login", Message(_("You are logged out.")))
    drop_session(request, response)
    return response


@router.get("/setup/{secret}")
def setup_form(request: Request, secret: str) -> Response:
    """Choose a password: of the first administrator, or of a user who was given the link."""
    invitation = application_of(request).accounts.invitation(secret)
    return render(request, "login/setup.html", invitation=invitation, name="", error=None, errors={})


@router.post("/setup/{secret}")
def setup(request: Request, secret: str, name: Text = "", password: Text = "", repeated: Text = "") -> Response:
    """Use the link up, and sign in."""
    application = application_of(request)
    invitation = application.accounts.invitation(secret)
    note(request, "user.choose-password", invitation.user_name or name)
    errors: dict[str, str] = {}
    if password != repeated:
        errors["repeated"] = _("The two passwords are not the same.")
    else:
        try:
            user = application.accounts.accept(secret, name, password)
        except BadArgumentError as error:
            field = "password" if error.code == "weak-password" else "name"
            errors[field] = told(error)
        else:
            request.state.actor = _actor(request, user)
            note(request, "user.choose-password", user.name, "first administrator" if not invitation.user_id else "")
            begun = application.sign_in.begin_for(user, address=address_of(request), agent=_agent(request))
            return _signed_in(request, begun, "/")
    return render(
        request, "login/setup.html", status=422, invitation=invitation, name=name, error=None, errors=errors
    )


def _form(
    request: Request,
    *,
    target: str,
    name: str = "",
    error: KvmBackupError | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return render(
        request,
        "login/login.html",
        status=status_of(error) if error else 200,
        headers=headers,
        target=target,
        name=name,
        error=sentence(error.message) if error else "",
        hint=in_words(error.hint) if error else "",
        nobody_yet=not application_of(request).accounts.any(),
    )


def _signed_in(request: Request, signed_in: SignedIn, target: str) -> Response:
    before = session_secret(request)
    if before:
        application_of(request).sign_in.sign_out(before)
    response = RedirectResponse(target, status_code=303)
    keep_session(request, response, signed_in.secret)
    return response


def _told(request: Request, who: str, subject: str, outcome: Outcome, detail: str = "") -> None:
    actor = Actor(who, Via.WEB, address_of(request))
    application_of(request).audit.add(actor, "session.sign-in", subject, outcome, detail)


def _actor(request: Request, user: Account) -> Actor:
    return Actor(user.name, Via.WEB, address_of(request))


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")
