"""One file encrypted or decrypted, in a process of its own: pyrage holds Python's lock for whole seconds.

It is told on its standard input, as JSON, what to do, so that no key is seen in a list of processes. On its standard
output it tells how many bytes of the source are done, line by line, and in the last line, JSON again, how it went.
When nobody reads that any more, it ends. What it writes is synced; giving it its name is the caller's part.
"""

import ctypes
import errno
import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

import pyrage

_HEAD = 64 << 10
"""The digest of an image covers its first cluster last (docs/repository-format.md)."""
_WINDOW = 32 << 20
"""After so many bytes what was read, or written long enough ago, leaves the page cache: that is the guests'."""
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
"""Flags of sync_file_range(2)."""
_CANNOT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE)
_TELL_SECONDS = 0.1
_BUFFER = 1 << 20


class _Digest:
    """SHA-256 of a file, in the order of images or from begin to end."""

    def __init__(self, *, image: bool) -> None:
        self._hasher = hashlib.sha256()
        self._head_left = _HEAD if image else 0
        self._head = bytearray()

    def update(self, piece: bytes) -> None:
        if self._head_left:
            taken = min(self._head_left, len(piece))
            self._head += piece[:taken]
            self._head_left -= taken
            piece = piece[taken:]
        self._hasher.update(piece)

    def hexdigest(self) -> str:
        self._hasher.update(self._head)
        self._head.clear()
        return self._hasher.hexdigest()


class _Source:
    """What pyrage reads from. An error is kept here, since pyrage makes a text of it."""

    def __init__(self, path: str, digest: _Digest | None) -> None:
        self._file = open(path, "rb", buffering=_BUFFER, opener=_without_links)  # noqa: SIM115 - until the end
        self._digest = digest
        self._done = 0
        self._dropped = 0
        self._next_telling = 0.0
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            piece = self._file.read(size)
            self._tell(len(piece))
        except OSError as error:
            self.error = error
            raise
        if self._digest:
            self._digest.update(piece)
        return piece

    def _tell(self, amount: int) -> None:
        self._done += amount
        if self._done - self._dropped >= _WINDOW:
            os.posix_fadvise(self._file.fileno(), self._dropped, _WINDOW, os.POSIX_FADV_DONTNEED)
            self._dropped += _WINDOW
        now = time.monotonic()
        if now >= self._next_telling:
            self._next_telling = now + _TELL_SECONDS
            sys.stdout.write(f"{self._done}\n")
            sys.stdout.flush()


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class _Target:
    """What pyrage writes to. It counts and keeps errors: pyrage passes over one in its last write."""

    def __init__(self, path: str, digest: _Digest) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._digest = digest
        self.size = 0
        self._begun = 0
        self.error: OSError | None = None

    def write(self, piece: bytes) -> int:
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._digest.update(piece)
            self.size += len(piece)
            if self.size - self._begun >= _WINDOW:
                self._write_back()
        except OSError as error:
            self.error = error
            raise
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _write_back(self) -> None:
        """Begin to write the last window to storage; the one before is there by now, or is waited for."""
        descriptor, before = self._file.fileno(), max(0, self._begun - _WINDOW)
        _sync_file_range(descriptor, self._begun, self.size - self._begun, _WRITE)
        if self._begun:
            _sync_file_range(descriptor, before, self._begun - before, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            os.posix_fadvise(descriptor, before, self._begun - before, os.POSIX_FADV_DONTNEED)
        self._begun = self.size


def _sync_file_range(descriptor: int, offset: int, size: int, flags: int) -> None:
    """sync_file_range(2); where it is missing, the fsync at the end does all. Raises OSError.

    An error must be raised here: the fsync would not tell of it again.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is not None and call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        if code not in _CANNOT:
            raise OSError(code, os.strerror(code))


def main() -> int:
    """The status tells whether it went well."""
    with suppress(OSError):
        os.nice(5)
    job = json.loads(sys.stdin.read())
    try:
        answer = _encrypt(job) if "recipients" in job else _decrypt(job)
    except BrokenPipeError:
        return 1
    except OSError as error:
        answer = {"errno": error.errno, "error": error.strerror or str(error), "path": error.filename}
    except pyrage.DecryptError as error:
        answer = {"undecipherable": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0 if "sha256" in answer else 1


def _encrypt(job: dict[str, Any]) -> dict[str, Any]:
    plain, digest = _Digest(image=job["image"]), _Digest(image=False)
    source, target = _Source(job["source"], plain), _Target(job["target"], digest)
    recipients = [pyrage.x25519.Recipient.from_str(text) for text in job["recipients"]]
    try:
        pyrage.encrypt_io(source, target, recipients)
    except (OSError, pyrage.EncryptError) as error:
        raise _cause(source, target, job, error) from error
    return _finished(source, target, job, plain, digest)


def _decrypt(job: dict[str, Any]) -> dict[str, Any]:
    plain = _Digest(image=job["image"])
    source, target = _Source(job["source"], None), _Target(job["target"], plain)
    identities = [pyrage.x25519.Identity.from_str(text) for text in job["identities"]]
    try:
        pyrage.decrypt_io(source, target, identities)
    except OSError as error:
        if source.error or target.error:
            raise _cause(source, target, job, error) from error
        # Chunks that are damaged, missing or too many.
        raise pyrage.DecryptError(str(error)) from error
    except pyrage.DecryptError as error:
        if source.error or target.error:
            raise _cause(source, target, job, error) from error
        raise
    return _finished(source, target, job, plain, plain)


def _finished(
    source: _Source, target: _Target, job: dict[str, Any], plain: _Digest, digest: _Digest
) -> dict[str, Any]:
    if source.error or target.error:
        raise _cause(source, target, job, None)
    target.sync()
    plain_sha256 = plain.hexdigest()
    return {
        "plain_sha256": plain_sha256,
        "sha256": plain_sha256 if digest is plain else digest.hexdigest(),
        "bytes": target.size,
    }


def _cause(source: _Source, target: _Target, job: dict[str, Any], said: Exception | None) -> OSError:
    """The error under the one that pyrage tells of, with its file."""
    for error, path in ((target.error, job["target"]), (source.error, job["source"])):
        if error is not None:
            if isinstance(error, BrokenPipeError):
                return error
            return OSError(error.errno, error.strerror, path)
    return OSError(None, str(said), job["source"])


if __name__ == "__main__":
    sys.exit(main())
