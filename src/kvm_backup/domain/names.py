"""Names on disk and in libvirt: how they are made, and what is accepted when they are read back.

A VM's name may hold anything but a slash and a newline, so it never becomes a path as it is.
"""

import re
from datetime import UTC, datetime
from uuid import UUID

STAMP_FORMAT = "%Y%m%dT%H%M%SZ"
STAMP_LENGTH = 16
STAMP_PATTERN = r"[0-9]{8}T[0-9]{6}Z"
FOLDER_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,119}--[0-9a-f]{8}(?:[0-9a-f-]{28})?"
POINT_ID_PATTERN = rf"{FOLDER_PATTERN}/{STAMP_PATTERN}"
FILE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
PARTIAL_PREFIX = ".partial-"
CHECKPOINT_PREFIX = "kvm-backup-"

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]")


def vm_folder(name: str, uuid: str, *, whole_uuid: bool = False) -> str:
    """The folder of a VM in a repository: its name made safe, then the first 8 digits of its UUID.

    `whole_uuid` is for the rare case that another VM already holds the short form.
    """
    return f"{safe_name(name)}--{uuid if whole_uuid else uuid[:8]}"


def stamp(moment: datetime) -> str:
    """A moment in UTC to the second, sortable as text: 20261122T020000Z."""
    return moment.astimezone(UTC).strftime(STAMP_FORMAT)


def is_stamp(text: str) -> bool:
    """Whether a folder's name is a time, and so the folder a point."""
    if not re.fullmatch(STAMP_PATTERN, text):
        return False
    try:
        parse_stamp(text)
    except ValueError:
        return False
    return True


def parse_stamp(text: str) -> datetime:
    """The moment that a stamp names. Raises ValueError."""
    return datetime.strptime(text, STAMP_FORMAT).replace(tzinfo=UTC)


def safe_name(vm_name: str) -> str:
    """The part of a VM folder's name that comes from the VM's name."""
    safe = _UNSAFE.sub("_", vm_name)[:120] or "_"
    return safe if re.match(r"[A-Za-z0-9_]", safe) else f"_{safe[1:]}"


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID as libvirt writes it, in small letters or capitals."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def checkpoint_name(repository_id: str, point_stamp: str) -> str:
    """The libvirt checkpoint of a point. It names the repository, so that each keeps a chain of its own."""
    return f"{CHECKPOINT_PREFIX}{repository_id[:8]}-{point_stamp}"


def is_checkpoint_of(name: str, repository_id: str) -> bool:
    """Whether a libvirt checkpoint was made for a point of that repository."""
    return re.fullmatch(rf"{re.escape(CHECKPOINT_PREFIX + repository_id[:8])}-{STAMP_PATTERN}", name) is not None


def disk_file(target: str) -> str:
    """The file of a disk in its point's folder."""
    return f"{target}.qcow2"


def without_snapshot_name(file_name: str) -> str:
    """The name of a disk's image without what our snapshots appended to it."""
    return re.sub(rf"\.{CHECKPOINT_PREFIX}[0-9a-f]{{8}}-{STAMP_PATTERN}$", "", file_name)
