"""Adding a repository to the settings file."""

import contextlib
import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.config.settings import FILE_VARIABLE, NAME_PATTERN, check, file_locations, load, settings_file
from kvm_backup.domain.errors import SettingsError


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
                f"the repository {self.name!r} could not be added to {file}: {error.strerror}",
                hint="Add it by hand as docs/settings.md shows, or give its path to --repository.",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        return file


def prepare_registration(name: str, path: Path) -> Registration:
    """Prepare a [[repository]] table at the end of the settings file in use, or of a new one. Writes nothing yet.

    The rest of the file, comments included, stays as it is. Raises SettingsError when the name is taken or unfit,
    or the file could not be read again with it.
    """
    current = load()
    if name in {repository.name for repository in current.repository}:
        raise SettingsError(f"a repository called {name!r} is configured already", hint="Give another --name.")
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(
            f"{name!r} cannot be a repository's name", hint="Use letters, digits, '.', '-' and '_' with --name."
        )
    if not str(path).isprintable():
        raise SettingsError(
            f"{str(path)!r} cannot be written to the settings", hint="Use a path without control characters."
        )
    file = settings_file() or _new_file()
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}", hint="Check its permissions.") from error
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    content = f'{before.rstrip()}\n\n[[repository]]\nname = "{name}"\npath = "{quoted}"\n'.lstrip()
    try:
        check(tomllib.loads(content), file)
    except tomllib.TOMLDecodeError as error:
        # Such as `repository = [...]` in one line, which a table cannot be added to.
        raise SettingsError(
            f"the repository {name!r} cannot be added at the end of {file}: {error}",
            hint="Add it by hand as docs/settings.md shows.",
        ) from error
    return Registration(file, content, name)


def _new_file() -> Path:
    if os.environ.get(FILE_VARIABLE):
        return file_locations()[0]
    return file_locations()[0 if os.geteuid() == 0 else 1]
