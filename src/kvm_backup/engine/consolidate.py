"""A chain of images made one full image: compressed clusters are copied as they lie, nothing is decompressed.

Only a cluster whose end reads as zeros (a shorter link below, or the disk's last cluster) and one that is stored
without compression are compressed anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kvm_backup.engine.append_file import AppendFile
from kvm_backup.engine.chain import StoredCluster, stored_clusters
from kvm_backup.engine.compress import ClusterCompressor, ClusterDecompressor, frame_length
from kvm_backup.engine.copy import CopyControl, NoControl, Throttle
from kvm_backup.engine.direct_io import ALIGNMENT, aligned_buffer
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, ENTRY_COMPRESSED, L2_ENTRIES, MAX_FRAME, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.qcow2.writer import Qcow2Writer

_READ_SIZE = 2 << 20
_TABLES = 5
"""Clusters besides data and L2 tables: header, L1 table, refcount block and table, what is filled up before them."""


@dataclass(frozen=True, slots=True)
class ConsolidatedImage:
    """A file that was written whole and is durable, but for its name in the folder (the caller syncs that)."""

    virtual_size: int
    """Bytes of the disk."""
    bytes_stored: int
    """Size of the file."""
    sha256: str
    """The image's digest, hex: see engine/digest.py for the order of bytes."""


def planned_image_bytes(chain: Sequence[Path], control: CopyControl | None = None) -> int:
    """About how many bytes a consolidated image takes, at most. Reads tables only.

    Raises DamagedImageError, StorageError.
    """
    throttle = Throttle(control or NoControl())
    total = 0
    l2_tables: set[int] = set()
    with ExitStack() as stack:
        for stored in stored_clusters([stack.enter_context(ImageFile.open(path)) for path in chain]):
            throttle.check()
            total += stored.length
            l2_tables.add(stored.cluster // L2_ENTRIES)
    return total + (_TABLES + len(l2_tables)) * CLUSTER_SIZE


def consolidate_chain(
    chain: Sequence[Path], target: Path, *, identity: Identity, control: CopyControl, level: int = 1
) -> ConsolidatedImage:
    """Write the disk that the chain's last image describes to a new full image, without a backing file.

    `chain` has the base first, and its files must have been verified: what is damaged in them gets a new digest
    here. `control.advance` is told bytes read from them. On any error the target is removed. Raises
    DamagedImageError, NoSpaceError, TargetExistsError, StorageError, and what `control.check` raises.
    """
    return _write(AppendFile(target, control), chain, identity, control, level)


def consolidate_unnamed(
    chain: Sequence[Path], folder: Path, *, identity: Identity, control: CopyControl, level: int = 1
) -> BinaryIO:
    """The same into a file without a name in `folder`: it is gone when what is returned is closed."""
    sink = AppendFile(folder, control, unnamed=True)
    file = sink.reader()
    try:
        _write(sink, chain, identity, control, level)
    except BaseException:
        file.close()
        raise
    return file


def _write(
    sink: AppendFile, chain: Sequence[Path], identity: Identity, control: CopyControl, level: int
) -> ConsolidatedImage:
    try:
        with ExitStack() as stack:
            images = [stack.enter_context(ImageFile.open(path)) for path in chain]
            virtual_size = images[-1].header.virtual_size
            writer = Qcow2Writer(sink, virtual_size, compressed=True, identity=identity)
            copier = _Copier(writer, control, level)
            for batch in _batches(stored_clusters(images)):
                copier.copy(batch)
            digest = sink.finish(writer.finish())
    except BaseException:
        sink.abort()
        raise
    return ConsolidatedImage(virtual_size, sink.size, digest)


class _Copier:
    def __init__(self, writer: Qcow2Writer, control: CopyControl, level: int) -> None:
        self._writer = writer
        self._control = control
        self._throttle = Throttle(control)
        self._compressor = ClusterCompressor(level)
        self._decompressor = ClusterDecompressor()
        self._buffer = aligned_buffer(_READ_SIZE)

    def copy(self, batch: Sequence[StoredCluster]) -> None:
        """Read clusters that lie close together in one file at once, and write them."""
        self._throttle.check()
        start = batch[0].offset // ALIGNMENT * ALIGNMENT
        end = batch[-1].offset + batch[-1].length
        wanted = -(-(end - start) // ALIGNMENT) * ALIGNMENT
        got = batch[0].image.read_into(self._buffer[:wanted], start)
        for stored in batch:
            begin = stored.offset - start
            if begin + stored.length > got:
                raise stored.describe_damage("the file is cut short")
            frame = self._frame(stored, self._buffer[begin : begin + stored.length])
            if frame is not None:
                self._writer.add_frame(stored.cluster, frame)
        self._control.advance(end - batch[0].offset)

    def _frame(self, stored: StoredCluster, data: memoryview) -> bytes | None:
        """The bytes to store; None for a cluster that turned out to be zeros."""
        compressed = bool(stored.entry & ENTRY_COMPRESSED)
        try:
            if compressed and stored.valid == CLUSTER_SIZE:
                return bytes(data[: frame_length(data)])
            content = self._decompressor.cluster(data) if compressed else bytes(data)
        except ValueError as error:
            raise stored.describe_damage(str(error)) from error
        shown = content[: stored.valid].ljust(CLUSTER_SIZE, b"\0")
        return self._compressor.frames(memoryview(shown))[0]


def _batches(clusters: Iterable[StoredCluster]) -> Iterator[list[StoredCluster]]:
    """Clusters that follow each other closely in one file, and fit into the buffer together."""
    batch: list[StoredCluster] = []
    for stored in clusters:
        if batch and (
            stored.image is not batch[-1].image
            or not batch[-1].offset < stored.offset <= batch[-1].offset + 2 * MAX_FRAME
            or stored.offset + stored.length - batch[0].offset > _READ_SIZE - 2 * ALIGNMENT
        ):
            yield batch
            batch = []
        batch.append(stored)
    if batch:
        yield batch
