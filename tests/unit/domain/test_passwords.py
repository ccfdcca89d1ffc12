"""Which passwords are taken, and how long wrong ones cost."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.account import Role, account_name
from kvm_backup.domain.errors import BadArgumentError, WeakPasswordError
from kvm_backup.domain.password import check_password, normalised
from kvm_backup.domain.sign_in_limit import PER_ACCOUNT, PER_ADDRESS, Limit

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "password",
    [
        "trente-deux chevaux",
        "aaaabbbbcccc dddd",
        "            x y z",
        "пароль из слов",
        "🐎🐎🐎 🐢 🐇 🐖 🐄 🐑",
        "alice liebt zwölf Katzen",
        "x1y2" * 250,
    ],
)
def test_a_long_password_of_any_characters_is_taken(password: str) -> None:
    check_password(password, "alice")


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("", "short"),
        ("elevenchars", "short"),
        ("e\u0301" * 11, "short"),
        ("x" * 1001, "long"),
        ("password1234", "first"),
        ("MotDePasse123", "first"),
        ("aaaaaaaaaaaaaaaa", "first"),
        ("abababababab", "first"),
        ("administrateur", "first"),
        ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff441234", "first"),
        ("christophe.m", "name"),
        ("Christophe.M2026!", "name"),
        ("christophe.mchristophe.m", "name"),
        ("\udcff" * 12, "text"),
    ],
)
def test_a_password_that_is_guessed_first_is_refused(password: str, told: str) -> None:
    with pytest.raises(WeakPasswordError, match=told):
        check_password(password, "christophe.m")


def test_an_accent_typed_in_another_way_is_the_same_password() -> None:
    assert normalised("ete\u0301 a\u0300 Alger") == normalised("et\u00e9 \u00e0 Alger")


@given(st.text())
def test_a_name_is_small_letters_or_refused(text: str) -> None:
    try:
        name = account_name(text)
    except BadArgumentError:
        return
    assert name == account_name(name)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" /\\<>&'\"%?#")


def test_each_role_covers_itself_and_those_below() -> None:
    covered = [[role.covers(wanted) for wanted in Role] for role in Role]
    assert covered == [[True, False, False], [True, True, False], [True, True, True]]


@given(
    limit=st.sampled_from([PER_ACCOUNT, PER_ADDRESS]),
    failures=st.integers(0, 10**6),
    seconds=st.integers(-(10**7), 10**7),
)
def test_no_wait_is_longer_than_a_quarter_of_an_hour_whatever_the_clock_does(
    limit: Limit, failures: int, seconds: int
) -> None:
    wait = limit.wait(failures, NOW, NOW + timedelta(seconds=seconds))
    assert 0 <= wait <= 900
    assert wait == 0 or failures >= limit.free
    assert limit.wait(failures, NOW, NOW + timedelta(minutes=15)) == 0


@given(failures=st.integers(5, 100))
def test_waits_never_get_shorter(failures: int) -> None:
    assert PER_ACCOUNT.wait(failures, NOW, NOW) <= PER_ACCOUNT.wait(failures + 1, NOW, NOW)
