"""Users and their invitations. Each call is one short transaction.

Whatever takes an administrator away is decided and done in the same transaction, which holds all administrators, so
that two who do it at once cannot take the last two.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import API_TOKENS, INVITATIONS, SESSIONS, USERS, storable
from kvm_backup.domain.account import Account, Invitation, Role
from kvm_backup.domain.errors import (
    InvitationError,
    LastAdministratorError,
    UserExistsError,
    UserNotFoundError,
)
from kvm_backup.domain.phrase import phrase

USER_FIELDS = (
    USERS.c.id,
    USERS.c.name,
    USERS.c.role,
    USERS.c.enabled,
    USERS.c.password_hash.is_not(None).label("can_sign_in"),
    USERS.c.created,
    USERS.c.last_sign_in,
)


class Accounts:
    """Users in the database. `clock` gives the time in UTC. Every method raises DatabaseError when that is away."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    # Users

    def add(self, name: str, role: Role, password_hash: str | None) -> Account:
        """A new user, who signs in once there is a password. Raises UserExistsError."""
        with self._database.transaction(write=True) as connection:
            return self._insert(connection, name, role, password_hash)

    def find(self, name: str) -> Account:
        """Raises UserNotFoundError."""
        with self._database.transaction() as connection:
            return _find(connection, name)

    def all(self) -> list[Account]:
        """Every user, by name."""
        with self._database.transaction() as connection:
            return [account_of(row) for row in connection.execute(select(*USER_FIELDS).order_by(USERS.c.name))]

    def any(self) -> bool:
        """Whether there is a user."""
        with self._database.transaction() as connection:
            return _any_user(connection)

    def with_hash(self, name: str) -> tuple[Account, str | None] | None:
        """A user and the hash of the password; None when there is no such user."""
        with self._database.transaction() as connection:
            query = select(*USER_FIELDS, USERS.c.password_hash).where(USERS.c.name == storable(name))
            row = connection.execute(query).first()
            return None if row is None else (account_of(row), row.password_hash)

    def set_password(self, user_id: str, password_hash: str, *, keep_session: str | None = None) -> None:
        """A new password: it ends the user's sessions, but for one, and voids links to choose another."""
        with self._database.transaction(write=True) as connection:
            connection.execute(update(USERS).where(USERS.c.id == user_id).values(password_hash=password_hash))
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.user_id == user_id))
            others = SESSIONS.c.user_id == user_id
            if keep_session is not None:
                others &= SESSIONS.c.id != keep_session
            connection.execute(delete(SESSIONS).where(others))

    def rehash(self, user_id: str, before: str, after: str) -> None:
        """The same password with newer parameters, unless it was changed in between."""
        with self._database.transaction(write=True) as connection:
            same = (USERS.c.id == user_id) & (USERS.c.password_hash == before)
            connection.execute(update(USERS).where(same).values(password_hash=after))

    def change_role(self, name: str, role: Role) -> Account:
        """It holds from the next request on. Raises UserNotFoundError, LastAdministratorError."""
        with self._database.transaction(write=True) as connection:
            user = _hold(connection, name, stays_administrator=role is Role.ADMINISTRATOR)
            connection.execute(update(USERS).where(USERS.c.id == user.id).values(role=role))
            return replace(user, role=role)

    def enable(self, name: str) -> Account:
        """Raises UserNotFoundError."""
        with self._database.transaction(write=True) as connection:
            user = _find(connection, name)
            connection.execute(update(USERS).where(USERS.c.id == user.id).values(enabled=True))
            return replace(user, enabled=True)

    def disable(self, name: str) -> Account:
        """The user's sessions, tokens and invitations are gone at once.

        Raises UserNotFoundError, LastAdministratorError.
        """
        with self._database.transaction(write=True) as connection:
            user = _hold(connection, name, stays_administrator=False)
            connection.execute(update(USERS).where(USERS.c.id == user.id).values(enabled=False))
            for table in (SESSIONS, API_TOKENS, INVITATIONS):
                connection.execute(delete(table).where(table.c.user_id == user.id))
            return replace(user, enabled=False)

    def remove(self, name: str) -> Account:
        """With all that belongs to the user. Raises UserNotFoundError, LastAdministratorError."""
        with self._database.transaction(write=True) as connection:
            user = _hold(connection, name, stays_administrator=False)
            connection.execute(delete(USERS).where(USERS.c.id == user.id))
            return user

    # Invitations

    def invite(self, user_id: str, digest: str, expires: datetime) -> None:
        """A link for a user; an earlier one is void."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.user_id == user_id))
            self._insert_invitation(connection, digest, expires, user_id)

    def invite_first(self, digest: str, expires: datetime) -> bool:
        """A link that makes the first administrator; earlier ones are void. False when there are users already."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.user_id.is_(None)))
            if _any_user(connection):
                return False
            self._insert_invitation(connection, digest, expires, None)
            return True

    def invitation(self, digest: str) -> Invitation:
        """What a link is good for. Raises InvitationError."""
        with self._database.transaction() as connection:
            return self._invitation(connection, digest)

    def accept(self, digest: str, password_hash: str, first_name: str = "") -> Account:
        """Use a link up: the user that it is for gets the password, or the first administrator is made.

        Raises InvitationError, UserNotFoundError.
        """
        with self._database.transaction(write=True) as connection:
            invitation = self._invitation(connection, digest)
            used = connection.execute(delete(INVITATIONS).where(INVITATIONS.c.id == digest))
            if not used.rowcount:  # somebody else was faster
                raise _no_invitation()
            if invitation.user_id is None:
                if _any_user(connection):
                    raise _no_invitation()
                return self._insert(connection, first_name, Role.ADMINISTRATOR, password_hash)
            of_user = USERS.c.id == invitation.user_id
            connection.execute(update(USERS).where(of_user).values(password_hash=password_hash))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.user_id == invitation.user_id))
            return account_of(connection.execute(select(*USER_FIELDS).where(of_user)).one())

    def forget_expired(self) -> None:
        """Remove invitations that nobody can use any more."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.expires <= self._clock()))

    def _insert(self, connection: Connection, name: str, role: Role, password_hash: str | None) -> Account:
        user = Account(
            id=uuid4().hex,
            name=name,
            role=role,
            enabled=True,
            can_sign_in=password_hash is not None,
            created=self._clock(),
        )
        row = {"id": user.id, "name": name, "role": role, "enabled": True, "created": user.created}
        insertion = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        statement = insertion(USERS).values(row | {"password_hash": password_hash}).on_conflict_do_nothing()
        if connection.execute(statement.returning(USERS.c.id)).first() is None:
            raise UserExistsError(
                phrase("there is a user {name!r} already", name=name), hint=phrase("Choose another name.")
            )
        return user

    def _insert_invitation(self, connection: Connection, digest: str, expires: datetime, user_id: str | None) -> None:
        row = {"id": digest, "user_id": user_id, "created": self._clock(), "expires": expires}
        connection.execute(insert(INVITATIONS).values(row))

    def _invitation(self, connection: Connection, digest: str) -> Invitation:
        query = (
            select(INVITATIONS.c.user_id, INVITATIONS.c.expires, USERS.c.name, USERS.c.enabled)
            .outerjoin(USERS, USERS.c.id == INVITATIONS.c.user_id)
            .where(INVITATIONS.c.id == digest, INVITATIONS.c.expires > self._clock())
        )
        row = connection.execute(query).first()
        if row is None or row.enabled is False or (row.user_id is None and _any_user(connection)):
            raise _no_invitation()
        return Invitation(user_id=row.user_id, user_name=row.name, expires=row.expires)


def _find(connection: Connection, name: str) -> Account:
    row = connection.execute(select(*USER_FIELDS).where(USERS.c.name == storable(name))).first()
    if row is None:
        raise UserNotFoundError(
            phrase("there is no user {name!r}", name=name), hint=phrase("See the users with 'kvm-backup user list'.")
        )
    return account_of(row)


def _hold(connection: Connection, name: str, *, stays_administrator: bool) -> Account:
    """A user, while no other transaction can take an administrator away. Raises LastAdministratorError when this
    change would leave nobody who can sign in and manage accounts."""
    able = (USERS.c.role == Role.ADMINISTRATOR) & USERS.c.enabled & USERS.c.password_hash.is_not(None)
    # PostgreSQL locks the rows, and looks again at those that changed while it waited; SQLite has one writer anyway.
    held = select(USERS.c.id).where(able).order_by(USERS.c.id).with_for_update()
    administrators = set(connection.execute(held).scalars())
    user = _find(connection, name)
    if administrators == {user.id} and not stays_administrator:
        raise LastAdministratorError(
            phrase("{name!r} is the only administrator who can sign in", name=user.name),
            hint=phrase("Make another user an administrator first, then repeat this."),
        )
    return user


def _any_user(connection: Connection) -> bool:
    return bool(connection.execute(select(exists().select_from(USERS))).scalar_one())


def account_of(row: Any) -> Account:
    """The user of a row that holds USER_FIELDS."""
    return Account(**{column.key: getattr(row, column.key) for column in USER_FIELDS})


def _no_invitation() -> InvitationError:
    return InvitationError(
        phrase("this link was used, has expired, or was replaced by a newer one"),
        hint=phrase(
            "An administrator makes a new one: kvm-backup user password NAME --link."
            " While there is no user, the service prints one when it starts."
        ),
    )
