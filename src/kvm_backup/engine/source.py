"""A disk read over NBD through libnbd: what is in it, and asynchronous reads into a fixed set of buffers.

Sources: the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md: "Block status", "base:allocation") and
QEMU's docs/interop/nbd.txt ("qemu:dirty-bitmap:"). libnbd keeps every buffer it was ever given, and first touch of
memory is slow in virtual machines; so buffers are made once.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import nbd

from kvm_backup.domain.errors import SourceReadError
from kvm_backup.domain.extent import Extent, ExtentKind, align, clip, combine
from kvm_backup.domain.phrase import phrase
from kvm_backup.engine.copy import WAIT_SECONDS, CopyControl, NoControl
from kvm_backup.engine.direct_io import aligned_buffer
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, SECTOR_SIZE

ALLOCATION_CONTEXT = "base:allocation"
BITMAP_CONTEXT_PREFIX = "qemu:dirty-bitmap:"
_STATE_READS_ZERO = 1 << 1
_STATE_DIRTY = 1 << 0
_STATUS_STRIDE = 1 << 30
"""Bytes of disk per block-status request: few round trips, yet at most a few MB of reply for a shredded disk."""
_CONNECT_SECONDS = 30.0


def source_error(message: str) -> SourceReadError:
    return SourceReadError(
        message,
        hint=phrase("Start the backup again; if it fails again, look at the VM's log and at the host's disks."),
    )


@contextlib.contextmanager
def _nbd_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except nbd.Error as error:
        raise source_error(f"{doing} failed: {error.string}") from error


class NbdSource:
    """One export of an NBD server. Used by one thread; only `wake` may be called from others.

    Every method that talks to the server raises SourceReadError when it answers with an error or is gone.
    """

    def __init__(self, handle: Any, description: str, bitmap_context: str | None) -> None:
        """Made by `connect`."""
        self._nbd: Any = handle
        self._description = description
        self._bitmap_context = bitmap_context
        self._views: list[memoryview] = []
        self._buffers: dict[tuple[int, int], Any] = {}
        self._reading: dict[int, int] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        self.size = 0

    @classmethod
    def connect(
        cls, socket: Path, export: str, *, dirty_bitmap: str | None, control: CopyControl | None = None
    ) -> Self:
        """Open `export` of the server that listens on a unix socket.

        With `dirty_bitmap` (QEMU's name of the bitmap) extents tell what changed since it was started. Raises
        SourceReadError when the server does not answer within 30 s or does not offer the bitmap: a missing bitmap
        must never look like "nothing changed".
        """
        context = BITMAP_CONTEXT_PREFIX + dirty_bitmap if dirty_bitmap is not None else None
        source = cls(nbd.NBD(), f"NBD export {export!r} on {socket}", context)
        try:
            source._negotiate(socket, export, control or NoControl())
        except BaseException:
            source.close()
            raise
        return source

    def _negotiate(self, socket: Path, export: str, control: CopyControl) -> None:
        handle = self._nbd
        contexts = [ALLOCATION_CONTEXT] + ([self._bitmap_context] if self._bitmap_context else [])
        with _nbd_errors(f"connecting to {self._description}"):
            handle.set_export_name(export)
            for context in contexts:
                handle.add_meta_context(context)
            # Buffers of failed reads are never looked at, so clearing each before the read is wasted work.
            handle.set_pread_initialize(False)
            handle.aio_connect_unix(str(socket))
            deadline = time.monotonic() + _CONNECT_SECONDS
            while not handle.aio_is_ready():
                control.check()
                if handle.aio_is_dead() or handle.aio_is_closed():
                    raise source_error(f"{self._description}: the server closed the connection")
                if time.monotonic() > deadline:
                    raise source_error(f"{self._description}: no answer within {_CONNECT_SECONDS:.0f} s")
                self.wait()
            self.size = handle.get_size()
            for context in contexts:
                if not handle.can_meta_context(context):
                    raise source_error(f"{self._description} does not offer the context {context}")
        if not self.size or self.size % SECTOR_SIZE:
            raise source_error(f"{self._description} has {self.size} bytes, which is no number of whole sectors")

    def extents(self, control: CopyControl | None = None) -> Iterator[Extent]:
        """The whole disk as merged extents of whole 64 KiB clusters (the last one ends with the disk), as a stream.

        Without a bitmap there is no UNCHANGED. May be mixed with reads, and started again.
        """
        return align(self._raw_extents(control or NoControl()), CLUSTER_SIZE)

    def unchanged_zeros(self, control: CopyControl | None = None) -> Iterator[Extent]:
        """The whole clusters that read as zeros and that, says the bitmap, did so when it was started."""
        assert self._bitmap_context, "without a bitmap nothing is known to be unchanged"
        for extent in align(self._raw_extents(control or NoControl(), _clean_kind), CLUSTER_SIZE):
            if extent.kind is ExtentKind.ZERO:
                yield extent

    def _raw_extents(
        self, control: CopyControl, changed: "Callable[[int], ExtentKind] | None" = None
    ) -> Iterator[Extent]:
        position = 0
        while position < self.size:
            wanted = min(_STATUS_STRIDE, self.size - position)
            replies = self._block_status(position, wanted, control)
            found = _extents(replies.get(ALLOCATION_CONTEXT, []), position, _allocation_kind)
            if self._bitmap_context:
                dirty = _extents(replies.get(self._bitmap_context, []), position, changed or _dirty_kind)
                found = combine(found, dirty)
            before = position
            # A server may tell less or more than it was asked, and less about one context than about the other.
            for extent in clip(found, position + wanted):
                yield extent
                position = extent.end
            if position == before:
                raise source_error(f"{self._description} does not tell what it holds at offset {position}")

    def _block_status(self, offset: int, length: int, control: CopyControl) -> dict[str, list[int]]:
        replies: dict[str, list[int]] = {}

        def keep(context: str, _offset: int, entries: list[int], _error: Any) -> int:
            replies.setdefault(context, entries)
            return 0

        with _nbd_errors(f"asking {self._description} what it holds"):
            cookie = self._nbd.aio_block_status(length, offset, keep)
            while not self._nbd.aio_command_completed(cookie):
                control.check()
                self.wait()
        return replies

    def make_buffers(self, count: int, size: int) -> list[memoryview]:
        """Memory for reads; a buffer is named by its index from then on."""
        self._views = [aligned_buffer(size) for _ in range(count)]
        self._buffers.clear()
        return self._views

    def start_read(self, buffer: int, offset: int, length: int) -> None:
        """Begin to read into the front of the buffer of that index; `completed` tells when it is done."""
        # libnbd's binding never lets go of a buffer object, so there is one for each use and it is used again.
        target = self._buffers.get((buffer, length))
        if target is None:
            target = nbd.Buffer.from_buffer(self._views[buffer][:length])
            self._buffers[buffer, length] = target
        with _nbd_errors(f"reading {self._description}"):
            self._reading[self._nbd.aio_pread(target, offset)] = buffer

    def completed(self) -> list[int]:
        """Indexes of the buffers whose reads were completed since the last call."""
        done: list[int] = []
        with _nbd_errors(f"reading {self._description}"):
            while self._reading and (cookie := self._nbd.aio_peek_command_completed()):
                self._nbd.aio_command_completed(cookie)
                done.append(self._reading.pop(cookie))
            if self._reading and (self._nbd.aio_is_dead() or self._nbd.aio_is_closed()):
                raise source_error(f"{self._description}: the server closed the connection")
        return done

    def wait(self) -> None:
        """Until the server sent or took something, `wake` was called, or WAIT_SECONDS have passed."""
        with _nbd_errors(f"talking to {self._description}"):
            handle = self._nbd
            fd, direction = handle.aio_get_fd(), handle.aio_get_direction()
            events = (select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0) | (
                select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
            )
            self._poll.register(fd, events)
            ready = dict(self._poll.poll(WAIT_SECONDS * 1000))
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            state = ready.get(fd, 0)
            if state & (select.POLLIN | select.POLLHUP | select.POLLERR):
                handle.aio_notify_read()
            elif state & select.POLLOUT:
                handle.aio_notify_write()

    def wake(self) -> None:
        """End the `wait` of the source's thread; callable from any thread, also after `close`."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Hang up. Reads in progress are dropped; their buffers must not be used any more."""
        if self._nbd is not None:
            with contextlib.suppress(nbd.Error):
                self._nbd.aio_disconnect()
            # The binding has no close: the connection ends with the last reference to it.
            self._nbd = None
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _allocation_kind(state: int) -> ExtentKind:
    return ExtentKind.ZERO if state & _STATE_READS_ZERO else ExtentKind.DATA


def _dirty_kind(state: int) -> ExtentKind:
    return ExtentKind.DATA if state & _STATE_DIRTY else ExtentKind.UNCHANGED


def _clean_kind(state: int) -> ExtentKind:
    return ExtentKind.UNCHANGED if state & _STATE_DIRTY else ExtentKind.DATA


def _extents(entries: list[int], offset: int, kind: Callable[[int], ExtentKind]) -> Iterator[Extent]:
    """A block-status reply (length, state, length, state, …) that begins at `offset` as extents."""
    for length, state in zip(entries[::2], entries[1::2], strict=True):
        yield Extent(offset, length, kind(state))
        offset += length
