"""Signing in and out, and who is signed in."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv6Address, ip_address, ip_network

from kvm_backup.database.accounts import Accounts
from kvm_backup.database.credentials import Sessions
from kvm_backup.database.login_failures import LoginFailures
from kvm_backup.domain.account import Account, Session
from kvm_backup.domain.errors import SignInError, TooManyAttemptsError
from kvm_backup.domain.password import check_password
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.sign_in_limit import KNOWN_FOR, PER_ACCOUNT, PER_ADDRESS
from kvm_backup.services.passwords import Passwords
from kvm_backup.services.secrets import digest_of, new_secret

_AGENT_LENGTH = 200
_SITE_BITS = 64
"""Who has one IPv6 address has a network of so many bits, and so 2**64 addresses to try from."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session: `secret` is for the browser's cookie and nobody else."""

    account: Account
    secret: str


class SignInService:
    """Sessions of browsers. Every method may raise DatabaseError."""

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        failures: LoginFailures,
        passwords: Passwords,
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._failures = failures
        self._passwords = passwords
        self._clock = clock

    def sign_in(self, name: str, password: str, *, address: str, agent: str) -> SignedIn:
        """Check a password and begin a session.

        Raises SignInError and TooManyAttemptsError, which do not tell whether there is such a user.
        """
        name = name.strip().lower()
        found = self._accounts.with_hash(name)
        user, kept = found or (None, None)
        site = _site(address)
        # Who signed in from there lately is not kept out by others who try from elsewhere.
        known = self._failures.knows(user.id if user else "", site, self._clock() - KNOWN_FOR)
        by_account = _key("account", name, site) if known else _key("account", name)
        by_address = _key("address", site)
        wait = self._failures.begin({by_account: PER_ACCOUNT, by_address: PER_ADDRESS})
        if wait:
            raise TooManyAttemptsError(wait)
        good = self._passwords.verify(kept, password)
        if not good or user is None or kept is None or not user.enabled:
            raise _wrong()
        self._failures.succeeded([by_account], [by_address])
        self._failures.remember(user.id, site)
        if self._passwords.outdated(kept):
            kept = self._renewed(user, kept, password)
        return self._begin(user, kept, address, agent)

    def begin_for(self, user: Account, *, address: str, agent: str) -> SignedIn:
        """A session for somebody who just chose a password by a link. Raises SignInError."""
        found = self._accounts.with_hash(user.name)
        if found is None or found[1] is None:
            raise _wrong()
        return self._begin(found[0], found[1], address, agent)

    def who(self, secret: str) -> tuple[Account, Session] | None:
        """Whose session a cookie holds; None when it holds none that lives."""
        return self._sessions.find(digest_of(secret))

    def sessions_of(self, user: Account) -> list[Session]:
        """The sessions of a user, last used first."""
        return self._sessions.of_user(user.id)

    def end(self, user: Account, session_id: str) -> bool:
        """Sign one of a user's own browsers out; False when there is no such session."""
        return self._sessions.end(user.id, session_id)

    def sign_out(self, secret: str) -> None:
        """End the session that a cookie holds, if there is one."""
        found = self.who(secret)
        if found is not None:
            self._sessions.end(found[0].id, found[1].id)

    def end_others(self, user: Account, kept: str | None) -> int:
        """Sign all browsers of a user out but one; returns how many."""
        return self._sessions.end_others(user.id, kept)

    def change_password(self, user: Account, old: str, new: str, *, session_id: str | None) -> None:
        """A user's own new password; it ends the other sessions.

        Raises SignInError when the old one is wrong, TooManyAttemptsError, WeakPasswordError.
        """
        check_password(new, user.name)
        key = _key("change", user.id)
        wait = self._failures.begin({key: PER_ACCOUNT})
        if wait:
            raise TooManyAttemptsError(wait)
        found = self._accounts.with_hash(user.name)
        if not self._passwords.verify(found[1] if found else None, old):
            raise SignInError(phrase("the old password is not right"), hint=phrase("Nothing was changed."))
        self._failures.succeeded([key], [])
        self._accounts.set_password(user.id, self._passwords.hash(new), keep_session=session_id)

    def forget_expired(self) -> None:
        """Remove sessions and invitations that have ended by themselves, and addresses that count no more."""
        self._sessions.forget_expired()
        self._accounts.forget_expired()
        self._failures.forget_addresses(self._clock() - KNOWN_FOR)

    def _begin(self, user: Account, kept: str, address: str, agent: str) -> SignedIn:
        secret = new_secret()
        agent = agent[:_AGENT_LENGTH]
        if not self._sessions.add(user.id, kept, digest_of(secret), address=address, agent=agent):
            raise _wrong()
        return SignedIn(user, secret)

    def _renewed(self, user: Account, kept: str, password: str) -> str:
        newer = self._passwords.hash(password)
        self._accounts.rehash(user.id, kept, newer)
        return newer


def _wrong() -> SignInError:
    return SignInError(
        phrase("the name or the password is not right"),
        hint=phrase("Try again. An administrator can set a new password."),
    )


def _key(kind: str, *parts: str) -> str:
    """A key of fixed length, whatever was typed."""
    return f"{kind}:{hashlib.sha256(repr(parts).encode(errors='surrogatepass')).hexdigest()}"


def _site(address: str) -> str:
    """The address, or the network that belongs to whoever has it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_AGENT_LENGTH]
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, _SITE_BITS), strict=False))
    return str(parsed)
