"""Which time zone wall-clock times are in: the setting, else the host's."""

import os
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kvm_backup.domain.errors import SettingsError
from kvm_backup.domain.phrase import phrase

_LOCAL_TIME = Path("/etc/localtime")
_NAME_FILE = Path("/etc/timezone")


def find_zone(setting: str | None, local_time: Path = _LOCAL_TIME, name_file: Path = _NAME_FILE) -> ZoneInfo:
    """The zone that is set; else that of TZ; else the host's, from /etc/localtime; else UTC.

    Raises SettingsError when TZ names none that is known.
    """
    if setting is not None:
        return named(setting)
    variable = os.environ.get("TZ")
    if variable is not None:
        name = variable.removeprefix(":")
        return _host_zone(local_time, name_file) if name == str(_LOCAL_TIME) else named(name or "UTC", "TZ")
    return _host_zone(local_time, name_file)


def named(name: str, source: str = "setting 'timezone'") -> ZoneInfo:
    """A zone by its name in the IANA database. Raises SettingsError naming `source`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(
            phrase("{source}: there is no time zone {name!r}", source=source, name=name),
            hint=phrase("Use a name such as Europe/Paris; 'timedatectl list-timezones' lists them."),
        ) from error


def _host_zone(local_time: Path, name_file: Path) -> ZoneInfo:
    """The zone that /etc/localtime is a link to, or that /etc/timezone names, or whose rules /etc/localtime holds."""
    candidates = []
    _, found, name = os.path.realpath(local_time).partition("/zoneinfo/")
    if found:
        candidates.append(name.removeprefix("posix/").removeprefix("right/"))
    with suppress(OSError, UnicodeDecodeError):  # many systems have no such file
        candidates.append(name_file.read_text(encoding="utf-8").strip())
    for name in candidates:
        try:
            return named(name)
        except SettingsError:
            continue
    try:
        with local_time.open("rb") as rules:
            return ZoneInfo.from_file(rules, key="local time")
    except (OSError, ValueError):
        return ZoneInfo("UTC")
