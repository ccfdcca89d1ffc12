"""Which zone wall-clock times are in."""

from pathlib import Path
from zoneinfo import TZPATH

import pytest

from kvm_backup.config.settings import check
from kvm_backup.config.zone import find_zone
from kvm_backup.domain.errors import SettingsError

NOWHERE = Path("/nonexistent")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)


def test_the_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Apia")
    assert find_zone("Africa/Kinshasa").key == "Africa/Kinshasa"


@pytest.mark.parametrize(
    ("value", "expected"), [("Pacific/Apia", "Pacific/Apia"), (":Europe/Paris", "Europe/Paris"), ("", "UTC")]
)
def test_else_tz_decides(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("TZ", value)
    assert find_zone(None).key == expected


def test_else_the_link_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Paris")
    assert find_zone(None, tmp_path / "localtime", NOWHERE).key == "Europe/Paris"


def test_else_the_hosts_file_with_the_name(tmp_path: Path) -> None:
    (tmp_path / "timezone").write_text("America/New_York\n")
    (tmp_path / "localtime").write_bytes(b"no rules")
    assert find_zone(None, tmp_path / "localtime", tmp_path / "timezone").key == "America/New_York"


def test_else_the_rules_themselves(tmp_path: Path) -> None:
    rules = next(path for folder in TZPATH if (path := Path(folder) / "Europe/Paris").exists())
    (tmp_path / "localtime").write_bytes(rules.read_bytes())
    (tmp_path / "timezone").write_text("Not/Known")
    zone = find_zone(None, tmp_path / "localtime", tmp_path / "timezone")
    assert zone.key == "local time"


def test_a_host_that_tells_nothing_is_in_utc() -> None:
    assert find_zone(None, NOWHERE, NOWHERE).key == "UTC"


@pytest.mark.parametrize(
    "name", ["Europe/Pari", "../../etc/passwd", "/etc/localtime", "", "Europe", "CET-1CEST", "\x1b"]
)
def test_an_unknown_zone_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SettingsError, match="timezone"):
        find_zone(name)
    with pytest.raises(SettingsError, match="timezone"):
        check({"timezone": name}, None)
    if name not in ("", "/etc/localtime"):  # these are names of UTC and of the host's zone in TZ
        monkeypatch.setenv("TZ", name)
        with pytest.raises(SettingsError, match="TZ"):
            find_zone(None)
