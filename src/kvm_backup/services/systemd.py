"""Putting the service under systemd."""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kvm_backup import process
from kvm_backup.domain.errors import KvmBackupError, ServiceManagerError, TargetExistsError, ToolFailedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import replace_content, storage_error

UNIT = "kvm-backup.service"
_FOLDER = Path("etc/systemd/system")
_COMMAND = "@COMMAND@"
_RUNS = Path("/run/systemd/system")
"""Exists exactly where systemd is the manager: sd_booted(3)."""
_FIRST_WORDS = b"# Written by kvm-backup install-service"


@dataclass(frozen=True, slots=True)
class Installed:
    """What was done; `path` is the unit's file, `replaced` whether it said something else before."""

    path: Path
    written: bool
    replaced: bool
    reloaded: bool
    enabled: bool


def install_service(
    command: Path, *, root: Path | None = None, enable: bool = False, booted: Path = _RUNS
) -> Installed:
    """Write the unit that runs `command`, and let systemd know of it; with `enable`, start it now and at each boot.

    With `root`, the files go below that folder and no systemd is asked: for images and packages; `enable` makes it
    start when that system boots. Raises ServiceManagerError where systemd does not run, TargetExistsError when
    somebody else's unit of that name is there, StorageError.
    """
    if root is None and not booted.is_dir():
        raise ServiceManagerError(
            phrase("systemd does not run on this host"),
            hint=phrase(
                "Have what starts services here run 'kvm-backup serve'. For an image or package, give --root DIR."
            ),
        )
    path = (root or Path("/")) / _FOLDER / UNIT
    content = unit_text(command).encode()
    before = _content(path)
    if before is not None and not before.startswith(_FIRST_WORDS):
        raise TargetExistsError(
            phrase("{path} exists and was not written by this command", path=path),
            hint=phrase("Move it away first; it was left as it is."),
        )
    if before != content:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error
        replace_content(path, content)
        path.chmod(0o644)
    written = before != content
    replaced = written and before is not None
    if root is not None:
        if enable:
            _systemctl("--root", str(root), "enable", UNIT)
        return Installed(path, written, replaced, reloaded=False, enabled=enable)
    _systemctl("daemon-reload")
    if enable:
        _systemctl("enable", "--now", UNIT)
    return Installed(path, written, replaced, reloaded=True, enabled=enable)


def unit_text(command: Path) -> str:
    """The unit's file for a program at that path."""
    if not command.is_absolute() or not str(command).isprintable():
        raise ServiceManagerError(
            phrase("systemd cannot start {command!r}", command=str(command)),
            hint=phrase("Install KVM Backup below a path without control characters."),
        )
    # Source: systemd.service(5), "Command lines": % and $ are doubled, quotes and backslashes escaped.
    quoted = str(command).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    template = (files("kvm_backup") / "data" / UNIT).read_text(encoding="utf-8")
    return template.replace(_COMMAND, f'"{quoted}"' if " " in quoted or "\\" in quoted else quoted)


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path) from error


def _systemctl(*words: str) -> None:
    try:
        process.run(["systemctl", *words], timeout=120)
    except ToolFailedError as error:
        raise ServiceManagerError(
            error.message, hint=phrase("'systemctl status kvm-backup' and the journal tell why.")
        ) from error
    except KvmBackupError as error:
        raise ServiceManagerError(error.message, hint=error.hint) from error
