"""A disk over NBD to a qcow2 file of compressed clusters: reads, compression and writing overlap.

One thread (the caller's) talks to the NBD server and lays out the file; a few compress; one digests and writes.
Everything between them is bounded: read buffers are a fixed set, and frames wait in order for at most _MAX_QUEUED
pieces of the disk.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.extent import Extent, ExtentKind
from kvm_backup.engine.append_file import AppendFile
from kvm_backup.engine.chain import first_stored
from kvm_backup.engine.compress import ClusterCompressor
from kvm_backup.engine.copy import CopyControl, Throttle, worker_count
from kvm_backup.engine.held import HeldClusters
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.qcow2.writer import Qcow2Writer
from kvm_backup.engine.source import NbdSource

_PIECE_SIZE = 1 << 20
_MAX_QUEUED = 48


@dataclass(frozen=True, slots=True)
class CapturedImage:
    """A file that was written whole and is durable, but for its name in the folder (the caller syncs that)."""

    virtual_size: int
    """Bytes of the disk."""
    bytes_read: int
    """Bytes read from the source."""
    bytes_stored: int
    """Size of the file."""
    sha256: str
    """The image's digest, hex: see engine/digest.py for the order of bytes."""


def planned_bytes(source: NbdSource, control: CopyControl | None = None) -> int:
    """How many bytes a capture of this source reads. Raises SourceReadError."""
    return sum(extent.length for extent in source.extents(control) if extent.kind is ExtentKind.DATA)


def contradiction(
    source: NbdSource,
    parent: Sequence[Path],
    below: HeldClusters | None = None,
    control: CopyControl | None = None,
) -> int | None:
    """The first disk offset where the source reads as zeros, its bitmap says unchanged, yet the parent holds data.

    Then something that no bitmap records changed the disk: QEMU drops the bits of a part that is cut off, so a disk
    that was shrunk and grown again has lost its data and no trace of it. `parent` is a chain, base first; what it
    stores is never all zeros. Reads tables only. Raises SourceReadError, DamagedImageError, StorageError.
    """
    with ExitStack() as stack:
        images = [stack.enter_context(ImageFile.open(path)) for path in parent]
        if below is not None:
            for image in images:
                below = below.under(image)
            return below.first_within(source.unchanged_zeros(control))
        return first_stored(images, source.unchanged_zeros(control))


def capture_disk(
    source: NbdSource,
    path: Path,
    *,
    identity: Identity,
    backing_file: str | None,
    control: CopyControl,
    backing_format: str = "qcow2",
    level: int = 1,
) -> CapturedImage:
    """Write what the source's extents ask for to a new file at `path`.

    `backing_file` is the name to put in the header (relative to the file's folder), None for a full image;
    `control.advance` is told bytes read. On any error the file is removed. Raises SourceReadError, NoSpaceError,
    TargetExistsError, StorageError, ValueError (names or level out of range), and what `control.check` raises.
    """
    compressor = ClusterCompressor(level)
    sink = AppendFile(path, control)
    try:
        writer = Qcow2Writer(
            sink,
            source.size,
            compressed=True,
            backing_file=backing_file,
            backing_format=backing_format if backing_file is not None else None,
            identity=identity,
        )
        with ThreadPoolExecutor(worker_count(), thread_name_prefix="compress") as pool:
            capture = _Capture(source, writer, compressor, pool, control, has_parent=backing_file is not None)
            try:
                capture.run()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        digest = sink.finish(writer.finish())
    except BaseException:
        sink.abort()
        raise
    return CapturedImage(source.size, capture.bytes_read, sink.size, digest)


@dataclass(slots=True)
class _Piece:
    """A part of the disk on its way through; in the order of the disk until it is stored."""

    extent: Extent
    frames: "Future[list[bytes | None]] | None" = None


class _Capture:
    def __init__(
        self,
        source: NbdSource,
        writer: Qcow2Writer,
        compressor: ClusterCompressor,
        pool: ThreadPoolExecutor,
        control: CopyControl,
        *,
        has_parent: bool,
    ) -> None:
        self._source = source
        self._writer = writer
        self._compressor = compressor
        self._pool = pool
        self._control = control
        self._throttle = Throttle(control)
        self._has_parent = has_parent
        count = 4 * worker_count() + 8
        self._buffers = source.make_buffers(count, _PIECE_SIZE)
        self._free = list(range(count))
        self._reading: dict[int, _Piece] = {}
        self._freed: deque[int] = deque()
        """Buffers whose clusters were compressed; filled by the compressing threads."""
        self._queue: deque[_Piece] = deque()
        self.bytes_read = 0

    def run(self) -> None:
        pieces = self._pieces()
        more = True
        while more or self._queue:
            self._throttle.check()
            while self._freed:
                self._free.append(self._freed.popleft())
            while more and self._free and len(self._queue) < _MAX_QUEUED:
                piece = next(pieces, None)
                if piece is None:
                    more = False
                else:
                    self._begin(piece)
            for buffer in self._source.completed():
                self._compress(buffer)
            if not self._store_what_is_ready() and self._queue:
                self._source.wait()

    def _pieces(self) -> Iterator[_Piece]:
        for extent in self._source.extents(self._control):
            if extent.kind is ExtentKind.DATA:
                for offset in range(extent.offset, extent.end, _PIECE_SIZE):
                    length = min(_PIECE_SIZE, extent.end - offset)
                    yield _Piece(Extent(offset, length, ExtentKind.DATA))
            elif extent.kind is ExtentKind.ZERO and self._has_parent:
                yield _Piece(extent)
            elif extent.kind is ExtentKind.UNCHANGED and not self._has_parent:
                raise ValueError("a source with a dirty bitmap needs a backing file")

    def _begin(self, piece: _Piece) -> None:
        self._queue.append(piece)
        if piece.extent.kind is ExtentKind.DATA:
            buffer = self._free.pop()
            self._reading[buffer] = piece
            self._source.start_read(buffer, piece.extent.offset, piece.extent.length)

    def _compress(self, buffer: int) -> None:
        piece = self._reading.pop(buffer)
        self.bytes_read += piece.extent.length
        padded = -(-piece.extent.length // CLUSTER_SIZE) * CLUSTER_SIZE
        view = self._buffers[buffer][:padded]
        view[piece.extent.length :] = bytes(padded - piece.extent.length)

        def work() -> list[bytes | None]:
            frames = self._compressor.frames(view)
            self._freed.append(buffer)
            return frames

        piece.frames = self._pool.submit(work)
        piece.frames.add_done_callback(lambda _future: self._source.wake())

    def _store_what_is_ready(self) -> bool:
        """Store pieces from the front of the queue; returns whether there was any."""
        stored = False
        while self._queue:
            piece = self._queue[0]
            cluster = piece.extent.offset // CLUSTER_SIZE
            if piece.extent.kind is ExtentKind.ZERO:
                self._writer.add_zeros(cluster, -(-piece.extent.length // CLUSTER_SIZE))
            elif piece.frames is None or not piece.frames.done():
                break
            else:
                for index, frame in enumerate(piece.frames.result()):
                    if frame is not None:
                        self._writer.add_frame(cluster + index, frame)
                    elif self._has_parent:
                        self._writer.add_zeros(cluster + index, 1)
                self._control.advance(piece.extent.length)
            self._queue.popleft()
            stored = True
        return stored
