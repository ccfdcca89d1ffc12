"""The parts of the qcow2 version 3 format that restore points use, as values and bytes.

Source of the format: QEMU's docs/interop/qcow2.txt ("General", "Header extensions", "Cluster mapping",
"Compressed Clusters Descriptor", "Host cluster management"). All numbers are big-endian. Clusters are 64 KiB,
compression is zstd, refcounts have 16 bits; a file that says otherwise is not ours.

Our header extension has the magic 0x4B564D42 ("KVMB"); its data is UTF-8 JSON, see `Identity`. QEMU ignores
extensions that it does not know.
"""

import json
import struct
from dataclasses import dataclass

from kvm_backup.domain.errors import DamagedImageError
from kvm_backup.domain.phrase import phrase

CLUSTER_BITS = 16
CLUSTER_SIZE = 1 << CLUSTER_BITS
SECTOR_SIZE = 512
L2_ENTRIES = CLUSTER_SIZE // 8
L2_COVERAGE = L2_ENTRIES * CLUSTER_SIZE
"""Bytes of the disk that one L2 table maps: 512 MiB."""
REFCOUNT_BLOCK_ENTRIES = CLUSTER_SIZE // 2
MAX_L1_BYTES = 32 << 20
"""QEMU opens no image with a larger L1 table; it maps 2 PiB."""
MAX_BACKING_NAME = 1023

MAGIC = 0x514649FB
VERSION = 3
HEADER_LENGTH = 112
INCOMPATIBLE_COMPRESSION_TYPE = 1 << 3
COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1
EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_IDENTITY = 0x4B564D42

_HEADER = struct.Struct(">IIQIIQIIQQIIQQQQIIB7x")
_EXTENSION = struct.Struct(">II")

ENTRY_COPIED = 1 << 63
ENTRY_COMPRESSED = 1 << 62
ENTRY_ZERO = 1
ENTRY_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_SECTORS_SHIFT = 62 - (CLUSTER_BITS - 8)
_COMPRESSED_OFFSET_MASK = (1 << _SECTORS_SHIFT) - 1
_SECTORS_MASK = (1 << (CLUSTER_BITS - 8)) - 1

FRAME_PREFIX = bytes.fromhex("28b52ffd6400ff")
"""How every zstd frame of a 64 KiB cluster begins (RFC 8878, 3.1.1): the magic; a descriptor that says single
segment, content checksum, no dictionary, a content size of two bytes; and that size less 256."""
MAX_FRAME = CLUSTER_SIZE + 64
"""Room for a frame whose content did not compress."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which disk of which restore point a file holds; tells a swapped or foreign file from the right one."""

    point: str
    disk: str
    parent: str | None

    def to_json(self) -> bytes:
        return json.dumps({"point": self.point, "disk": self.disk, "parent": self.parent}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Identity":
        """Raises DamagedImageError."""
        try:
            fields = json.loads(data)
            point, disk, parent = fields["point"], fields["disk"], fields["parent"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged("the identity in the header is not readable") from error
        if not (isinstance(point, str) and isinstance(disk, str) and isinstance(parent, str | None)):
            raise damaged("the identity in the header has fields of the wrong type")
        return cls(point, disk, parent)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image; offsets are bytes of the file, `virtual_size` bytes of the disk."""

    virtual_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    compression: int
    backing_file: str | None = None
    backing_format: str | None = None
    identity: Identity | None = None

    @property
    def l1_entries(self) -> int:
        return -(-self.virtual_size // L2_COVERAGE)


def damaged(message: str) -> DamagedImageError:
    """A DamagedImageError with the hint that fits all of them."""
    return DamagedImageError(
        message,
        hint=phrase("Run `kvm-backup verify` on the restore point; another copy or an older point may be whole."),
    )


def pack_header(header: Header) -> bytes:
    """The first cluster of an image. Raises ValueError when the names do not fit."""
    extensions = b""
    if header.backing_format is not None:
        extensions += _extension(EXTENSION_BACKING_FORMAT, header.backing_format.encode())
    if header.identity is not None:
        extensions += _extension(EXTENSION_IDENTITY, header.identity.to_json())
    extensions += _extension(EXTENSION_END, b"")
    backing = header.backing_file.encode() if header.backing_file is not None else b""
    if len(backing) > MAX_BACKING_NAME:
        raise ValueError(f"the backing file's name has {len(backing)} bytes, qcow2 allows {MAX_BACKING_NAME}")
    fixed = _HEADER.pack(
        MAGIC, VERSION,
        HEADER_LENGTH + len(extensions) if backing else 0, len(backing),
        CLUSTER_BITS, header.virtual_size, 0,
        header.l1_entries, header.l1_offset,
        header.refcount_table_offset, header.refcount_table_clusters,
        0, 0,
        INCOMPATIBLE_COMPRESSION_TYPE if header.compression else 0, 0, 0,
        4, HEADER_LENGTH, header.compression,
    )  # fmt: skip
    cluster = fixed + extensions + backing
    if len(cluster) > CLUSTER_SIZE:
        raise ValueError("the header does not fit in its cluster")
    return cluster.ljust(CLUSTER_SIZE, b"\0")


def unpack_header(cluster: bytes) -> Header:
    """The header in the first cluster of a file. Raises DamagedImageError with the cause.

    Checks every field against the format and against what this program supports, not against the file's size.
    """
    if len(cluster) < HEADER_LENGTH:
        raise damaged(f"the file has only {len(cluster)} bytes, too few for a qcow2 header")
    (
        magic, version, backing_offset, backing_length, cluster_bits, virtual_size, encryption, l1_entries, l1_offset,
        refcount_offset, refcount_clusters, snapshots, _snapshots_offset, incompatible, compatible, _autoclear,
        refcount_order, header_length, compression,
    ) = _HEADER.unpack_from(cluster)  # fmt: skip
    if magic != MAGIC:
        raise damaged("the file is not a qcow2 image")
    for name, value, supported in (
        ("version", version, VERSION),
        ("cluster_bits", cluster_bits, CLUSTER_BITS),
        ("encryption method", encryption, 0),
        ("number of internal snapshots", snapshots, 0),
        ("incompatible features", incompatible & ~INCOMPATIBLE_COMPRESSION_TYPE, 0),
        ("refcount_order", refcount_order, 4),
        ("header length", header_length, HEADER_LENGTH),
        ("compatible features", compatible & ~1, 0),
    ):
        if value != supported:
            raise damaged(f"the header's {name} is {value:#x}, only {supported:#x} is supported")
    if compression != (COMPRESSION_ZSTD if incompatible else COMPRESSION_ZLIB):
        raise damaged(f"the header's compression type {compression} is not supported")
    if not virtual_size or virtual_size % SECTOR_SIZE or -(-virtual_size // L2_COVERAGE) * 8 > MAX_L1_BYTES:
        raise damaged(f"the header's virtual size {virtual_size} is impossible")
    if l1_entries != -(-virtual_size // L2_COVERAGE):
        raise damaged(f"the L1 table has {l1_entries} entries, which does not fit the disk's size {virtual_size}")
    for name, offset in (("L1", l1_offset), ("refcount", refcount_offset)):
        if offset % CLUSTER_SIZE or not offset:
            raise damaged(f"the {name} table's offset {offset:#x} is not that of a cluster")
    backing_format, identity = _unpack_extensions(cluster, backing_offset or CLUSTER_SIZE)
    backing_file = _unpack_backing_name(cluster, backing_offset, backing_length)
    return Header(
        virtual_size,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        compression,
        backing_file,
        backing_format,
        identity,
    )


def compressed_entry(offset: int, length: int) -> int:
    """The L2 entry of a frame of `length` bytes at byte `offset` of the file."""
    more_sectors = (offset + length - 1) // SECTOR_SIZE - offset // SECTOR_SIZE
    return ENTRY_COMPRESSED | more_sectors << _SECTORS_SHIFT | offset


def frame_range(entry: int) -> tuple[int, int]:
    """Offset in the file, and how many bytes a compressed cluster takes at most (to the end of its last sector)."""
    offset = entry & _COMPRESSED_OFFSET_MASK
    more_sectors = entry >> _SECTORS_SHIFT & _SECTORS_MASK
    return offset, (more_sectors + 1) * SECTOR_SIZE - offset % SECTOR_SIZE


def _extension(magic: int, data: bytes) -> bytes:
    return _EXTENSION.pack(magic, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def _unpack_extensions(cluster: bytes, end: int) -> tuple[str | None, Identity | None]:
    backing_format: str | None = None
    identity: Identity | None = None
    end = min(end, len(cluster))
    position = HEADER_LENGTH
    while position + _EXTENSION.size <= end:
        magic, length = _EXTENSION.unpack_from(cluster, position)
        position += _EXTENSION.size
        if magic == EXTENSION_END:
            return backing_format, identity
        if length > end - position:
            raise damaged(f"the header extension {magic:#x} is longer than the header")
        data = cluster[position : position + length]
        if magic == EXTENSION_BACKING_FORMAT:
            backing_format = _text(data, "backing format")
        elif magic == EXTENSION_IDENTITY:
            identity = Identity.from_json(data)
        position += -(-length // 8) * 8
    raise damaged("the header's extensions have no end")


def _unpack_backing_name(cluster: bytes, offset: int, length: int) -> str | None:
    if not offset:
        return None
    if not 0 < length <= MAX_BACKING_NAME or offset < HEADER_LENGTH or offset + length > len(cluster):
        raise damaged(f"the backing file's name of {length} bytes at {offset:#x} does not lie in the header")
    return _text(cluster[offset : offset + length], "backing file's name")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise damaged(f"the {what} is not UTF-8") from error
