"""Users, sessions, tokens, failed sign-ins and the audit log keep their word on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import URL, text

from kvm_backup.database.accounts import Accounts
from kvm_backup.database.audit import AuditLog
from kvm_backup.database.credentials import ApiTokens, Sessions
from kvm_backup.database.engine import Database
from kvm_backup.database.login_failures import LoginFailures
from kvm_backup.domain.account import Account, Actor, ApiToken, Outcome, Role, Via
from kvm_backup.domain.errors import (
    ForbiddenError,
    InvitationError,
    LastAdministratorError,
    TokenNotFoundError,
    UserExistsError,
    UserNotFoundError,
)
from kvm_backup.domain.sign_in_limit import Limit

MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
NASTY = ["'; DROP TABLE users; --", "%", "_", "a\0b", "\udcff", "<script>", "alice\r\nX: y", "x" * 5000, ""]


class Clock:
    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> datetime:
        return self.now

    def after(self, **step: float) -> None:
        self.now += timedelta(**step)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(url: URL) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, clock)


@pytest.fixture
def sessions(database: Database, clock: Clock) -> Sessions:
    return Sessions(database, clock)


@pytest.fixture
def tokens(database: Database, clock: Clock) -> ApiTokens:
    return ApiTokens(database, clock)


def a_token(owner: Account, id_: str = "abc123", **changes: Any) -> ApiToken:
    fields: dict[str, Any] = {"name": "prometheus", "role": Role.VIEWER, "created": MOMENT, "expires": None}
    return ApiToken(id=id_, user_id=owner.id, user_name=owner.name, **fields | changes)


def count(database: Database, table: str) -> int:
    with database.transaction() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


# Users


def test_a_user_is_kept_and_found_by_its_name_alone(accounts: Accounts) -> None:
    made = accounts.add("alice", Role.OPERATOR, "hash")
    assert accounts.find("alice") == made
    assert (made.role, made.enabled, made.can_sign_in, made.created) == (Role.OPERATOR, True, True, MOMENT)
    accounts.add("bob", Role.VIEWER, None)
    assert [user.name for user in accounts.all()] == ["alice", "bob"]
    assert not accounts.find("bob").can_sign_in
    for name in [*NASTY, "ALICE", "alice ", "ali"]:
        with pytest.raises(UserNotFoundError):
            accounts.find(name)
        assert accounts.with_hash(name) is None


def test_a_name_is_given_once_though_many_ask_at_once(accounts: Accounts) -> None:
    together = Barrier(4)

    def add(_number: int) -> bool:
        together.wait()
        try:
            accounts.add("alice", Role.VIEWER, None)
        except UserExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(add, range(4))) == [False, False, False, True]


def demote(accounts: Accounts, name: str) -> Account:
    return accounts.change_role(name, Role.OPERATOR)


LOSING: dict[str, Callable[[Accounts, str], Account]] = {
    "remove": Accounts.remove,
    "disable": Accounts.disable,
    "demote": demote,
}


@pytest.mark.parametrize("way", LOSING)
def test_the_only_administrator_who_can_sign_in_stays(accounts: Accounts, way: str) -> None:
    accounts.add("alice", Role.ADMINISTRATOR, "hash")
    accounts.add("invited", Role.ADMINISTRATOR, None)
    accounts.add("disabled", Role.ADMINISTRATOR, "hash")
    accounts.disable("disabled")
    accounts.add("operator", Role.OPERATOR, "hash")
    with pytest.raises(LastAdministratorError, match="alice"):
        LOSING[way](accounts, "alice")
    assert accounts.find("alice").role is Role.ADMINISTRATOR
    assert accounts.find("alice").enabled
    accounts.add("bob", Role.ADMINISTRATOR, "hash")
    LOSING[way](accounts, "alice")


@pytest.mark.parametrize("way", LOSING)
def test_who_is_no_administrator_or_cannot_sign_in_can_always_go(accounts: Accounts, way: str) -> None:
    accounts.add("alice", Role.ADMINISTRATOR, "hash")
    accounts.add("invited", Role.ADMINISTRATOR, None)
    accounts.add("bob", Role.VIEWER, "hash")
    LOSING[way](accounts, "invited")
    LOSING[way](accounts, "bob")


@pytest.mark.parametrize("ways", [("remove", "remove"), ("remove", "demote"), ("disable", "demote")])
def test_of_two_administrators_who_take_each_other_away_at_once_one_stays(
    accounts: Accounts, ways: tuple[str, str]
) -> None:
    survivor = ""
    for round_ in range(10):
        names = [f"a{round_}", f"b{round_}"]
        for name in names:
            accounts.add(name, Role.ADMINISTRATOR, "hash")
        if survivor:
            accounts.remove(survivor)
        together = Barrier(2)

        def lose(way: str, name: str, together: Barrier = together) -> bool:
            together.wait()
            try:
                LOSING[way](accounts, name)
            except LastAdministratorError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(lose, ways, names)) == [False, True]
        able = [one for one in accounts.all() if one.role is Role.ADMINISTRATOR and one.enabled and one.can_sign_in]
        assert len(able) == 1
        survivor = able[0].name


def test_a_removed_or_disabled_user_has_nothing_left(
    accounts: Accounts, sessions: Sessions, tokens: ApiTokens, database: Database
) -> None:
    for name, lose in (("alice", accounts.remove), ("bob", accounts.disable)):
        user = accounts.add(name, Role.VIEWER, "hash")
        assert sessions.add(user.id, "hash", f"session of {name}", address="::1", agent="x")
        tokens.add(a_token(user, name), f"token of {name}")
        accounts.invite(user.id, f"link of {name}", MOMENT + timedelta(days=1))
        lose(name)
        assert sessions.find(f"session of {name}") is None
        assert tokens.find(f"token of {name}") is None
        with pytest.raises(InvitationError):
            accounts.invitation(f"link of {name}")
        assert not sessions.add(user.id, "hash", "another", address="::1", agent="x")
        with pytest.raises(ForbiddenError):
            tokens.add(a_token(user, "another"), "another")
    assert (count(database, "sessions"), count(database, "api_tokens"), count(database, "invitations")) == (0, 0, 0)
    accounts.enable("bob")
    assert sessions.find("session of bob") is None


# Invitations


def test_a_link_is_good_once_though_many_use_it_at_once(accounts: Accounts) -> None:
    assert accounts.invite_first("digest", MOMENT + timedelta(days=1))
    together = Barrier(4)

    def accept(number: int) -> bool:
        together.wait()
        try:
            accounts.accept("digest", f"hash {number}", f"user{number}")
        except InvitationError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(accept, range(4))) == [False, False, False, True]
    [made] = accounts.all()
    assert made.role is Role.ADMINISTRATOR


def test_a_link_ends_with_its_time_its_successor_and_a_new_password(accounts: Accounts, clock: Clock) -> None:
    user = accounts.add("alice", Role.VIEWER, None)
    later = MOMENT + timedelta(hours=24)
    accounts.invite(user.id, "first", later)
    accounts.invite(user.id, "second", later)
    assert accounts.invitation("second").user_name == "alice"
    clock.after(hours=24)
    for digest in ("first", "second", "never"):
        with pytest.raises(InvitationError):
            accounts.accept(digest, "hash")
    accounts.forget_expired()
    accounts.invite(user.id, "third", clock.now + timedelta(hours=1))
    accounts.set_password(user.id, "hash")
    with pytest.raises(InvitationError):
        accounts.invitation("third")


def test_a_link_for_the_first_administrator_is_void_once_there_is_a_user(accounts: Accounts) -> None:
    assert accounts.invite_first("old", MOMENT + timedelta(days=1))
    assert accounts.invite_first("digest", MOMENT + timedelta(days=1))
    with pytest.raises(InvitationError):
        accounts.invitation("old")
    accounts.add("alice", Role.VIEWER, "hash")
    with pytest.raises(InvitationError):
        accounts.accept("digest", "hash", "mallory")
    assert not accounts.invite_first("another", MOMENT + timedelta(days=1))
    assert [user.name for user in accounts.all()] == ["alice"]


def test_a_link_sets_the_password_of_its_user_and_keeps_role_and_name(accounts: Accounts, sessions: Sessions) -> None:
    user = accounts.add("alice", Role.VIEWER, "old")
    sessions.add(user.id, "old", "before", address="::1", agent="x")
    accounts.invite(user.id, "digest", MOMENT + timedelta(days=1))
    accepted = accounts.accept("digest", "new", "mallory")
    assert (accepted.name, accepted.role) == ("alice", Role.VIEWER)
    assert accounts.with_hash("alice") == (accepted, "new")
    assert sessions.find("before") is None


# Sessions


def test_a_session_ends_when_it_is_not_used_and_after_a_week_when_it_is(
    accounts: Accounts, sessions: Sessions, clock: Clock
) -> None:
    user = accounts.add("alice", Role.VIEWER, "hash")
    sessions.add(user.id, "hash", "idle", address="::1", agent="x")
    sessions.add(user.id, "hash", "used", address="::1", agent="x")
    for _hour in range(0, 7 * 24 - 1, 11):
        assert sessions.find("used") is not None
        clock.after(hours=11)
    assert sessions.find("idle") is None
    clock.now = MOMENT + timedelta(days=7)
    assert sessions.find("used") is None
    assert sessions.of_user(user.id) == []
    sessions.forget_expired()
    clock.now = MOMENT
    assert sessions.find("used") is None


def test_that_a_session_was_used_is_written_once_a_minute(
    accounts: Accounts, sessions: Sessions, clock: Clock
) -> None:
    user = accounts.add("alice", Role.VIEWER, "hash")
    sessions.add(user.id, "hash", "digest", address="192.0.2.7", agent="Browser")
    clock.after(seconds=59)
    sessions.find("digest")
    [session] = sessions.of_user(user.id)
    assert (session.seen, session.address, session.agent) == (MOMENT, "192.0.2.7", "Browser")
    clock.after(seconds=1)
    sessions.find("digest")
    assert sessions.of_user(user.id)[0].seen == MOMENT + timedelta(minutes=1)


def test_a_password_changed_between_check_and_sign_in_gives_no_session(
    accounts: Accounts, sessions: Sessions
) -> None:
    user = accounts.add("alice", Role.VIEWER, "old")
    accounts.set_password(user.id, "new")
    assert not sessions.add(user.id, "old", "digest", address="::1", agent="x")
    assert sessions.find("digest") is None


def test_a_new_password_ends_the_other_sessions_and_a_newer_hash_of_the_same_none(
    accounts: Accounts, sessions: Sessions
) -> None:
    user = accounts.add("alice", Role.VIEWER, "old")
    for digest in ("a", "b"):
        sessions.add(user.id, "old", digest, address="::1", agent="x")
    accounts.rehash(user.id, "old", "old, newer")
    accounts.rehash(user.id, "old", "lost a race")
    assert sessions.find("b") is not None
    found = accounts.with_hash("alice")
    assert found is not None
    assert found[1] == "old, newer"
    accounts.set_password(user.id, "new", keep_session="a")
    assert [sessions.find(digest) is not None for digest in ("a", "b")] == [True, False]


def test_nobody_ends_the_session_of_another(accounts: Accounts, sessions: Sessions) -> None:
    alice, mallory = (accounts.add(name, Role.VIEWER, "hash") for name in ("alice", "mallory"))
    sessions.add(alice.id, "hash", "digest", address="::1", agent="x")
    assert not sessions.end(mallory.id, "digest")
    assert sessions.end_others(mallory.id, None) == 0
    assert sessions.find("digest") is not None
    assert sessions.end(alice.id, "digest")
    assert sessions.find("digest") is None


# Tokens


def test_a_token_gives_its_role_or_its_owners_where_that_is_lower_by_now(
    accounts: Accounts, tokens: ApiTokens
) -> None:
    owner = accounts.add("alice", Role.OPERATOR, "hash")
    tokens.add(a_token(owner, "low"), "low")
    tokens.add(a_token(owner, "high", role=Role.OPERATOR), "high")
    with pytest.raises(ForbiddenError):
        tokens.add(a_token(owner, "above", role=Role.ADMINISTRATOR), "above")

    def roles() -> list[Role]:
        return [found[0].role for digest in ("low", "high") if (found := tokens.find(digest))]

    assert roles() == [Role.VIEWER, Role.OPERATOR]
    accounts.change_role("alice", Role.VIEWER)
    assert roles() == [Role.VIEWER, Role.VIEWER]
    accounts.change_role("alice", Role.ADMINISTRATOR)
    assert roles() == [Role.VIEWER, Role.OPERATOR]


def test_a_token_ends_with_its_time(accounts: Accounts, tokens: ApiTokens, clock: Clock) -> None:
    owner = accounts.add("alice", Role.VIEWER, "hash")
    tokens.add(a_token(owner, "short", expires=MOMENT + timedelta(days=1)), "short")
    tokens.add(a_token(owner, "long"), "long")
    clock.after(days=1, seconds=-1)
    assert tokens.find("short") is not None
    clock.after(seconds=1)
    assert tokens.find("short") is None
    assert [token.id for token in tokens.all()] == ["long", "short"]
    tokens.forget_expired(clock.now + timedelta(days=1))
    assert [token.id for token in tokens.all()] == ["long"]
    clock.after(days=36500)
    assert tokens.find("long") is not None


def test_that_a_token_was_used_is_written_once_a_minute(accounts: Accounts, tokens: ApiTokens, clock: Clock) -> None:
    owner = accounts.add("alice", Role.VIEWER, "hash")
    tokens.add(a_token(owner), "digest")
    assert tokens.all()[0].last_used is None
    seen = []
    for seconds in (0, 59, 1):
        clock.after(seconds=seconds)
        tokens.find("digest")
        seen.append(tokens.all()[0].last_used)
    assert seen == [MOMENT, MOMENT, MOMENT + timedelta(minutes=1)]


def test_a_token_is_revoked_by_a_beginning_that_only_it_has_and_only_by_its_owner(
    accounts: Accounts, tokens: ApiTokens
) -> None:
    alice, mallory = (accounts.add(name, Role.VIEWER, "hash") for name in ("alice", "mallory"))
    tokens.add(a_token(alice, "abc1"), "one")
    tokens.add(a_token(alice, "abc2"), "two")
    for reference, user_id in (("abc", None), ("abc1", mallory.id), ("%", None), *((nasty, None) for nasty in NASTY)):
        with pytest.raises(TokenNotFoundError):
            tokens.revoke(reference, user_id)
    assert tokens.revoke("abc1", alice.id).id == "abc1"
    assert tokens.find("one") is None
    assert tokens.find("two") is not None


# Failed sign-ins


def test_many_attempts_at_once_are_not_more_than_one_after_the_other(database: Database, clock: Clock) -> None:
    failures = LoginFailures(database, clock)
    together = Barrier(8)

    def attempt(_number: int) -> int:
        together.wait()
        return failures.begin({"account:a": Limit(5), "address:b": Limit(20)})

    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(attempt, range(8)))
    assert sorted(waits) == [0] * 5 + [15] * 3


def test_waiting_is_not_made_longer_by_trying_and_ends_in_a_quarter_of_an_hour(
    database: Database, clock: Clock
) -> None:
    failures = LoginFailures(database, clock)
    waits = []
    for _attempt in range(14):
        wait = failures.begin({"account:a": Limit(5)})
        if wait:
            waits.append(wait)
            assert failures.begin({"account:a": Limit(5)}) == wait
            clock.after(seconds=wait)
            assert failures.begin({"account:a": Limit(5)}) == 0
    assert waits == [15, 30, 60, 120, 240, 480, 900, 900, 900]


def test_a_sign_in_forgives_the_account_and_gives_the_address_its_attempt_back(
    database: Database, clock: Clock
) -> None:
    failures = LoginFailures(database, clock)
    both = {"account:a": Limit(3), "address:b": Limit(4)}
    for _attempt in range(3):
        assert failures.begin(both) == 0
    assert failures.begin(both) == 15
    failures.succeeded(["account:a"], ["address:b"])
    assert [failures.begin(both) for _attempt in range(3)] == [0, 0, 15]


def test_failures_are_forgotten_after_a_day(database: Database, clock: Clock) -> None:
    failures = LoginFailures(database, clock)
    for number in range(3):
        failures.begin({f"account:{number}": Limit(1)})
    clock.after(hours=24)
    assert failures.begin({"account:new": Limit(1)}) == 0
    assert count(database, "login_failures") == 1


def test_an_address_is_known_where_its_user_signed_in_lately(
    database: Database, accounts: Accounts, clock: Clock
) -> None:
    failures = LoginFailures(database, clock)
    user = accounts.add("alice", Role.VIEWER, "hash")
    failures.remember(user.id, "192.0.2.7")
    clock.after(days=1)
    failures.remember(user.id, "192.0.2.7")
    assert failures.knows(user.id, "192.0.2.7", MOMENT)
    assert not failures.knows(user.id, "192.0.2.8", MOMENT)
    assert not failures.knows("", "192.0.2.7", MOMENT)
    assert not failures.knows(user.id, "192.0.2.7", clock.now)
    failures.forget_addresses(clock.now)
    assert failures.knows(user.id, "192.0.2.7", MOMENT)
    clock.after(seconds=1)
    failures.forget_addresses(clock.now)
    assert not failures.knows(user.id, "192.0.2.7", MOMENT)


# The audit log


@pytest.fixture
def add_line(database: Database, clock: Clock) -> tuple[AuditLog, Callable[..., None]]:
    log = AuditLog(database, clock)

    def add(subject: str, name: str = "alice", **changes: Any) -> None:
        actor = Actor(name, changes.pop("via", Via.WEB), changes.pop("address", "192.0.2.7"))
        log.add(actor, changes.pop("action", "user.add"), subject, changes.pop("outcome", Outcome.DONE), **changes)

    return log, add


def test_lines_come_newest_first_page_by_page_and_by_what_they_hold(
    add_line: tuple[AuditLog, Callable[..., None]],
) -> None:
    log, add = add_line
    for number in range(7):
        add(f"bob{number}", name="Alice" if number % 2 else "root", via=Via.COMMAND)
    add("100%_sure", address=None, detail="forbidden", outcome=Outcome.REFUSED)
    newest = log.newest(limit=3)
    assert [line.subject for line in newest] == ["100%_sure", "bob6", "bob5"]
    assert (newest[0].address, newest[0].detail, newest[0].outcome, newest[0].at) == (
        None,
        "forbidden",
        Outcome.REFUSED,
        MOMENT,
    )
    older = log.newest(limit=3, before=newest[-1].number)
    assert [line.subject for line in older] == ["bob4", "bob3", "bob2"]
    assert [line.subject for line in log.newest(search="BOB5")] == ["bob5"]
    assert [line.subject for line in log.newest(search=" 0%_S ")] == ["100%_sure"]
    assert len(log.newest(search="root")) == 4
    assert log.newest(search="b%5") == []
    for search in NASTY[:-1]:
        assert log.newest(search=search) == ([newest[0]] if search in ("%", "_") else [])


def test_a_line_holds_nothing_that_could_make_another_or_steer_a_terminal(
    add_line: tuple[AuditLog, Callable[..., None]],
) -> None:
    log, add = add_line
    hostile = "x\n2026-11-22 root user.remove\x1b[2J\u202e\0\udcff" + "y" * 5000
    add(hostile, name=hostile, address=hostile, action=hostile, detail=hostile)
    [line] = log.newest()
    for value in (line.who, line.address, line.action, line.subject, line.detail):
        assert value is not None
        assert value.isprintable()
        assert value.startswith("x\\n2026")
        assert len(value) <= 500


def test_old_lines_are_forgotten(add_line: tuple[AuditLog, Callable[..., None]], clock: Clock) -> None:
    log, add = add_line
    add("old")
    clock.after(days=1)
    add("new")
    log.delete_older_than(clock.now)
    assert [line.subject for line in log.newest()] == ["new"]
