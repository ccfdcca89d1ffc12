"""My account: password, browsers that are signed in, API tokens."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from kvm_backup.domain.account import TOKEN_DAYS, Account, ApiToken, Role
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError, SignInError, TooManyAttemptsError
from kvm_backup.domain.phrase import phrase
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.errors import status_of
from kvm_backup.web.language import _
from kvm_backup.web.pages.account_words import browser_name, parse_role, role_choices, role_word, told
from kvm_backup.web.security.access import Viewer, application_of, session_of
from kvm_backup.web.security.audit import note

router = APIRouter(include_in_schema=False)

Text = Annotated[str, Form()]
NEVER = "never"
_LIFETIMES = (30, TOKEN_DAYS, 365)


@router.get("/account")
def account(request: Request, user: Viewer) -> Response:
    """Everything about the one who is signed in."""
    return _page(request, user)


@router.post("/account/password")
def change_password(request: Request, user: Viewer, old: Text = "", new: Text = "", repeated: Text = "") -> Response:
    """A new password; the other browsers are signed out."""
    note(request, "user.password", user.name)
    if new != repeated:
        return _page(request, user, errors={"repeated": _("The two passwords are not the same.")}, status=422)
    session = session_of(request)
    try:
        application_of(request).sign_in.change_password(user, old, new, session_id=session.id if session else None)
    except (SignInError, TooManyAttemptsError) as error:
        return _page(request, user, errors={"old": told(error)}, status=status_of(error))
    except BadArgumentError as error:
        return _page(request, user, errors={"new": told(error)}, status=422)
    return redirect(request, "/account", Message(_("The password is changed. Other browsers are signed out.")))


@router.post("/account/sessions/end-others")
def end_other_sessions(request: Request, user: Viewer) -> Response:
    """Sign out everywhere but here."""
    session = session_of(request)
    application_of(request).sign_in.end_others(user, session.id if session else None)
    note(request, "session.end-others", user.name)
    return redirect(request, "/account", Message(_("All other browsers are signed out.")))


@router.post("/account/sessions/{session_id}/end")
def end_session(request: Request, user: Viewer, session_id: str) -> Response:
    """Sign one browser out."""
    note(request, "session.end", user.name)
    application_of(request).sign_in.end(user, session_id)
    return redirect(request, "/account", Message(_("That browser is signed out.")))


@router.post("/account/tokens")
def add_token(
    request: Request, user: Viewer, name: Text = "", role: Text = "", lifetime: Text = str(TOKEN_DAYS)
) -> Response:
    """A new token, which the answer shows, and nothing ever again."""
    typed = {"name": name, "role": role, "lifetime": lifetime}
    note(request, "token.add", name)
    try:
        wanted = parse_role(role)
        days = None if lifetime == NEVER else _days(lifetime)
        token, text = application_of(request).api_tokens.add(user, name, wanted, days)
    except KvmBackupError as error:
        return _page(request, user, errors={"token": told(error)}, typed=typed, status=status_of(error))
    note(request, "token.add", token.name, f"{token.id} {token.role.value}")
    return _page(request, user, made=token, text=text, status=201)


@router.post("/account/tokens/{token_id}/revoke")
def revoke_token(request: Request, user: Viewer, token_id: str) -> Response:
    """One of one's own tokens is good for nothing from now on."""
    note(request, "token.revoke", token_id)
    token = application_of(request).api_tokens.revoke(token_id, user)
    note(request, "token.revoke", token.name, token.id)
    return redirect(request, "/account", Message(_("The token {name} is revoked.", name=token.name)))


def _page(
    request: Request,
    user: Account,
    *,
    errors: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
    made: ApiToken | None = None,
    text: str = "",
    status: int = 200,
) -> Response:
    application = application_of(request)
    session = session_of(request)
    return render(
        request,
        "account/account.html",
        status=status,
        role=role_word(user.role),
        sessions=application.sign_in.sessions_of(user),
        own_session=session.id if session else None,
        tokens=application.api_tokens.of_user(user),
        roles=role_choices(user.role),
        lifetimes=[(str(days), _("{days} days", days=days)) for days in _LIFETIMES] + [(NEVER, _("never expires"))],
        typed={"name": "", "role": Role.VIEWER.value, "lifetime": str(TOKEN_DAYS)} | (typed or {}),
        errors=errors or {},
        made=made,
        text=text,
        role_word=role_word,
        browser_name=browser_name,
    )


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise BadArgumentError(
            phrase("{days!r} is no number of days", days=text), hint=phrase("Choose one of the list.")
        )
    return int(text)
