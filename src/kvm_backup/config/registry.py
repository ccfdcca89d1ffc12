"""Adding a repository to the settings file."""

import contextlib
import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.config.fields import NAME_PATTERN
from kvm_backup.config.settings import FILE_VARIABLE, MANUAL, check, file_locations, load, settings_file
from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.phrase import phrase


@dataclass(frozen=True, slots=True)
class Registration:
    """A repository that can be added: `content` is the whole settings file with it."""

    file: Path
    content: str
    name: str

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
    """Prepare a [[repository]] table at the end of the settings file in use, or of a new one. Writes nothing yet.

    With `default` a first line makes it the default repository. The rest of the file, comments included, stays as it
    is. Raises SettingsError when the name is taken or unfit, there is a default repository already, or the file could
    not be read again with it.
    """
    current = load()
    if name in {repository.name for repository in current.repository}:
        raise SettingsError(
            phrase("a repository called {name!r} is configured already", name=name),
            hint=phrase("Give another --name."),
        )
    if default and "default_repository" in current.model_fields_set:
        raise SettingsError(
            phrase(
                "the default repository is set already: {default_repository}",
                default_repository=current.default_repository,
            ),
            hint=phrase("Leave out --default, or change default_repository in the settings first."),
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(
            phrase("{name!r} cannot be a repository's name", name=name),
            hint=phrase("Use letters, digits, '.', '-' and '_' with --name."),
        )
    if not str(path).isprintable():
        raise SettingsError(
            phrase("{path!r} cannot be written to the settings", path=str(path)),
            hint=phrase("Use a path without control characters."),
        )
    file = settings_file() or _new_file()
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
    except OSError as error:
        raise SettingsError(
            phrase("{file} cannot be read: {error}", file=file, error=error.strerror),
            hint=phrase("Check its permissions."),
        ) from error
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    content = f'{before.rstrip()}\n\n[[repository]]\nname = "{name}"\npath = "{quoted}"\n'.lstrip()
    if default:
        # A key of its own must stand before the first table.
        content = f'default_repository = "{name}"\n{content}'
    try:
        check(tomllib.loads(content), file)
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
    return Registration(file, content, name)


def _new_file() -> Path:
    if os.environ.get(FILE_VARIABLE):
        return file_locations()[0]
    return file_locations()[0 if os.geteuid() == 0 else 1]
