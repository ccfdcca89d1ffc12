"""Adding a repository to the settings file."""

import os
import re
import tomllib
from pathlib import Path

from kvm_backup.config.settings import FILE_VARIABLE, Settings, file_locations, load, settings_file
from kvm_backup.domain.errors import SettingsError


def register_repository(name: str, path: Path) -> Path:
    """Append a [[repository]] table to the settings file in use, or to a new one; returns the file.

    The rest of the file, comments included, stays as it is. Raises SettingsError when the name is taken or unfit,
    or the result could not be read again; then the file is unchanged.
    """
    current = load()
    if name in {repository.name for repository in current.repository}:
        raise SettingsError(f"a repository called {name!r} is configured already", hint="Give another --name.")
    file = settings_file() or _new_file()
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    after = f'{before.rstrip()}\n\n[[repository]]\nname = "{name}"\npath = "{quoted}"\n'.lstrip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or not str(path).isprintable():
        raise SettingsError(
            f"{name!r} cannot be a repository's name", hint="Use letters, digits, '.', '-' and '_' with --name."
        )
    beside = file.with_name(f".{file.name}.new-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(after, encoding="utf-8")
        Settings(**tomllib.loads(after))
        beside.replace(file)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the repository could not be added to {file}: {error}",
            hint=f'Add it by hand:\n[[repository]]\nname = "{name}"\npath = "{quoted}"',
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return file


def _new_file() -> Path:
    if os.environ.get(FILE_VARIABLE):
        return file_locations()[0]
    return file_locations()[0 if os.geteuid() == 0 else 1]
