"""Settings: an error always names the file or variable, the key, what came and what is expected."""

import os
import tomllib
from pathlib import Path

import pytest

from kvm_backup.config.registry import prepare_registration, prepare_table
from kvm_backup.config.settings import Settings, file_locations, load, settings_file, unknown_variables
from kvm_backup.domain.errors import SettingsError


@pytest.fixture(autouse=True)
def no_settings_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("KVM_BACKUP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The configuration folder of a user who is not root, on a host that has no settings file."""
    if Path("/etc/kvm-backup/kvm-backup.toml").exists():
        pytest.skip("this host has a settings file, which a test must not touch")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "kvm-backup.toml"
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(path))
    return path


REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": ("nope = 1", ("'nope'", "there is no such setting")),
    "unknown key in a table": ("[backup]\nlevel = 1", ("'backup.level'", "there is no such setting")),
    "unknown key of a vm": ("[vm.web]\nfrezee = true", ("'vm.web.frezee'", "there is no such setting")),
    "a key of the library": ('_env_file = "x"', ("'_env_file'", "there is no such setting")),
    "wrong type": ("[backup]\nfreeze = 5", ("'backup.freeze'", "boolean", "it is 5")),
    "a table as a value": ("[state_dir]\na = 1", ("'state_dir'", "path")),
    "out of range": ("[backup]\ncompression_level = 23", ("'backup.compression_level'", "19", "it is 23")),
    "no size": ('[backup]\nspace_reserve = "much"', ("'backup.space_reserve'", "512MiB", "it is 'much'")),
    "negative size": ("[backup]\nspace_reserve = -1", ("'backup.space_reserve'", "greater than or equal to 0", "-1")),
    "relative folder": ('state_dir = "x"', ("'state_dir'", "must be an absolute path", "it is 'x'")),
    "relative repository": ('[[repository]]\nname = "a"\npath = "x"', ("'repository.0.path'", "absolute path")),
    "repository without a place": ('[[repository]]\nname = "a"', ("'repository.0'", "exactly one of path and url")),
    "a name with a slash": ('[[repository]]\nname = "a/b"\npath = "/x"', ("'repository.0.name'", "it is 'a/b'")),
    "one name twice": (
        '[[repository]]\nname = "a"\npath = "/x"\n[[repository]]\nname = "a"\npath = "/y"',
        ("'repository'", "two repositories have the same name"),
    ),
    "a port that there is not": ("[web]\nport = 70000", ("'web.port'", "65535", "it is 70000")),
    "a relative certificate": ('[web]\ntls_certificate = "x.pem"', ("'web.tls_certificate'", "absolute path")),
    "a key without a certificate": ('[web]\ntls_key = "/x.pem"', ("'web'", "of no use without tls_certificate")),
    "an address as a name": ('[web]\nallowed_hosts = ["http://x"]', ("'web.allowed_hosts.0'", "http://x")),
    "bad TOML": ("[backup]\nfreeze = perhaps", ("is not valid TOML", "line 2")),
    "a key twice": ('state_dir = "/a"\nstate_dir = "/b"\n\n', ("is not valid TOML", "line 2")),
    "deep nesting": ("x = " + "[" * 50_000, ("is not valid TOML",)),
    "bytes that are no text": ("\udcff", ("is not valid TOML", "position 0")),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_named_with_key_value_and_what_is_expected(
    file: Path, text: str, expected: tuple[str, ...]
) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SettingsError) as caught:
        load()
    for part in (str(file), *expected):
        assert part in caught.value.message
    assert "docs/settings.md" in caught.value.hint


VARIABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no size": ("KVM_BACKUP_BACKUP__SPACE_RESERVE", "much", ("'backup.space_reserve'", "512MiB", "'much'")),
    "no number": ("KVM_BACKUP_SNAPSHOT__KEEP", "many", ("'snapshot.keep'", "integer", "'many'")),
    "relative path": ("KVM_BACKUP_STATE_DIR", "here", ("'state_dir'", "absolute path", "'here'")),
    "empty path": ("KVM_BACKUP_SCRATCH_DIR", "", ("'scratch_dir'", "absolute path")),
    "unknown key in a table": ("KVM_BACKUP_BACKUP__NOPE", "1", ("'backup.nope'", "there is no such setting")),
    "no JSON": ("KVM_BACKUP_REPOSITORY", "a=/x", ("'repository'", "must be JSON", "'a=/x'")),
    "bad entry of a list": ("KVM_BACKUP_REPOSITORY", '[{"name": "a", "path": "x"}]', ("'repository.0.path'", "'x'")),
}


@pytest.mark.parametrize(("variable", "value", "expected"), VARIABLES.values(), ids=VARIABLES)
def test_a_variable_that_cannot_be_used_is_named_not_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: tuple[str, ...]
) -> None:
    file.write_text("")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load()
    for part in (variable, *expected):
        assert part in caught.value.message
    assert str(file) not in caught.value.message


def test_the_environment_wins_over_the_file_value_by_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[backup]\nspace_reserve = "2 GiB"\nlock_wait = 7\n')
    monkeypatch.setenv("KVM_BACKUP_BACKUP__SPACE_RESERVE", "512MiB")
    settings = load()
    assert settings.backup.space_reserve == 512 * 1024**2
    assert settings.backup.lock_wait == 7
    assert settings.backup.compression_level == Settings().backup.compression_level


def test_a_named_file_that_is_missing_is_an_error_that_tells_how_to_make_it(file: Path) -> None:
    with pytest.raises(SettingsError, match=f"the settings file {file} is not there$") as caught:
        load()
    assert "repository init" in caught.value.hint


@pytest.mark.parametrize("may_make", [False, True])
def test_a_named_file_that_is_a_folder_or_lies_in_none_is_an_error_also_for_what_makes_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, may_make: bool
) -> None:
    file.mkdir()
    with pytest.raises(SettingsError, match="is no file"):
        load(may_make=may_make)
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(file / "away" / "kvm-backup.toml"))
    with pytest.raises(SettingsError, match=f"its folder {file / 'away'} is not either"):
        load(may_make=may_make)


def test_a_name_that_no_file_can_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_BACKUP_CONFIG", "/" + "x" * 5000)
    with pytest.raises(SettingsError, match="File name too long"):
        load()


def test_a_named_file_is_the_only_one_and_the_hosts_file_comes_before_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert file_locations() == [Path("/etc/kvm-backup/kvm-backup.toml"), tmp_path / "kvm-backup" / "kvm-backup.toml"]
    monkeypatch.setenv("KVM_BACKUP_CONFIG", "/named.toml")
    assert file_locations() == [Path("/named.toml")]


def test_the_users_file_is_read_where_the_host_has_none(home: Path) -> None:
    assert settings_file() is None
    (home / "kvm-backup").mkdir(parents=True)
    (home / "kvm-backup" / "kvm-backup.toml").write_text("[snapshot]\nkeep = 5\n")
    assert load().snapshot.keep == 5


def test_the_default_repository_lies_in_the_state_folder_until_it_is_configured(file: Path) -> None:
    file.write_text('state_dir = "/s"\n[[repository]]\nname = "nas"\npath = "/nas"\n')
    assert load().repositories() == {"nas": Path("/nas"), "default": Path("/s/repository")}
    file.write_text('state_dir = "/s"\n[[repository]]\nname = "default"\npath = "/big"\n')
    assert load().repositories() == {"default": Path("/big")}


def test_variables_that_name_no_setting_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIR", "DEBUG", "CONFIG", "VM__WEB__FREEZE", "STATEDIR", "REPO__X"):
        monkeypatch.setenv(f"KVM_BACKUP_{name}", "x")
    assert unknown_variables() == ["KVM_BACKUP_REPO__X", "KVM_BACKUP_STATEDIR"]


WITH_COMMENTS = '# mine\nstate_dir = "/s" # here\n\n[backup] # all\nlock_wait = 7\n'


def test_a_repository_is_added_and_all_that_was_there_stays(file: Path) -> None:
    file.write_text(WITH_COMMENTS)
    file.chmod(0o640)
    prepare_registration("nas", Path('/nas/with "quotes" and \\')).write()
    assert file.read_text().startswith(WITH_COMMENTS)
    assert load().repositories()["nas"] == Path('/nas/with "quotes" and \\')
    assert load().backup.lock_wait == 7
    assert file.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_table_of_texts_and_lists_is_added_as_it_is_meant(file: Path) -> None:
    file.write_text("")
    table = {"name": "nas", "url": "ssh://nas/srv", "of": "default", "bandwidth_hours": ["08:00-18:30 2MiB"]}
    registration = prepare_table(table)
    assert registration.settings.remotes()["nas"].of == "default"
    registration.write()
    assert tomllib.loads(file.read_text()) == {"repository": [table]}


def test_a_setting_of_the_new_repository_that_cannot_be_is_named_without_a_place_in_the_file(file: Path) -> None:
    file.write_text("")
    with pytest.raises(SettingsError) as caught:
        prepare_table({"name": "nas", "url": "ssh://nas/srv", "bandwidth": "fast"})
    assert caught.value.message == (
        "the repository 'nas' cannot be added: bandwidth: must be a size such as 512MiB or 2GiB (it is 'fast')"
    )


def test_a_file_that_a_variable_overrides_is_not_written_in_vain(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("")
    monkeypatch.setenv("KVM_BACKUP_REPOSITORY", '[{"name": "usb", "path": "/usb"}]')
    with pytest.raises(SettingsError, match="those of KVM_BACKUP_REPOSITORY"):
        prepare_registration("nas", Path("/nas"))


def test_nothing_is_written_before_write_is_called(file: Path) -> None:
    file.write_text(WITH_COMMENTS)
    prepare_registration("nas", Path("/nas"))
    assert file.read_text() == WITH_COMMENTS


def test_a_settings_file_is_made_when_there_is_none(home: Path) -> None:
    written = prepare_registration("nas", Path("/nas")).write()
    assert written == home / "kvm-backup" / "kvm-backup.toml"
    assert tomllib.loads(written.read_text()) == {"repository": [{"name": "nas", "path": "/nas"}]}


def test_a_named_file_that_is_not_there_is_made_where_its_name_says(file: Path) -> None:
    assert prepare_registration("nas", Path("/nas")).write() == file
    assert load().repositories()["nas"] == Path("/nas")


def test_a_named_file_whose_folder_is_not_there_is_not_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(file.parent / "away" / "kvm-backup.toml"))
    with pytest.raises(SettingsError, match="its folder"):
        prepare_registration("nas", Path("/nas"))
    assert list(file.parent.iterdir()) == []


def test_a_settings_file_that_is_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(WITH_COMMENTS)
    file.symlink_to(real)
    assert prepare_registration("nas", Path("/nas")).write() == real
    assert file.is_symlink()
    assert load().repositories()["nas"] == Path("/nas")


@pytest.mark.parametrize(
    ("before", "name", "path", "why"),
    [
        ('[[repository]]\nname = "nas"\npath = "/x"\n', "nas", "/nas", "configured already"),
        ("", "", "/nas", "cannot be a repository's name"),
        ("", "a b", "/nas", "cannot be a repository's name"),
        ("", 'x"\npath = "/y', "/nas", "cannot be a repository's name"),
        ("", "nas", "/na\ns", "cannot be written to the settings"),
        ('repository = [{name = "a", path = "/x"}]\n', "nas", "/nas", "cannot be added at the end of"),
        ("", "nas", "nas", "must be an absolute path"),
    ],
)
def test_a_repository_that_cannot_be_added_leaves_the_file_as_it_is(
    file: Path, before: str, name: str, path: str, why: str
) -> None:
    file.write_text(before)
    with pytest.raises(SettingsError, match=why):
        prepare_registration(name, Path(path)).write()
    assert file.read_text() == before


def test_a_file_that_cannot_be_written_is_an_error_with_the_way_by_hand(home: Path) -> None:
    home.mkdir()
    registration = prepare_registration("nas", Path("/nas"))
    (home / "kvm-backup").write_text("a file in the way")
    with pytest.raises(SettingsError, match=r"could not be added .*: ") as caught:
        registration.write()
    assert "by hand" in caught.value.hint
