"""Adding a repository to the settings file."""

import contextlib
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kvm_backup.config.fields import NAME_PATTERN
from kvm_backup.config.repository import RepositorySettings
from kvm_backup.config.settings import (
    FILE_VARIABLE,
    MANUAL,
    PREFIX,
    Settings,
    check,
    file_locations,
    in_words,
    load,
    settings_file,
)
from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.phrase import phrase

_VARIABLE = f"{PREFIX}REPOSITORY"


@dataclass(frozen=True, slots=True)
class Registration:
    """A repository that can be added: `content` is the whole settings file with it, `settings` what that means."""

    file: Path
    content: str
    name: str
    settings: Settings

    def write(self) -> Path:
        """Replace the settings file in one step; returns it. Raises SettingsError, and then it is unchanged."""
        file = self.file.resolve()
        beside = file.with_name(f".{file.name}.new-{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(self.content, encoding="utf-8")
            if file.exists():
                shutil.copymode(file, beside)
            beside.replace(file)
        except OSError as error:
            raise SettingsError(
                phrase(
                    "the repository {name!r} could not be added to {file}: {error}",
                    name=self.name,
                    file=file,
                    error=error.strerror,
                ),
                hint=phrase("Give its path to --repository, or add it by hand as shown in {manual}.", manual=MANUAL),
            ) from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        return file


def prepare_registration(name: str, path: Path, *, default: bool = False) -> Registration:
    """Prepare a [[repository]] table with a path. With `default` a first line makes it the default repository.

    Raises as `prepare_table`, and when there is a default repository already.
    """
    current = load(may_make=True)
    if default and "default_repository" in current.model_fields_set:
        raise SettingsError(
            phrase(
                "the default repository is set already: {default_repository}",
                default_repository=current.default_repository,
            ),
            hint=phrase("Leave out --default, or change default_repository in the settings first."),
        )
    # A key of its own must stand before the first table.
    first = f'default_repository = "{name}"\n' if default else ""
    return prepare_table({"name": name, "path": str(path)}, first=first)


def prepare_table(table: Mapping[str, str | Sequence[str]], *, first: str = "") -> Registration:
    """Prepare a [[repository]] table at the end of the settings file in use, or of a new one. Writes nothing yet.

    `first` is put at the beginning. The rest of the file, comments included, stays as it is. Raises SettingsError
    when the name is taken or unfit, or the file could not be read again with it, or is not what decides.
    """
    name = str(table["name"])
    if name in {repository.name for repository in load(may_make=True).repository}:
        raise SettingsError(
            phrase("a repository called {name!r} is configured already", name=name),
            hint=phrase("Give it another name."),
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(
            phrase("{name!r} cannot be a repository's name", name=name),
            hint=phrase("Use letters, digits, '.', '-' and '_'."),
        )
    for value in table.values():
        if not all(text.isprintable() for text in ([value] if isinstance(value, str) else value)):
            raise SettingsError(
                phrase("{value!r} cannot be written to the settings", value=value),
                hint=phrase("Use a text without control characters."),
            )
    try:
        RepositorySettings.model_validate(dict(table))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise SettingsError(
            phrase(
                "the repository {name!r} cannot be added: {key}{problem}",
                name=name,
                key="".join(f"{part}: " for part in problem["loc"] if isinstance(part, str)),
                problem=in_words(problem),
            ),
            hint=phrase("Each setting of a repository: {manual}.", manual=MANUAL),
        ) from error
    file = settings_file(may_make=True) or _new_file()
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
    except OSError as error:
        raise SettingsError(
            phrase("{file} cannot be read: {error}", file=file, error=error.strerror),
            hint=phrase("Check its permissions."),
        ) from error
    lines = "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
    content = first + f"{before.rstrip()}\n\n[[repository]]\n{lines}".lstrip()
    try:
        settings = check(tomllib.loads(content), file)
    except tomllib.TOMLDecodeError as error:
        # Such as `repository = [...]` in one line, which a table cannot be added to.
        raise SettingsError(
            phrase(
                "the repository {name!r} cannot be added at the end of {file}: {error}",
                name=name,
                file=file,
                error=error,
            ),
            hint=phrase("Add it by hand as shown in {manual}.", manual=MANUAL),
        ) from error
    if name not in {repository.name for repository in settings.repository}:
        raise SettingsError(
            phrase("the repositories are those of {variable}, whatever a file says", variable=_VARIABLE),
            hint=phrase("Add it there, or unset that variable."),
        )
    return Registration(file, content, name, settings)


def _toml(value: str | Sequence[str]) -> str:
    if not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _new_file() -> Path:
    if os.environ.get(FILE_VARIABLE):
        return file_locations()[0]
    return file_locations()[0 if os.geteuid() == 0 else 1]
