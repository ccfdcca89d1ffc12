"""What somebody shows instead of a password: sessions of browsers, tokens of programs. Only digests are kept."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update

from kvm_backup.database.accounts import USER_FIELDS, account_of
from kvm_backup.database.engine import Database
from kvm_backup.database.tables import API_TOKENS, SESSIONS, USERS, storable
from kvm_backup.domain.account import IDLE_TIME, SESSION_TIME, Account, ApiToken, Role, Session
from kvm_backup.domain.errors import ForbiddenError, TokenNotFoundError
from kvm_backup.domain.phrase import phrase

_NOTED_EVERY = timedelta(minutes=1)
"""How often at most it is written down that a session or token was used."""
_TOKEN_FIELDS = [column for column in API_TOKENS.c if column.name != "digest"]


class Sessions:
    """Browsers that are signed in. `clock` gives the time in UTC. Every method may raise DatabaseError."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def add(self, user_id: str, password_hash: str, digest: str, *, address: str, agent: str) -> bool:
        """Sign a browser in. False when the user was disabled, or the password changed, since it was checked."""
        now = self._clock()
        row = Session(id=digest, user_id=user_id, created=now, seen=now, address=address, agent=agent)
        with self._database.transaction(write=True) as connection:
            same = (USERS.c.id == user_id) & USERS.c.enabled & (USERS.c.password_hash == password_hash)
            # The update holds the user, so that nobody is disabled or removed in between.
            if not connection.execute(update(USERS).where(same).values(last_sign_in=now)).rowcount:
                return False
            connection.execute(insert(SESSIONS).values({c.name: getattr(row, c.name) for c in SESSIONS.c}))
            return True

    def find(self, digest: str) -> tuple[Account, Session] | None:
        """Whose session that is, if it lives and its user is enabled; and that it was used."""
        now = self._clock()
        query = (
            select(*USER_FIELDS, *_named(SESSIONS))
            .join(USERS, USERS.c.id == SESSIONS.c.user_id)
            .where(SESSIONS.c.id == digest, USERS.c.enabled, *_alive(now))
        )
        with self._database.transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        session = Session(**_values(row, SESSIONS))
        if now - session.seen >= _NOTED_EVERY:
            with self._database.transaction(write=True) as connection:
                connection.execute(update(SESSIONS).where(SESSIONS.c.id == digest).values(seen=now))
        return account_of(row), session

    def of_user(self, user_id: str) -> list[Session]:
        """The user's sessions that live, last used first."""
        query = select(SESSIONS).where(SESSIONS.c.user_id == user_id, *_alive(self._clock()))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SESSIONS.c.seen.desc(), SESSIONS.c.id))
            return [Session(**row._mapping) for row in rows]

    def end(self, user_id: str, session_id: str) -> bool:
        """End one session of a user; False when there is none."""
        mine = (SESSIONS.c.id == session_id) & (SESSIONS.c.user_id == user_id)
        with self._database.transaction(write=True) as connection:
            return bool(connection.execute(delete(SESSIONS).where(mine)).rowcount)

    def end_others(self, user_id: str, kept: str | None) -> int:
        """End all sessions of a user but one; returns how many."""
        others = SESSIONS.c.user_id == user_id
        if kept is not None:
            others &= SESSIONS.c.id != kept
        with self._database.transaction(write=True) as connection:
            return connection.execute(delete(SESSIONS).where(others)).rowcount

    def forget_expired(self) -> None:
        """Remove sessions that have ended by themselves."""
        now = self._clock()
        old = (SESSIONS.c.seen <= now - IDLE_TIME) | (SESSIONS.c.created <= now - SESSION_TIME)
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(SESSIONS).where(old))


class ApiTokens:
    """Tokens of programs. `clock` gives the time in UTC. Every method may raise DatabaseError."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def add(self, token: ApiToken, digest: str) -> None:
        """Raises ForbiddenError when the user's role is lower by now, or the user is not there or disabled."""
        with self._database.transaction(write=True) as connection:
            # The user is held, so that a role that is taken away meanwhile takes the token's with it.
            user = (USERS.c.id == token.user_id) & USERS.c.enabled
            role: Role | None = connection.execute(select(USERS.c.role).where(user).with_for_update()).scalar()
            if role is None or not role.covers(token.role):
                raise ForbiddenError(
                    phrase("a token cannot have a higher role than its owner"),
                    hint=phrase("Choose the owner's role or a lower one."),
                )
            row = {column.name: getattr(token, column.name) for column in _TOKEN_FIELDS}
            connection.execute(insert(API_TOKENS).values(row | {"digest": digest}))

    def find(self, digest: str) -> tuple[Account, ApiToken] | None:
        """Whose token that is, if it is valid and its user enabled; and that it was used.

        The account has the token's role, or its own where that is lower by now.
        """
        now = self._clock()
        valid = API_TOKENS.c.expires.is_(None) | (API_TOKENS.c.expires > now)
        query = _tokens().add_columns(*USER_FIELDS).where(API_TOKENS.c.digest == digest, USERS.c.enabled, valid)
        with self._database.transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        token, owner = _token(row), account_of(row)
        if token.last_used is None or now - token.last_used >= _NOTED_EVERY:
            with self._database.transaction(write=True) as connection:
                connection.execute(update(API_TOKENS).where(API_TOKENS.c.id == token.id).values(last_used=now))
        return replace(owner, role=token.role if owner.role.covers(token.role) else owner.role), token

    def all(self, user_id: str | None = None) -> list[ApiToken]:
        """Every token, of one user if given, newest first; expired ones, too."""
        query = _tokens() if user_id is None else _tokens().where(API_TOKENS.c.user_id == user_id)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(API_TOKENS.c.created.desc(), API_TOKENS.c.id))
            return [_token(row) for row in rows]

    def revoke(self, reference: str, user_id: str | None = None) -> ApiToken:
        """Remove a token, named by its id or a beginning of it; of one user if given. Raises TokenNotFoundError."""
        wanted = storable(reference)
        found = [token for token in self.all(user_id) if wanted and token.id.startswith(wanted)]
        if len(found) != 1:
            raise TokenNotFoundError(
                phrase("there is no token {id!r}", id=reference)
                if not found
                else phrase("several tokens begin with {id!r}", id=reference),
                hint=phrase("See the ids with 'kvm-backup token list'."),
            )
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(API_TOKENS).where(API_TOKENS.c.id == found[0].id))
        return found[0]

    def forget_expired(self, before: datetime) -> None:
        """Remove tokens that expired before that time."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(API_TOKENS).where(API_TOKENS.c.expires < before))


def _alive(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return SESSIONS.c.seen > now - IDLE_TIME, SESSIONS.c.created > now - SESSION_TIME


def _tokens() -> Any:
    owner = USERS.c.name.label("owner")
    return select(*_named(API_TOKENS, without="digest"), owner).join(USERS, USERS.c.id == API_TOKENS.c.user_id)


def _named(table: Any, without: str = "") -> list[Any]:
    """A table's columns under names of their own, so that they can stand beside those of a user."""
    return [column.label(f"{table.name}_{column.name}") for column in table.c if column.name != without]


def _values(row: Any, table: Any, without: str = "") -> dict[str, Any]:
    names = (column.name for column in table.c if column.name != without)
    return {name: getattr(row, f"{table.name}_{name}") for name in names}


def _token(row: Any) -> ApiToken:
    return ApiToken(**_values(row, API_TOKENS, without="digest"), user_name=row.owner)
