"""Users: making them, their roles and passwords, and the links by which somebody chooses a password."""

from collections.abc import Callable
from datetime import datetime

from kvm_backup.database.accounts import Accounts
from kvm_backup.domain.account import INVITATION_TIME, Account, Invitation, Role, account_name
from kvm_backup.domain.password import check_password
from kvm_backup.services.passwords import Passwords
from kvm_backup.services.secrets import digest_of, new_secret


class AccountService:
    """What commands and pages do with users. Every method may raise DatabaseError."""

    def __init__(self, accounts: Accounts, passwords: Passwords, clock: Callable[[], datetime]) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock

    def all(self) -> list[Account]:
        """Every user, by name."""
        return self._accounts.all()

    def any(self) -> bool:
        """Whether there is a user."""
        return self._accounts.any()

    def find(self, name: str) -> Account:
        """Raises UserNotFoundError."""
        return self._accounts.find(name.strip().lower())

    def add(self, name: str, role: Role, password: str | None = None) -> Account:
        """A new user; without a password one who needs a link (`link`).

        Raises BadArgumentError, WeakPasswordError, UserExistsError.
        """
        name = account_name(name)
        return self._accounts.add(name, role, None if password is None else self._hashed(password, name))

    def set_password(self, name: str, password: str) -> Account:
        """What an administrator does for somebody. Ends the user's sessions.

        Raises UserNotFoundError, WeakPasswordError.
        """
        user = self.find(name)
        self._accounts.set_password(user.id, self._hashed(password, user.name))
        return user

    def change_role(self, name: str, role: Role) -> Account:
        """Raises UserNotFoundError, LastAdministratorError."""
        return self._accounts.change_role(name.strip().lower(), role)

    def enable(self, name: str) -> Account:
        """Raises UserNotFoundError."""
        return self._accounts.enable(name.strip().lower())

    def disable(self, name: str) -> Account:
        """Ends sessions and revokes tokens at once. Raises UserNotFoundError, LastAdministratorError."""
        return self._accounts.disable(name.strip().lower())

    def remove(self, name: str) -> Account:
        """Raises UserNotFoundError, LastAdministratorError."""
        return self._accounts.remove(name.strip().lower())

    def link(self, name: str, base_url: str) -> str:
        """A link by which a user chooses a password, once, within 24 hours; an earlier one is void.

        Raises UserNotFoundError.
        """
        user = self.find(name)
        secret = new_secret()
        self._accounts.invite(user.id, digest_of(secret), self._clock() + INVITATION_TIME)
        return _link(base_url, secret)

    def first_start_link(self, base_url: str) -> str | None:
        """While there is no user: a link that makes the first administrator; earlier ones are void. Else None."""
        secret = new_secret()
        made = self._accounts.invite_first(digest_of(secret), self._clock() + INVITATION_TIME)
        return _link(base_url, secret) if made else None

    def invitation(self, secret: str) -> Invitation:
        """What a link is good for. Raises InvitationError."""
        return self._accounts.invitation(digest_of(secret))

    def accept(self, secret: str, name: str, password: str) -> Account:
        """Use a link up. `name` counts only where it makes the first administrator.

        Raises InvitationError, BadArgumentError, WeakPasswordError.
        """
        invitation = self.invitation(secret)
        name = invitation.user_name or account_name(name)
        return self._accounts.accept(digest_of(secret), self._hashed(password, name), name)

    def _hashed(self, password: str, name: str) -> str:
        check_password(password, name)
        return self._passwords.hash(password)


def _link(base_url: str, secret: str) -> str:
    return f"{base_url.rstrip('/')}/setup/{secret}"
