"""The restore point and its manifest, repository format version 1 (docs/repository-format.md).

A manifest is JSON with sorted keys, indented, UTF-8. Its last guard is its own digest: SHA-256 over the very bytes
of the file with the digest's 64 hex digits taken as zeros, so that a flipped bit anywhere in it is noticed.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvm_backup.domain.chain import FullReason
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.errors import DamagedManifestError
from kvm_backup.domain.names import FILE_PATTERN, POINT_ID_PATTERN
from kvm_backup.domain.phrase import phrase

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
DOMAIN_XML_FILE = "domain.xml"
NVRAM_FILE = "nvram.fd"
TPM_FILE = "tpm.tar"
MANIFEST_BYTES_MAX = 4 * 1024 * 1024

_DIGEST_LINE = re.compile(rb'"digest": "([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64


def _must_be_utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None or moment.utcoffset() != UTC.utcoffset(None):
        raise ValueError("must be in UTC")
    return moment


PointId = Annotated[str, Field(pattern=rf"^{POINT_ID_PATTERN}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=rf"^{FILE_PATTERN}$")]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
UtcTime = Annotated[datetime, AfterValidator(_must_be_utc)]
ShortText = Annotated[str, Field(max_length=4096)]


class Mode(StrEnum):
    """What kind of restore point is asked for, or was made."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SNAPSHOT = "snapshot"
    """An external libvirt snapshot: the disks stay where they are, on the host."""


class Consistency(StrEnum):
    """What the guest's file systems were like at the instant of the point."""

    FILESYSTEM = "filesystem"
    """Frozen by the guest agent, or unmounted by a clean shutdown."""
    CRASH = "crash"
    """As after a power cut."""


class DiskMode(StrEnum):
    """How one disk is stored in its point."""

    FULL = "full"
    INCREMENTAL = "incremental"
    """Only what changed since the parent, which is the file's backing file."""
    WHOLE = "whole"
    """All of it each time, since its format has no dirty bitmap; never has a backing file."""
    HOST = "host"
    """Mode snapshot: the state is an image file on the host (`host_path`)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="utf8")


class StoredFile(_Frozen):
    """A file of the point other than a disk: its size in bytes and SHA-256."""

    name: FileName
    bytes: Bytes
    sha256: Sha256


class StoredDisk(_Frozen):
    """A disk in a point. Sizes are in bytes; `bytes_read` is what was read from the VM."""

    target: FileName
    mode: DiskMode
    virtual_size: Bytes
    source_format: ShortText
    """The image format on the host (qcow2, raw): what an in-place restore writes again."""
    source_path: ShortText | None
    source_images: tuple[ShortText, ...] = ()
    """The host's images that the disk was made of, top first: `inode:<number>` of a file, or another one's path."""
    file: FileName | None = None
    image_sha256: Sha256 | None = None
    """SHA-256 over the image's bytes from its second 64 KiB cluster to the end, then its first cluster."""
    bytes_read: Bytes = 0
    bytes_stored: Bytes = 0
    host_path: ShortText | None = None

    @model_validator(mode="after")
    def _either_file_or_host_path(self) -> Self:
        if self.mode is DiskMode.HOST:
            if self.host_path is None or self.file is not None:
                raise ValueError("a disk on the host has host_path and no file")
        elif self.file is None or self.image_sha256 is None or self.host_path is not None:
            raise ValueError("a stored disk has file and image_sha256 and no host_path")
        return self


class LeftOutDisk(_Frozen):
    """A disk that is not in the point, and the rule that says so."""

    target: ShortText
    reason: LeftOut


class Demotion(_Frozen):
    """Why an incremental that was asked for became a full one."""

    reason: FullReason
    detail: ShortText


class Manifest(_Frozen):
    """One restore point. `parent` is the point that incremental disks build on, in the same VM folder."""

    format: Annotated[int, Field(ge=1, le=FORMAT_VERSION)] = FORMAT_VERSION
    id: PointId
    uuid: Uuid
    """Random; written into the point's qcow2 files too, and kept when the point is consolidated."""
    repository: Uuid
    vm_name: ShortText
    vm_uuid: Uuid
    created: UtcTime
    finished: UtcTime
    mode: Mode
    requested_mode: Mode
    demotion: Demotion | None = None
    parent: PointId | None = None
    parent_uuid: Uuid | None = None
    checkpoint: ShortText | None = None
    """The libvirt checkpoint that the next incremental starts from."""
    consistency: Consistency
    snapshot: ShortText | None = None
    """The libvirt snapshot's name, in mode snapshot."""
    disks: Annotated[tuple[StoredDisk, ...], Field(min_length=1, max_length=512)]
    left_out: tuple[LeftOutDisk, ...] = ()
    files: Annotated[tuple[StoredFile, ...], Field(max_length=64)] = ()
    notices: tuple[ShortText, ...] = ()
    run: Annotated[str, Field(max_length=200)] | None = None
    """The id of the run that made it, in the history of its host: a run that is taken up again after its process
    was killed finds the point that it had published."""
    tool_version: ShortText

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        incremental = any(disk.mode is DiskMode.INCREMENTAL for disk in self.disks)
        if incremental != (self.parent is not None) or (self.parent is None) != (self.parent_uuid is None):
            raise ValueError("parent and parent_uuid are there exactly when a disk is incremental")
        if (self.mode is Mode.SNAPSHOT) != (self.snapshot is not None):
            raise ValueError("snapshot is there exactly in mode snapshot")
        if self.parent is not None and (self.parent.split("/")[0] != self.folder or self.parent >= self.id):
            raise ValueError("the parent is an older point of the same VM folder")
        names = [disk.file for disk in self.disks if disk.file] + [stored.name for stored in self.files]
        if len(set(names)) != len(names) or MANIFEST_FILE in names:
            raise ValueError("a file is named twice")
        if len({disk.target for disk in self.disks}) != len(self.disks):
            raise ValueError("a disk is named twice")
        return self

    @property
    def folder(self) -> str:
        """The VM's folder in the repository."""
        return self.id.split("/")[0]

    @property
    def stamp(self) -> str:
        """The point's own folder."""
        return self.id.split("/")[1]

    @property
    def identity(self) -> str:
        """What the point's qcow2 files carry in their header extension."""
        return f"{self.id}@{self.uuid}"

    @property
    def parent_identity(self) -> str | None:
        return None if self.parent is None else f"{self.parent}@{self.parent_uuid}"

    @property
    def bytes_stored(self) -> int:
        return sum(disk.bytes_stored for disk in self.disks) + sum(stored.bytes for stored in self.files)

    @property
    def bytes_read(self) -> int:
        return sum(disk.bytes_read for disk in self.disks)

    def disk(self, target: str) -> StoredDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def serialize(manifest: Manifest) -> bytes:
    """The manifest's file, with its digest filled in."""
    fields = manifest.model_dump(mode="json") | {"digest": _NO_DIGEST}
    blank = (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return blank.replace(f'"digest": "{_NO_DIGEST}"'.encode(), f'"digest": "{_digest(blank)}"'.encode())


def parse(content: bytes, where: str) -> Manifest:
    """Read a manifest's file. `where` names it in the error.

    Raises DamagedManifestError when it is not whole: wrong digest, not JSON, fields missing, unknown or out of range.
    """
    if len(content) > MANIFEST_BYTES_MAX:
        raise _damaged(where, f"it is larger than {MANIFEST_BYTES_MAX} bytes")
    found = _DIGEST_LINE.findall(content)
    if len(found) != 1:
        raise _damaged(where, phrase("its digest is missing"))
    digest: bytes = found[0]
    if _digest(content.replace(digest, _NO_DIGEST.encode(), 1)) != digest.decode():
        raise _damaged(where, phrase("its content does not match its digest"))
    try:
        fields: Any = json.loads(content.decode(), object_pairs_hook=_without_repetition, parse_constant=_no_number)
        if isinstance(fields, dict):
            del fields["digest"]
        # As JSON and strictly, so that a number in quotes or a lone surrogate is no value either.
        return Manifest.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise _damaged(where, f"{place}: {first['msg']}") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise _damaged(where, f"it is not JSON: {error}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(where: str, cause: str) -> DamagedManifestError:
    return DamagedManifestError(
        phrase("the manifest {where} is damaged: {cause}", where=where, cause=cause),
        hint=phrase(
            "Nothing was changed. Run 'kvm-backup verify --all' to see what is affected; the qcow2 "
            "files beside it may still be whole and can be read with qemu-img."
        ),
    )
