"""Settings that follow their file: what counts at once, what waits for a restart, and a file that cannot be used."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvm_backup.config.live import FOLLOWED, LiveSettings
from kvm_backup.config.settings import load
from kvm_backup.domain.errors import SettingsError

NAS = '[[repository]]\nname = "nas"\npath = "/nas"\n'


@dataclass
class World:
    """A settings file, and a clock that stands until it is moved."""

    file: Path
    seconds: float = 0.0
    file_is_old: bool = False
    said: list[str] = field(default_factory=list)
    live: LiveSettings = field(init=False)

    def begin(self, text: str) -> None:
        self.file.write_text(text)
        self.live = LiveSettings(load(), lambda: self.seconds, lambda: 2.0**40 if self.file_is_old else 0.0)
        self.live.say = self.said.append

    def looked_twice(self) -> None:
        for _ in range(2):
            self.seconds += 1.0
            self.live.current()

    def problem(self) -> str | None:
        return None if self.live.problem is None else self.live.problem.message

    def names(self) -> set[str]:
        return {*self.live.current().repositories(), *self.live.current().remotes()}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    file = tmp_path / "kvm-backup.toml"
    monkeypatch.setenv("KVM_BACKUP_CONFIG", str(file))
    monkeypatch.delenv("KVM_BACKUP_STATE_DIR", raising=False)
    made = World(file)
    made.begin('state_dir = "/s"\n')
    return made


def test_a_repository_that_is_added_counts_once_the_file_has_settled(world: World) -> None:
    world.file.write_text(f'state_dir = "/s"\n{NAS}')
    assert world.names() == {"default"}
    world.seconds += 1.0
    assert world.names() == {"default"}
    world.seconds += 1.0
    assert world.names() == {"default", "nas"}
    assert world.said == ["settings: read anew; changed: repository"]


def test_a_file_that_was_changed_a_while_ago_counts_for_whoever_asks_first(world: World) -> None:
    world.file.write_text(NAS)
    world.file_is_old = True
    world.seconds += 3600.0
    assert world.names() == {"default", "nas"}


def test_a_file_is_not_taken_while_it_is_still_being_written(world: World) -> None:
    world.begin(f'state_dir = "/s"\n{NAS}')
    for text in ("", 'state_dir = "/s"\n', f'state_dir = "/s"\n[retention]\nlast = 9\n{NAS}'):
        world.file.write_text(text)
        world.seconds += 1.0
        assert "nas" in world.names()
    world.looked_twice()
    assert world.live.current().retention.last == 9
    assert "nas" in world.names()
    assert len(world.said) == 1


def test_retention_and_vms_count_at_once_and_the_rest_is_told_to_wait(world: World) -> None:
    world.file.write_text(
        'state_dir = "/other"\ntimezone = "UTC"\n[retention]\ndaily = 30\n[vm.web]\nfreeze = false\n[web]\nport = 1\n'
    )
    world.looked_twice()
    settings = world.live.current()
    assert (settings.retention.daily, settings.vm["web"].freeze) == (30, False)
    assert (settings.state_dir, settings.timezone, settings.web.port) == (Path("/s"), None, 8080)
    assert world.said == [
        "settings: read anew; changed: retention, vm; after a restart also: state_dir, timezone, web"
    ]


@pytest.mark.parametrize("bad", ["[retention]\nlast = 0\n", "no toml", '[[repository]]\nname = "a"\n'])
def test_a_file_that_cannot_be_used_leaves_the_last_good_settings_and_is_told_once(world: World, bad: str) -> None:
    world.begin(NAS)
    world.file.write_text(bad)
    world.looked_twice()
    world.looked_twice()
    assert "nas" in world.names()
    [told] = world.said
    assert str(world.file) in told
    assert (world.problem() or "nothing") in told
    world.file.write_text(NAS.replace("nas", "tape"))
    world.looked_twice()
    assert world.names() == {"default", "tape"}
    assert world.problem() is None


def test_a_file_that_is_gone_leaves_the_last_good_settings_until_it_is_back(world: World) -> None:
    world.begin(NAS)
    away = world.file.rename(world.file.with_suffix(".away"))
    world.looked_twice()
    assert "nas" in world.names()
    assert "is not there" in (world.problem() or "")
    away.rename(world.file)
    world.looked_twice()
    assert world.problem() is None
    assert "nas" in world.names()


def test_a_host_file_that_is_removed_does_not_mean_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if Path("/etc/kvm-backup/kvm-backup.toml").exists():
        pytest.skip("this host has a settings file")
    monkeypatch.delenv("KVM_BACKUP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "kvm-backup").mkdir()
    world = World(tmp_path / "kvm-backup" / "kvm-backup.toml")
    world.begin(NAS)
    world.file.unlink()
    world.looked_twice()
    assert "nas" in world.names()
    assert "is gone" in (world.problem() or "")


def test_a_file_that_was_there_at_the_start_is_not_made_anew(world: World) -> None:
    world.live.require_file()
    world.file.unlink()
    with pytest.raises(SettingsError, match="is not there"):
        world.live.require_file()


def test_the_file_is_looked_at_once_a_second_at_most(world: World) -> None:
    world.looked_twice()
    world.file.unlink()
    world.seconds += 0.9
    for _ in range(3):
        world.live.current()
    assert world.problem() is None


def test_what_this_program_wrote_counts_at_once(world: World) -> None:
    world.file.write_text(NAS)
    world.live.take()
    assert "nas" in world.names()
    world.file.write_text("no toml")
    with pytest.raises(SettingsError, match="TOML"):
        world.live.take()
    assert "nas" in world.names()


def test_a_variable_of_the_environment_still_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_BACKUP_RETENTION__LAST", "4")
    world.file.write_text("[retention]\nlast = 9\ndaily = 1\n")
    world.looked_twice()
    assert (world.live.current().retention.last, world.live.current().retention.daily) == (4, 1)


def test_what_follows_is_what_the_page_of_the_settings_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "settings.md").read_text()
    [told] = [line for line in page.splitlines() if line.startswith("**At once**")]
    assert {f"`{key}`" for key in FOLLOWED} == {word for word in told.replace(",", " ").split() if word[0] == "`"}
