"""Users, tokens and the audit log, to read: who has a token manages no accounts."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict

from kvm_backup.domain.account import Outcome, Role, Via
from kvm_backup.web.api.v1.answers import Limit, problems
from kvm_backup.web.security.access import Administrator, Viewer, application_of

router = APIRouter(tags=["access"])


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class User(_Answer):
    """A user. `can_sign_in` is false until there is a password."""

    name: str
    role: Role
    enabled: bool
    can_sign_in: bool
    created: datetime
    last_sign_in: datetime | None


class Token(_Answer):
    """An API token, without its text. `expires` is null for one that never does."""

    id: str
    name: str
    user_name: str
    role: Role
    created: datetime
    expires: datetime | None
    last_used: datetime | None


class AuditLine(_Answer):
    """Who did what. `number` grows with time; `who` is `-` for somebody who was not signed in."""

    number: int
    at: datetime
    who: str
    via: Via
    address: str | None
    action: str
    subject: str
    outcome: Outcome
    detail: str


class Me(BaseModel):
    """Who is asking, with the role that the token or the session gives."""

    name: str
    role: Role


@router.get("/me", responses=problems())
def who_am_i(user: Viewer) -> Me:
    """The account that a token belongs to, and what it may do."""
    return Me(name=user.name, role=user.role)


@router.get("/users", responses=problems())
def list_users(request: Request, user: Administrator) -> list[User]:  # noqa: ARG001 - who may look
    """Every user, by name. For administrators."""
    return [User.model_validate(one) for one in application_of(request).accounts.all()]


@router.get("/tokens", responses=problems())
def list_tokens(request: Request, user: Administrator) -> list[Token]:  # noqa: ARG001
    """Everybody's tokens, newest first, expired ones, too. For administrators."""
    return [Token.model_validate(one) for one in application_of(request).api_tokens.all()]


@router.get("/audit", responses=problems())
def list_audit_lines(
    request: Request,
    user: Administrator,  # noqa: ARG001
    search: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Limit = 50,
) -> list[AuditLine]:
    """Lines of the audit log, newest first. For administrators.

    `before` is the number of a line, and goes on behind it.
    """
    lines = application_of(request).audit.newest(search=search, before=before, limit=limit)
    return [AuditLine.model_validate(line) for line in lines]
