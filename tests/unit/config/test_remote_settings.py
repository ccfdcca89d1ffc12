"""[[repository]] with a url: what is taken, what it means, and what each mistake is told."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519

from kvm_backup.config.settings import Settings, check, load
from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.keep_local import KeepLocal, keeps_most

URL = "ssh://backup@nas.example/srv/kvm"
RECIPIENT = "age189ve48m7yv5zk2qgw98w2ryn8vpfv86u2hn5tnw6huwg0c2y0eusv7876d"


def with_remote(**keys: Any) -> Settings:
    return check({"state_dir": "/s", "repository": [{"name": "nas", "url": URL, **keys}]}, None)


def why(**keys: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        with_remote(**keys)
    return caught.value.message


def test_a_remote_is_no_folder_of_this_host_and_copies_the_default_one() -> None:
    settings = with_remote(of="default")
    assert settings.repositories() == {"default": Path("/s/repository")}
    remote = settings.remotes()["nas"]
    assert (remote.of, str(remote.address), str(remote.prune_address)) == ("default", URL, URL)
    assert remote.keep_local is KeepLocal.ALL
    assert remote.plan.limit_at(datetime(2026, 11, 22, 9, tzinfo=UTC)) is None


def test_a_remote_may_copy_a_configured_repository_and_be_pruned_through_another_account() -> None:
    local = {"name": "big", "path": "/big"}
    remote = {"name": "nas", "url": URL, "of": "big", "prune_url": "ssh://prune@nas.example/srv/kvm"}
    # The order in the file is the user's.
    settings = check({"repository": [remote, local]}, None)
    assert settings.remotes()["nas"].prune_address.user == "prune"
    assert settings.remotes()["nas"].address.user == "backup"


def test_the_first_hours_that_fit_count_and_the_bandwidth_for_the_rest_of_the_day() -> None:
    hours = ["08:00-18:30 2MiB", "8:00-20:00 4 MiB", "22:00-24:00 unlimited"]
    plan = with_remote(bandwidth="20MiB", bandwidth_hours=hours).remotes()["nas"].plan
    at = {hour: plan.limit_at(datetime(2026, 11, 22, hour, tzinfo=UTC)) for hour in (7, 8, 19, 21, 23, 0)}
    assert at == {7: 20 << 20, 8: 2 << 20, 19: 4 << 20, 21: 20 << 20, 23: None, 0: 20 << 20}


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ("25:00-18:30 2MiB", "an hour beyond 24:00"),
        ("24:00-18:30 2MiB", "an hour beyond 24:00"),
        ("08:60-18:30 2MiB", "a minute beyond 59"),
        ("08:00-24:01 2MiB", "an hour beyond 24:00"),
        ("08:00-18:30", "must be hours and a rate"),
        ("8-18 2MiB", "must be hours and a rate"),
        ("08:00-18:30 fast", "must be a size such as"),
        ("08:00-18:30 100", "at least 1KiB"),
        ("08:00-18:30 0", "at least 1KiB"),
        (5, "must be hours and a rate"),
    ],
)
def test_hours_that_cannot_be_are_named_with_what_is_expected(hours: object, expected: str) -> None:
    said = why(bandwidth_hours=["01:00-02:00 2MiB", hours])
    assert "'repository.0.bandwidth_hours.1'" in said
    assert expected in said
    assert said.endswith(f"(it is {hours!r})")


@pytest.mark.parametrize("rate", ["0", 0, -1, "1023", True])
def test_a_bandwidth_of_nothing_is_refused(rate: object) -> None:
    assert "'repository.0.bandwidth'" in why(bandwidth=rate)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"path": "/x"}, "exactly one of path and url"),
        ({"of": "nope"}, "'nas' is of 'nope', and no repository is called that"),
        ({"of": "nas"}, "'nas' is of 'nas', which is a remote itself"),
        ({"keep_local": "nothing"}, "keep_local is of no use without of"),
        ({"recipients": [RECIPIENT]}, "recipients is of no use without of"),
        ({"of": "default", "keep_local": "some"}, "'all', 'newest-chain' or 'nothing'"),
        ({"identity_file": "key"}, "must be an absolute path"),
        ({"name": "none", "of": "default"}, "'none' cannot be the name"),
        ({"name": "default", "of": "default"}, "'default' is the name of a repository on this host"),
    ],
)
def test_a_remote_that_cannot_be_is_refused_with_the_reason(keys: dict[str, Any], expected: str) -> None:
    assert expected in why(**keys)


@pytest.mark.parametrize("key", ["of", "keep_local", "bandwidth", "prune_url", "identity_file"])
def test_what_only_a_remote_has_is_refused_with_a_path(key: str) -> None:
    values = {"of": "default", "keep_local": "all", "bandwidth": 4096, "prune_url": URL, "identity_file": "/x"}
    with pytest.raises(SettingsError, match=f"{key} is of no use without url"):
        check({"repository": [{"name": "a", "path": "/a", key: values[key]}]}, None)


def test_neither_path_nor_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="exactly one of path and url"):
        check({"repository": [{"name": "a"}]}, None)


def test_backups_are_not_written_to_a_remote() -> None:
    with pytest.raises(SettingsError, match="default_repository 'nas' has a url"):
        check({"default_repository": "nas", "repository": [{"name": "nas", "url": URL}]}, None)


def test_one_place_cannot_be_two_remotes_however_it_is_written() -> None:
    remotes = [{"name": "a", "url": URL}, {"name": "b", "url": f"{URL}/"}]
    with pytest.raises(SettingsError, match="two repositories have the same url"):
        check({"repository": remotes}, None)


@pytest.mark.parametrize("key", ["url", "prune_url"])
def test_a_password_in_an_address_is_refused_and_not_shown(key: str) -> None:
    said = why(**{key: "ssh://me:geheim@nas.example/srv"})
    assert "it holds a password" in said
    assert f"'repository.0.{key}'" in said
    assert "geheim" not in said


def test_a_recipient_is_taken_and_a_private_key_in_its_place_is_refused_and_not_shown() -> None:
    assert with_remote(of="default", recipients=[RECIPIENT]).remotes()["nas"].recipients == (RECIPIENT,)
    private = str(x25519.Identity.generate())
    said = why(of="default", recipients=[RECIPIENT, private])
    assert "'repository.0.recipients.1'" in said
    assert "public key" in said
    assert private not in said


@pytest.mark.parametrize("text", [RECIPIENT[:-1], RECIPIENT[:-1] + "a", "", "ssh-ed25519 AAAA", RECIPIENT + "\n"])
def test_what_is_no_recipient_is_refused(text: str) -> None:
    assert "public key" in why(of="default", recipients=[text])


@pytest.mark.parametrize(
    ("ship_to", "expected"),
    [
        (["away"], "no repository with a url is called 'away'"),
        (["default"], "no repository with a url is called 'default'"),
        (["old"], "nothing is shipped to 'old'"),
    ],
)
def test_a_vm_is_shipped_to_remotes_that_take_points_only(ship_to: list[str], expected: str) -> None:
    remotes = [{"name": "nas", "url": URL, "of": "default"}, {"name": "old", "url": "ssh://old/srv"}]
    fields = {"repository": remotes, "vm": {"web": {"ship_to": ["nas"]}, "db": {"ship_to": []}, "ns": {}}}
    vms = check(fields, None).vm
    assert [vms[name].ship_to for name in ("web", "db", "ns")] == [("nas",), (), None]
    with pytest.raises(SettingsError, match=f"ship_to of 'x y': {expected}"):
        check({"repository": remotes, "vm": {"x y": {"ship_to": ship_to}}}, None)


def test_a_variable_names_another_configuration_of_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kvm-backup.toml").touch()
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(tmp_path / "kvm-backup.toml"))
    monkeypatch.setenv("KVM_BACKUP_SSH_CONFIG", "/etc/other/ssh_config")
    assert load().ssh_config == Path("/etc/other/ssh_config")


def test_of_several_wishes_the_one_that_keeps_the_most_counts() -> None:
    assert keeps_most([KeepLocal.NOTHING, KeepLocal.NEWEST_CHAIN]) is KeepLocal.NEWEST_CHAIN
    assert keeps_most([KeepLocal.NOTHING]) is KeepLocal.NOTHING
    assert keeps_most([]) is KeepLocal.ALL
