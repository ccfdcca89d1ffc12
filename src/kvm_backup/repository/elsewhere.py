"""A point whose images are in other repositories only: its folder says so in `elsewhere.json`.

The mark is durable before the first image goes, so that a death in between leaves a point that is whole, or one that
tells where its images are. An image beside the mark counts as gone: whoever takes the images away removes it.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository import durable

ELSEWHERE_FILE = "elsewhere.json"
_FORMAT_VERSION = 1
_BYTES_MAX = 65536
_NAMES_MAX = 64
_NAME_MAX = 200
_BLOCK = 512
"""The unit of st_blocks."""


def elsewhere(folder: Path) -> tuple[str, ...] | None:
    """The names of the repositories that hold the images of the point in `folder`; None when they are here.

    No name at all: they were, and are in none any more. A mark that cannot be read is none, so that images which are
    missing count as damage.
    """
    try:
        fields = json.loads(durable.read_limited(folder / ELSEWHERE_FILE, _BYTES_MAX))
        version, names = fields["format"], fields["repositories"]
    except (KvmBackupError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if version != _FORMAT_VERSION or not isinstance(names, list) or len(names) > _NAMES_MAX:
        return None
    if not all(isinstance(name, str) and 0 < len(name) <= _NAME_MAX and name.isprintable() for name in names):
        return None
    return tuple(sorted(set(names)))


def is_elsewhere(folder: Path) -> bool:
    """Whether the images of the point in `folder` are not here, and rightly so."""
    return elsewhere(folder) is not None


def mark_elsewhere(folder: Path, repositories: Iterable[str]) -> None:
    """Say, durably, that the images of the point in `folder` are in these repositories. Raises StorageError."""
    fields = {"format": _FORMAT_VERSION, "repositories": sorted(repositories)}
    durable.replace_content(folder / ELSEWHERE_FILE, (json.dumps(fields, indent=2) + "\n").encode())


def unmark(folder: Path) -> None:
    """Say that the images are here. Raises StorageError."""
    try:
        (folder / ELSEWHERE_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise durable.storage_error(error, folder) from error
    durable.sync_folder(folder)


def remove_images(folder: Path, manifest: Manifest) -> int:
    """Remove the images of a point that is marked, and what a killed marking left; returns the bytes that it freed.

    Those that are gone already are no error. Raises StorageError.
    """
    freed = 0
    for path in [*(folder / disk.file for disk in manifest.disks if disk.file), *folder.glob(".*.new-*")]:
        try:
            status = os.lstat(path)
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise durable.storage_error(error, path) from error
        freed += status.st_blocks * _BLOCK if status.st_nlink == 1 else 0
    durable.sync_folder(folder)
    return freed
