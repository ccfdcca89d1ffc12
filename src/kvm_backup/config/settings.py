"""Settings: one TOML file, overridden by KVM_BACKUP_… variables. Unknown keys are errors.

Every setting is described in docs/settings.md; a test compares the two.
"""

import os
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from kvm_backup.config.fields import AbsolutePath, Name, Size, Table
from kvm_backup.config.repository import (
    DEFAULT_REPOSITORY,
    RepositorySettings,
    check_ship_to,
    check_together,
    locals_of,
    remotes_of,
)
from kvm_backup.config.retention import RetentionOverride, RetentionSettings
from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.phrase import phrase

FILE_NAME = "kvm-backup.toml"
PREFIX = "KVM_BACKUP_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
OTHER_VARIABLES = frozenset({"CONFIG", "DEBUG", "LANG"})
"""Variables that are no settings: where they are, whether unexpected errors show a traceback, the language."""
MANUAL = "docs/settings.md (in the copy of KVM Backup's repository that it was installed from)"
_HIDDEN = "database"
"""The table whose values no message shows: a URL may hold a password, in the wrong place, too."""
_HIDDEN_KEYS = {"url", "prune_url", "recipients"}
"""The same of these keys: a password, or the private key in the place of the public one."""


class LibvirtSettings(Table):
    """[libvirt]: which hypervisor."""

    uri: str = "qemu:///system"


class BackupSettings(Table):
    """[backup]: how VMs are captured."""

    freeze: bool = True
    freeze_timeout: Annotated[float, Field(gt=0, le=300)] = 10.0
    compression_level: Annotated[int, Field(ge=1, le=19)] = 1
    space_reserve: Size = 1024**3
    lock_wait: Annotated[float, Field(ge=0, le=3600)] = 20.0


class SnapshotSettings(Table):
    """[snapshot]: mode snapshot."""

    keep: Annotated[int, Field(ge=1, le=30)] = 3


class DatabaseSettings(Table):
    """[database]: where the history is kept; without a URL in an SQLite file in the state folder."""

    url: SecretStr | None = None
    keep_days: Annotated[int, Field(ge=1, le=36500)] = 730


class LogSettings(Table):
    """[log]: what runs did, as JSON lines."""

    path: AbsolutePath | None = None
    max_bytes: Annotated[Size, Field(ge=1024**2)] = 50 * 1024**2
    backups: Annotated[int, Field(ge=0, le=100)] = 5


class SchedulerSettings(Table):
    """[scheduler]: what the service does."""

    parallel: Annotated[int, Field(ge=1, le=64)] = 2
    catch_up: bool = True
    on_stop: Literal["cancel", "finish"] = "cancel"


class WebSettings(Table):
    """[web]: the dashboard."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    tls_certificate: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")], ...] = ()
    behind_proxy: bool = False

    @property
    def url(self) -> str:
        """What to open in a browser on this host."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same, where the port is only known since it was taken."""
        local = ("0.0.0.0", "::", "127.0.0.1", "::1")  # noqa: S104 - compared, not bound
        shown = "localhost" if self.host in local else f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_certificate else 'http'}://{shown}:{port}"

    @model_validator(mode="after")
    def _key_has_its_certificate(self) -> Self:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is of no use without tls_certificate")
        return self


class HookSettings(Table):
    """[hooks]: the scripts that schedules name."""

    timeout: Annotated[float, Field(gt=0, le=86400)] = 600.0


class VmSettings(Table):
    """[vm."NAME"]: what is special about one VM."""

    exclude_disks: frozenset[str] = frozenset()
    freeze: bool | None = None
    ship_to: tuple[Name, ...] | None = None
    retention: RetentionOverride = RetentionOverride()


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/kvm-backup")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "kvm-backup"


class Settings(BaseSettings):
    """All settings, with their defaults. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    state_dir: AbsolutePath = Field(default_factory=_default_state_dir)
    scratch_dir: AbsolutePath | None = None
    runtime_dir: AbsolutePath | None = None
    default_repository: Name = DEFAULT_REPOSITORY
    timezone: str | None = None
    host: Name | None = None
    ssh_config: AbsolutePath | None = None
    repository: tuple[RepositorySettings, ...] = ()
    libvirt: LibvirtSettings = LibvirtSettings()
    backup: BackupSettings = BackupSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    retention: RetentionSettings = RetentionSettings()
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    hooks: HookSettings = HookSettings()
    web: WebSettings = WebSettings()
    vm: dict[str, VmSettings] = {}

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, zone: str | None) -> str | None:
        try:
            return None if zone is None else ZoneInfo(zone).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be the name of a time zone, such as Europe/Paris") from None

    @field_validator("repository")
    @classmethod
    def _repositories_fit(
        cls, repositories: tuple[RepositorySettings, ...], info: ValidationInfo
    ) -> tuple[RepositorySettings, ...]:
        check_together(repositories, info.data.get("default_repository", DEFAULT_REPOSITORY))
        return repositories

    @field_validator("vm")
    @classmethod
    def _vms_are_shipped_to_remotes(cls, vms: dict[str, VmSettings], info: ValidationInfo) -> dict[str, VmSettings]:
        for name, vm in vms.items():
            try:
                check_ship_to(vm.ship_to or (), remotes_of(info.data.get("repository", ())))
            except ValueError as error:
                raise ValueError(f"ship_to of {name!r}: {error}") from error
        return vms

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which `load` hands in as arguments."""
        return env_settings, init_settings

    def repositories(self) -> dict[str, Path]:
        """The folder of every repository on this host by name; the default one lies in the state folder unless it is
        configured.
        """
        return locals_of(self.repository, self.state_dir)

    def remotes(self) -> dict[str, RepositorySettings]:
        """Every repository on another server by name."""
        return remotes_of(self.repository)


def file_locations() -> list[Path]:
    """Where the settings file is looked for, in this order; the first that exists is read."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return [Path(named)]
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [Path("/etc/kvm-backup") / FILE_NAME, home / "kvm-backup" / FILE_NAME]


def settings_file(*, may_make: bool = False) -> Path | None:
    """The settings file in use. Raises SettingsError when KVM_BACKUP_CONFIG names none, or it may not be read.

    With `may_make`, for what writes the file, one that is named and not there yet is no error if its folder is there.
    """
    for path in file_locations():
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SettingsError(
                phrase("the settings file {path} cannot be used: {error}", path=path, error=error.strerror),
                hint=phrase(
                    "Run as the user that may read it, or name another one in {file_variable}.",
                    file_variable=FILE_VARIABLE,
                ),
            ) from error
        if stat.S_ISREG(status.st_mode):
            return path
    if os.environ.get(FILE_VARIABLE):
        _require_place(file_locations()[0], may_make=may_make)
    return None


def _require_place(named: Path, *, may_make: bool) -> None:
    """Raises SettingsError for a named file that is not there, unless it may be made where its name says."""
    if named.exists():
        raise SettingsError(
            phrase("the settings file {path} is no file", path=named),
            hint=phrase("Correct or unset {file_variable}.", file_variable=FILE_VARIABLE),
        )
    folder = named.resolve().parent
    if not folder.is_dir():
        raise SettingsError(
            phrase(
                "the settings file {path} is not there, and its folder {folder} is not either",
                path=named,
                folder=folder,
            ),
            hint=phrase("Make that folder, or correct or unset {file_variable}.", file_variable=FILE_VARIABLE),
        )
    if not may_make:
        raise SettingsError(
            phrase("the settings file {path} is not there", path=named),
            hint=phrase(
                "'kvm-backup repository init PATH' makes it with a first repository, 'touch' an empty one; or "
                "correct or unset {file_variable}.",
                file_variable=FILE_VARIABLE,
            ),
        )


def load(*, may_make: bool = False) -> Settings:
    """Read the settings. Raises SettingsError naming the file or variable, the key, and what is expected.

    `may_make` as for `settings_file`.
    """
    path = settings_file(may_make=may_make)
    return check({} if path is None else _read(path), path)


def check(fields: dict[str, Any], path: Path | None) -> Settings:
    """Settings from what a file holds, and the environment. Raises SettingsError."""
    try:
        # Checked here because pydantic-settings takes keys such as _env_file for arguments of its own.
        for key in fields.keys() - Settings.model_fields.keys():
            raise _unusable(key, path, "there is no such setting")
        return Settings(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        variable = _variable_of(problem["loc"])
        key = ".".join(str(part) for part in problem["loc"])
        raise _unusable(key, variable or path, in_words(problem)) from error
    except PydanticSettingsError as error:
        # A variable that holds a list or a table is JSON; this is what is raised when it cannot be parsed.
        named = re.search(r'field "(\w+)"', str(error))
        key = named[1] if named else "?"
        variable = _variable_of((key,)) or f"{PREFIX}…"
        came = "" if key == _HIDDEN else f" (it is {os.environ.get(variable)!r})"
        raise _unusable(key, variable, f"must be JSON{came}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(
            phrase("{path} is not valid TOML: {error}", path=path, error=error),
            hint=phrase("A whole example: {manual}.", manual=MANUAL),
        ) from error
    except OSError as error:
        raise SettingsError(
            phrase("{path} cannot be read: {error}", path=path, error=error.strerror),
            hint=phrase("Run as the user that may read it."),
        ) from error


def _unusable(key: str, where: Path | str | None, problem: str) -> SettingsError:
    return SettingsError(
        phrase("setting {key!r} in {where}: {problem}", key=key, where=where or "the defaults", problem=problem),
        hint=phrase("Every setting, with its default: {manual}.", manual=MANUAL),
    )


def _variable_of(place: Sequence[int | str]) -> str | None:
    """The variable that sets this place or a table around it, when there is one; it wins over the file."""
    variables = {name.upper(): name for name in os.environ}
    for length in range(len(place), 0, -1):
        name = PREFIX + "__".join(str(part) for part in place[:length]).upper()
        if name in variables:
            return variables[name]
    return None


def unknown_variables() -> list[str]:
    """KVM_BACKUP_… variables that name no setting: most likely a misspelling."""
    known = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    names = [name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)]
    # A script that a run calls is told what happens in variables that begin so (kvm_backup.services.hooks).
    return sorted(
        f"{PREFIX}{name}" for name in names if name.split("__")[0] not in known and not name.startswith("HOOK_")
    )


def in_words(problem: Any) -> str:
    """What pydantic found, with the value that came unless that may be a secret."""
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    said = str(problem["msg"]).removeprefix("Value error, ")
    place, came = problem["loc"], problem["input"]
    # Of a table or a list, the key that is named tells more than all that it holds.
    if place[:1] == (_HIDDEN,) or not _HIDDEN_KEYS.isdisjoint(place) or isinstance(came, dict | list | tuple):
        return said
    return f"{said} (it is {came!r})"
