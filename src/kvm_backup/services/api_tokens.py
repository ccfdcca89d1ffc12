"""API tokens: made for a program, shown once, good until they expire or are revoked."""

import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from kvm_backup.database.credentials import ApiTokens
from kvm_backup.domain.account import TOKEN_DAYS_MAX, TOKEN_NAME_LENGTH, Account, ApiToken, Role
from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import is_plain
from kvm_backup.services.secrets import TOKEN_PREFIX, digest_of, new_secret

_SHAPE = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}")


class ApiTokenService:
    """What commands and pages do with tokens. Every method may raise DatabaseError."""

    def __init__(self, tokens: ApiTokens, clock: Callable[[], datetime]) -> None:
        self._tokens = tokens
        self._clock = clock

    def add(self, owner: Account, name: str, role: Role, days: int | None) -> tuple[ApiToken, str]:
        """A token that lives so many days, or for ever with None; and its text, which nobody can show again.

        Raises BadArgumentError, and ForbiddenError where the role is above that of its owner.
        """
        name = name.strip()
        if not name or len(name) > TOKEN_NAME_LENGTH or not is_plain(name):
            raise BadArgumentError(
                phrase("{name!r} cannot be the name of a token", name=name),
                hint=phrase("Say in up to {count} characters what uses it.", count=TOKEN_NAME_LENGTH),
            )
        if days is not None and not 1 <= days <= TOKEN_DAYS_MAX:
            raise BadArgumentError(
                phrase("a token cannot live {days} days", days=days),
                hint=phrase("Choose 1 to {count} days.", count=TOKEN_DAYS_MAX),
            )
        now = self._clock()
        token = ApiToken(
            id=secrets.token_hex(6),
            user_id=owner.id,
            user_name=owner.name,
            name=name,
            role=role,
            created=now,
            expires=None if days is None else now + timedelta(days=days),
        )
        text = TOKEN_PREFIX + new_secret()
        self._tokens.add(token, digest_of(text))
        return token, text

    def who(self, text: str) -> tuple[Account, ApiToken] | None:
        """Whose token that is, with the role that it gives; None when it is not valid."""
        return self._tokens.find(digest_of(text)) if _SHAPE.fullmatch(text) else None

    def all(self) -> list[ApiToken]:
        """Everybody's tokens, newest first."""
        return self._tokens.all()

    def of_user(self, user: Account) -> list[ApiToken]:
        """A user's own tokens, newest first."""
        return self._tokens.all(user.id)

    def revoke(self, reference: str, owner: Account | None = None) -> ApiToken:
        """Named by its id or a beginning of it; with an owner only among the owner's. Raises TokenNotFoundError."""
        return self._tokens.revoke(reference, owner.id if owner else None)

    def forget_expired(self, before: datetime) -> None:
        """Remove those that expired before that time."""
        self._tokens.forget_expired(before)
