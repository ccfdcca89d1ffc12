"""Administration: users, everybody's tokens, the audit log."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.errors import status_of
from kvm_backup.web.language import _
from kvm_backup.web.pages.account_words import parse_role, role_choices, role_word, told
from kvm_backup.web.security.access import administrator, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/administration", dependencies=[Depends(administrator)], include_in_schema=False)

Text = Annotated[str, Form()]
USERS = "/administration/users"
_LINES = 50


@router.get("")
def first_page() -> Response:
    """The first of the pages."""
    return RedirectResponse(USERS, status_code=303)


@router.get("/users")
def users(request: Request) -> Response:
    """Every user, and the form for another."""
    return _users(request)


@router.post("/users")
def add_user(request: Request, name: Text = "", role: Text = "") -> Response:
    """A new user, and the link by which they choose a password."""
    note(request, "user.add", name)
    accounts = application_of(request).accounts
    try:
        made = accounts.add(name, parse_role(role))
    except KvmBackupError as error:
        errors = {"name": told(error)}
        return _users(request, errors=errors, typed={"name": name, "role": role}, status=status_of(error))
    note(request, "user.add", made.name, made.role.value)
    return _users(request, invited=made, link=accounts.link(made.name, _base_url(request)), status=201)


@router.post("/users/{name}/link")
def make_link(request: Request, name: str) -> Response:
    """A link by which a user chooses a new password; the old one stays until then."""
    note(request, "user.link", name)
    accounts = application_of(request).accounts
    link = accounts.link(name, _base_url(request))
    return _users(request, invited=accounts.find(name), link=link, status=201)


@router.post("/users/{name}/role")
def change_role(request: Request, name: str, role: Text = "") -> Response:
    """Another role, from the next request on."""
    note(request, "user.role", name, role)
    changed = application_of(request).accounts.change_role(name, parse_role(role))
    return _done(request, _("{name} has the role {role} now.", name=changed.name, role=role_word(changed.role)))


@router.post("/users/{name}/disable")
def disable(request: Request, name: str) -> Response:
    """No more signing in; sessions and tokens are gone."""
    note(request, "user.disable", name)
    changed = application_of(request).accounts.disable(name)
    return _done(request, _("{name} is disabled: sessions and tokens are gone.", name=changed.name))


@router.post("/users/{name}/enable")
def enable(request: Request, name: str) -> Response:
    """Signing in works again."""
    note(request, "user.enable", name)
    changed = application_of(request).accounts.enable(name)
    return _done(request, _("{name} may sign in again.", name=changed.name))


@router.get("/users/{name}/remove")
def ask_to_remove(request: Request, name: str) -> Response:
    """What is lost, before it is."""
    application = application_of(request)
    asked = application.accounts.find(name)
    tokens = application.api_tokens.of_user(asked)
    return render(request, "administration/remove.html", asked=asked, tokens=tokens, back=USERS)


@router.post("/users/{name}/remove")
def remove(request: Request, name: str) -> Response:
    """The user and all that is theirs; the audit log stays."""
    note(request, "user.remove", name)
    removed = application_of(request).accounts.remove(name)
    return _done(request, _("{name} is removed.", name=removed.name))


@router.get("/tokens")
def tokens(request: Request) -> Response:
    """Everybody's tokens."""
    found = application_of(request).api_tokens.all()
    return render(request, "administration/tokens.html", tokens=found, role_word=role_word, tabs=_tabs())


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, token_id: str) -> Response:
    """Anybody's token is good for nothing from now on."""
    note(request, "token.revoke", token_id)
    token = application_of(request).api_tokens.revoke(token_id)
    note(request, "token.revoke", token.name, f"{token.id} of {token.user_name}")
    return redirect(request, "/administration/tokens", Message(_("The token {name} is revoked.", name=token.name)))


@router.get("/audit")
def audit(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """Who did what, newest first, a page at a time."""
    lines = application_of(request).audit.newest(search=q, before=before, limit=_LINES + 1)
    older = lines[_LINES - 1].number if len(lines) > _LINES else None
    return render(
        request, "administration/audit.html", lines=lines[:_LINES], q=q, before=before, older=older, tabs=_tabs()
    )


def _users(
    request: Request,
    *,
    errors: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
    invited: Account | None = None,
    link: str = "",
    status: int = 200,
) -> Response:
    return render(
        request,
        "administration/users.html",
        status=status,
        users=application_of(request).accounts.all(),
        roles=role_choices(Role.ADMINISTRATOR),
        role_word=role_word,
        typed={"name": "", "role": Role.VIEWER.value} | (typed or {}),
        errors=errors or {},
        invited=invited,
        link=link,
        tabs=_tabs(),
    )


def _tabs() -> list[tuple[str, str, str]]:
    return [
        ("users", _("Users"), USERS),
        ("tokens", _("API tokens"), "/administration/tokens"),
        ("audit", _("Audit log"), "/administration/audit"),
    ]


def _done(request: Request, text: str) -> Response:
    return redirect(request, USERS, Message(text))


def _base_url(request: Request) -> str:
    """How this browser reaches us; names that are not ours were refused before (hosts.py)."""
    return f"{request.url.scheme}://{request.url.netloc}"
