"""The services around accounts, which belong together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kvm_backup.database.accounts import Accounts
from kvm_backup.database.audit import AuditLog
from kvm_backup.database.credentials import ApiTokens, Sessions
from kvm_backup.database.engine import Database
from kvm_backup.database.login_failures import LoginFailures
from kvm_backup.services.accounts import AccountService
from kvm_backup.services.api_tokens import ApiTokenService
from kvm_backup.services.passwords import Passwords
from kvm_backup.services.sign_in import SignInService


@dataclass(frozen=True, slots=True)
class AccessServices:
    """Users, their sessions and tokens, and the log of who did what."""

    accounts: AccountService
    sign_in: SignInService
    api_tokens: ApiTokenService
    audit: AuditLog

    def forget_old(self, before: datetime) -> None:
        """Remove what has ended, and of tokens and audit lines what is older than that time. Raises DatabaseError."""
        self.sign_in.forget_expired()
        self.api_tokens.forget_expired(before)
        self.audit.delete_older_than(before)


def make_access(
    database: Database, clock: Callable[[], datetime], passwords: Passwords | None = None
) -> AccessServices:
    """All of them for one database. `clock` gives the time in UTC."""
    accounts, passwords = Accounts(database, clock), passwords or Passwords()
    return AccessServices(
        accounts=AccountService(accounts, passwords, clock),
        sign_in=SignInService(accounts, Sessions(database, clock), LoginFailures(database, clock), passwords, clock),
        api_tokens=ApiTokenService(ApiTokens(database, clock), clock),
        audit=AuditLog(database, clock),
    )
