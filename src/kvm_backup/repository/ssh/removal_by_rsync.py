"""Removing where the account may run nothing but rsync, with --delete: what the filters name goes.

rsync renames nothing. So a removal leaves its mark first, `.partial-removed-<time>`, in the same run that takes the
manifest away; a folder without a manifest is no point. The mark goes last, with the files, and tells until then that
what is left is not of a point that is arriving.
"""

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from kvm_backup.domain.names import FOLDER_PATTERN, STAMP_PATTERN
from kvm_backup.domain.point import MANIFEST_FILE
from kvm_backup.repository.local import REMOVED_PREFIX
from kvm_backup.repository.ssh.remote_points import STAMP_GLOB
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.shipment import ENCRYPTED_MANIFEST_FILE
from kvm_backup.repository.ssh.transfer import Listed, Transfer

_CLOCK = f"{INCOMING_PREFIX}clock"
_LEFT = re.compile(rf"({FOLDER_PATTERN})/({re.escape(INCOMING_PREFIX)}[^/]+)(?:/.*)?")
_POINT = re.compile(rf"({FOLDER_PATTERN})/({STAMP_PATTERN})/")
_WILD, _ESCAPED = re.compile(r"[*?\[\\]"), r"\\\g<0>"
"""A name is not to be taken for a pattern: somebody else may have made it."""
_MARK = re.compile(rf"({FOLDER_PATTERN})/{re.escape(REMOVED_PREFIX)}({STAMP_PATTERN})")


def remove(transfer: Transfer, folder: str, stamp: str) -> None:
    """Remove a point, or what is left of it; `folder` is the name of the VM's. What links lead to stays.

    Raises RemoteAccessError when the account may not list or remove, RemoteUnreachableError and its like.
    """
    mark = f"{REMOVED_PREFIX}{stamp}"
    address = transfer.connection.address
    parts = [f"--include=/{stamp}/", f"--include=/{mark}"]
    # From above: a listing of the folder itself would follow it, were it a link.
    ways = [f"--include=/{folder}/{name}" for name in ("", f"{stamp}/", mark)]
    listed = transfer.listed(address.path, *ways, "--exclude=*")
    there = {entry.name.removeprefix(f"{folder}/") for entry in listed}
    if f"{stamp}/" in there:
        with _source(folders=[stamp], files=[mark]) as source:
            manifests = [f"--include=/{stamp}/{name}" for name in (MANIFEST_FILE, ENCRYPTED_MANIFEST_FILE)]
            transfer.up(source, address.below(folder), "--delete-after", *parts, *manifests, "--exclude=*")
    if {f"{stamp}/", mark} & there:
        # The second names of its files, too, or their space would not come free.
        _delete(transfer, address.below(folder), [f"/{stamp}/***", f"/{INCOMING_PREFIX}{stamp}-*/***", f"/{mark}"])


def clear_incoming(transfer: Transfer, older_than: timedelta) -> None:
    """Remove what cut transfers and removals left that nobody wrote to for that long by the server's clock, folders
    among it that have the names of points and no manifest.

    Raises as `remove`.
    """
    path = transfer.connection.address.path
    with _source(files=[_CLOCK]) as source:
        # Without the time of our file the server gives it its own.
        transfer.up(source, path, "--no-times", "--ignore-times")
    found = transfer.listed(
        path,
        f"--include=/{_CLOCK}",
        "--include=/*--*/",
        f"--include=/*--*/{INCOMING_PREFIX}*/***",
        f"--include=/*--*/{REMOVED_PREFIX}*",
        f"--include=/*--*/{STAMP_GLOB}/",
        *(f"--include=/*--*/{STAMP_GLOB}/{name}" for name in (MANIFEST_FILE, ENCRYPTED_MANIFEST_FILE)),
        "--exclude=*",
    )
    names = {entry.name for entry in found}
    left = _untouched(found, _touched(found), older_than)
    gone = [f"/{folder}/{_WILD.sub(_ESCAPED, name)}/***" for folder, name in left]
    for folder, stamp in (mark.groups() for mark in map(_MARK.fullmatch, names) if mark):
        gone.append(f"/{folder}/{REMOVED_PREFIX}{stamp}")
        if not _has_manifest(folder, stamp, names):
            gone.append(f"/{folder}/{stamp}/***")
    folders = sorted({pattern.split("/")[1] for pattern in gone})
    _delete(transfer, path, [f"/{_CLOCK}", *(f"/{folder}/" for folder in folders), *gone], folders)


def _touched(found: Sequence[Listed]) -> dict[tuple[str, str], datetime]:
    """When somebody last wrote to what was left: by the VM's folder and the name in it."""
    touched: dict[tuple[str, str], datetime] = {}
    names = {entry.name for entry in found}
    for entry in found:
        if left := _LEFT.fullmatch(entry.name.rstrip("/")):
            key = (left[1], left[2])
            touched[key] = max(touched.get(key, entry.modified), entry.modified)
        elif (point := _POINT.fullmatch(entry.name)) and not _has_manifest(point[1], point[2], names):
            touched[point[1], point[2]] = entry.modified
    return touched


def _untouched(
    found: Sequence[Listed], touched: Mapping[tuple[str, str], datetime], older_than: timedelta
) -> list[tuple[str, str]]:
    """What nobody wrote to for that long. A point's folder without a manifest is arriving while its hidden one is
    written to."""
    [now] = [entry.modified for entry in found if entry.name == _CLOCK]
    old = {key for key, last in touched.items() if now - last >= older_than}
    arriving = {(folder, name.split("-")[1]) for folder, name in touched.keys() - old if "-" in name}
    return sorted(old - arriving)


def _has_manifest(folder: str, stamp: str, names: Collection[str]) -> bool:
    return any(f"{folder}/{stamp}/{name}" in names for name in (MANIFEST_FILE, ENCRYPTED_MANIFEST_FILE))


def _delete(transfer: Transfer, folder: str, patterns: Iterable[str], kept: Iterable[str] = ()) -> None:
    with _source(folders=kept) as source:
        transfer.up(source, folder, "--delete", *(f"--include={pattern}" for pattern in patterns), "--exclude=*")


@contextmanager
def _source(folders: Iterable[str] = (), files: Iterable[str] = ()) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kvm-backup-remote-") as made:
        for name in folders:
            (Path(made) / name).mkdir()
        for name in files:
            (Path(made) / name).touch()
        yield Path(made)
