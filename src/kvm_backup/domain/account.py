"""Accounts, API tokens and the audit log: values and rules. Times in UTC."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import Phrase, phrase

NAME_LENGTH = 64
_NAME = re.compile(rf"[a-z0-9][a-z0-9._@-]{{0,{NAME_LENGTH - 1}}}")
TOKEN_NAME_LENGTH = 100


class Role(StrEnum):
    """What an account may do; each role may also do what the one before it may."""

    VIEWER = "viewer"
    """Sees everything but accounts and the audit log; changes nothing but its own account."""
    OPERATOR = "operator"
    """Starts, cancels and plans backups, restores, acknowledges alerts."""
    ADMINISTRATOR = "administrator"
    """Accounts, tokens of others, the audit log."""

    @property
    def rank(self) -> int:
        return list(Role).index(self)

    def covers(self, wanted: "Role") -> bool:
        """Whether who has this role may do what needs the other one."""
        return self.rank >= wanted.rank


def role_word(role: Role) -> Phrase:
    """The role as people call it."""
    return {
        Role.VIEWER: phrase("viewer"),
        Role.OPERATOR: phrase("operator"),
        Role.ADMINISTRATOR: phrase("administrator"),
    }[role]


@dataclass(frozen=True, slots=True)
class Account:
    """One user. `can_sign_in` is False until a password was set."""

    id: str
    name: str
    role: Role
    enabled: bool
    can_sign_in: bool
    created: datetime
    last_sign_in: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in. `id` is the SHA-256 of what its cookie holds, in hexadecimal."""

    id: str
    user_id: str
    created: datetime
    seen: datetime
    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token for programs. `id` names it; `expires` is None when somebody asked for one that never does."""

    id: str
    user_id: str
    user_name: str
    name: str
    role: Role
    created: datetime
    expires: datetime | None
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that lets somebody choose a password, once. Without a user it makes the first administrator."""

    user_id: str | None
    user_name: str | None
    expires: datetime


class Via(StrEnum):
    """Which way somebody came."""

    WEB = "web"
    TOKEN = "token"  # noqa: S105 - a word of the audit log
    COMMAND = "command"


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "done"
    REFUSED = "refused"
    """Who asked may not do it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a user's name (with a token's, when one was used), or the operating system's user of a command."""

    name: str
    via: Via
    address: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log; `number` grows with time. Texts hold no control characters."""

    number: int
    at: datetime
    who: str
    via: Via
    address: str | None
    action: str
    subject: str
    outcome: Outcome
    detail: str


IDLE_TIME = timedelta(hours=12)
"""How long a session lives that nobody uses."""
SESSION_TIME = timedelta(days=7)
"""How long a session lives at most."""
INVITATION_TIME = timedelta(hours=24)
TOKEN_DAYS = 90
"""How long an API token lives when nobody says anything else."""
TOKEN_DAYS_MAX = 3650


def account_name(text: str) -> str:
    """The name of an account as it is kept: in small letters. Raises BadArgumentError."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise BadArgumentError(
            phrase("{name!r} cannot be a user's name", name=text),
            hint=phrase(
                "Use up to {count} letters without accents, digits, '.', '_', '-' and '@', beginning with a letter or"
                " a digit.",
                count=NAME_LENGTH,
            ),
        )
    return name
