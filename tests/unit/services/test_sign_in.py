"""What a sign-in costs, and that it costs the same whoever is named."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from argon2 import PasswordHasher

from kvm_backup.database.accounts import Accounts
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.account import Role
from kvm_backup.domain.errors import BadArgumentError, SignInError, TooManyAttemptsError
from kvm_backup.services.access import AccessServices, make_access
from kvm_backup.services.passwords import Passwords
from kvm_backup.services.secrets import digest_of, new_secret

PASSWORD = "trente-deux chevaux"


class CountingHasher(PasswordHasher):
    """Tells how often a password was checked, and can be made to wait in it."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.checked = 0
        self.go_on = Event()
        self.go_on.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # noqa: A002 - as argon2 names it
        self.checked += 1
        self.go_on.wait(30)
        return super().verify(hash, password)


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(sqlite_url(tmp_path / "kvm-backup.db"))


@pytest.fixture
def access(database: Database, hasher: CountingHasher) -> AccessServices:
    return make_access(database, lambda: datetime.now(UTC), Passwords(hasher))


def attempt(access: AccessServices, name: str, password: str = "x", address: str = "192.0.2.7") -> None:
    access.sign_in.sign_in(name, password, address=address, agent="x")


@pytest.mark.parametrize("name", ["alice", "nobody", "invited", "disabled", "", "'--"])
def test_one_hash_is_checked_whether_there_is_such_a_user_or_not(
    access: AccessServices, hasher: CountingHasher, name: str
) -> None:
    access.accounts.add("alice", Role.VIEWER, PASSWORD)
    access.accounts.add("invited", Role.VIEWER)
    access.accounts.add("disabled", Role.VIEWER, PASSWORD)
    access.accounts.disable("disabled")
    with pytest.raises(SignInError):
        attempt(access, name)
    assert hasher.checked == 1


def test_a_password_that_is_no_text_is_wrong_and_checked_like_any_other(
    access: AccessServices, hasher: CountingHasher
) -> None:
    access.accounts.add("alice", Role.VIEWER, PASSWORD)
    with pytest.raises(SignInError):
        attempt(access, "alice", "\udcff")
    assert hasher.checked == 1


def test_while_one_must_wait_no_hash_is_checked(access: AccessServices, hasher: CountingHasher) -> None:
    for _attempt in range(5):
        with pytest.raises(SignInError):
            attempt(access, "alice")
    with pytest.raises(TooManyAttemptsError) as caught:
        attempt(access, "alice")
    assert (hasher.checked, caught.value.seconds) == (5, 15)


def test_a_restart_forgets_no_attempt(access: AccessServices, database: Database) -> None:
    for _attempt in range(5):
        with pytest.raises(SignInError):
            attempt(access, "alice")
    again = make_access(database, lambda: datetime.now(UTC), Passwords(CountingHasher()))
    with pytest.raises(TooManyAttemptsError):
        attempt(again, "alice", address="198.51.100.1")


def test_a_flood_of_sign_ins_is_sent_away_before_it_takes_all_threads(
    access: AccessServices, hasher: CountingHasher
) -> None:
    hasher.go_on.clear()
    waiting = [Thread(target=_ignored, args=(attempt, access, f"user{n}", "x", f"192.0.2.{n}")) for n in range(8)]
    for thread in waiting:
        thread.start()
    _until(lambda: access.sign_in._passwords._places._value == 0)
    with pytest.raises(TooManyAttemptsError):
        attempt(access, "alice", address="203.0.113.1")
    assert hasher.checked == 2
    hasher.go_on.set()
    for thread in waiting:
        thread.join(30)
    with pytest.raises(SignInError):
        attempt(access, "alice", address="203.0.113.1")


def _ignored(call: Callable[..., None], *arguments: Any) -> None:
    with pytest.raises(SignInError):
        call(*arguments)


def _until(true: Callable[[], bool]) -> None:
    pause = Event()
    while not true():
        pause.wait(0.01)


def test_a_hash_of_older_parameters_is_renewed_at_the_next_sign_in(
    access: AccessServices, database: Database
) -> None:
    access.accounts.add("alice", Role.VIEWER, PASSWORD)
    stronger = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    newer = make_access(database, lambda: datetime.now(UTC), Passwords(stronger))
    attempt(newer, "alice", PASSWORD)
    found = Accounts(database, lambda: datetime.now(UTC)).with_hash("alice")
    assert found is not None
    assert "m=16,t=2" in str(found[1])
    assert len(newer.sign_in.sessions_of(found[0])) == 1
    attempt(newer, "alice", PASSWORD)


def test_the_hash_is_argon2id_with_the_parameters_of_rfc_9106() -> None:
    assert Passwords().hash(PASSWORD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_damaged_hash_matches_no_password(access: AccessServices) -> None:
    assert not Passwords().verify("", "")
    assert not Passwords().verify("$argon2id$nonsense", PASSWORD)


def test_secrets_are_long_different_and_kept_as_a_digest() -> None:
    secrets = {new_secret() for _number in range(100)}
    assert {len(secret) for secret in secrets} == {43}
    assert len({digest_of(secret) for secret in secrets}) == 100
    assert {len(digest_of(text)) for text in ("", "\udcff", "x" * 10**6)} == {64}


@pytest.mark.parametrize("days", [0, -1, 3651, 10**9])
def test_a_token_lives_for_a_sensible_time(access: AccessServices, days: int) -> None:
    owner = access.accounts.add("alice", Role.VIEWER, PASSWORD)
    with pytest.raises(BadArgumentError):
        access.api_tokens.add(owner, "x", Role.VIEWER, days)
