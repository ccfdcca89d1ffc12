"""Encrypting and decrypting one file after the other, each in a process of its own that ends when asked to."""

import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyrage

from kvm_backup import process
from kvm_backup.domain.errors import DamagedPointError, EncryptionKeyError, StorageError, ToolFailedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.keys import Identities, check_recipient

SUFFIX = ".age"
UNFINISHED = ".new"
"""How the name of a file ends that is being written."""
_WORKER = (sys.executable, "-P", "-m", "kvm_backup.repository.encryption.worker")
_CHUNK = 64 << 10
_TAG = 16
_HEADER_MAX = 1024
_STANZA_MAX = 200
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_NO_KEY = "No matching keys found"


class Control(Protocol):
    """The caller's eye and hand."""

    def advance(self, done: int) -> None:
        """Told that so many bytes more of the sources are dealt with."""

    def check(self) -> None:
        """Called several times a second; raises to end it. What is unfinished is removed by the next attempt."""


class NoControl:
    """Nobody watches."""

    def advance(self, done: int) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file as a point's manifest has it. `image` tells in which order its digest is taken (engine.digest)."""

    name: str
    sha256: str
    bytes: int
    image: bool = False


@dataclass(frozen=True, slots=True)
class EncryptedFile:
    """A file as it leaves: `name` ends with .age, `sha256` is that of all its bytes from begin to end."""

    name: str
    sha256: str
    bytes: int


def encrypted_size(size: int, recipients: int) -> int:
    """The most bytes that a file of `size` bytes takes when it is encrypted."""
    return size + _TAG * (size // _CHUNK + 2) + _HEADER_MAX + _STANZA_MAX * recipients


def encrypt(
    source: Path,
    target: Path,
    recipients: Sequence[str],
    plain: PlainFile,
    control: Control,
    *,
    lock: int | None = None,
) -> EncryptedFile:
    """Encrypt a file, and check it on the way; `target` is what the new file will be called once it is whole.

    It is synced, but has no name yet: `publish` gives it. The process that encrypts may live a moment longer than
    this one; it holds the file descriptor `lock` as long. Raises DamagedPointError when the source is not what its
    manifest says, EncryptionKeyError, NoSpaceError, StorageError, and what `control.check` raises.
    """
    job = {"recipients": [check_recipient(each) for each in recipients]}
    answer = _work(source, target, plain, job, control, lock)
    return EncryptedFile(target.name, answer["sha256"], answer["bytes"])


def decrypt(source: Path, target: Path, identities: Identities, plain: PlainFile, control: Control) -> None:
    """Decrypt a file and check it against its manifest. `target` gets its name by `publish`.

    Raises EncryptionKeyError when no key opens it, DamagedPointError when it is damaged or not what the manifest
    says, NoSpaceError, StorageError, and what `control.check` raises.
    """
    _work(source, target, plain, {"identities": list(identities.secrets)}, control)


def publish(target: Path) -> None:
    """Give a file that is whole its name. Raises StorageError."""
    durable.rename(_unfinished(target), target)


def decipher(content: bytes, where: str, identities: Identities) -> bytes:
    """What a small encrypted file holds. `where` names it in errors. Raises EncryptionKeyError, DamagedPointError."""
    keys = [pyrage.x25519.Identity.from_str(secret) for secret in identities.secrets]
    try:
        opened = pyrage.decrypt(content, keys)
    except (pyrage.DecryptError, OSError) as error:
        raise _undecipherable(str(error), where) from error
    assert isinstance(opened, bytes)
    return opened


def _work(
    source: Path, target: Path, plain: PlainFile, job: dict[str, Any], control: Control, lock: int | None = None
) -> dict[str, Any]:
    unfinished = _unfinished(target)
    with suppress(FileNotFoundError):
        unfinished.unlink()
    told = json.dumps({**job, "source": str(source), "target": str(unfinished), "image": plain.image})
    listener = _Listener(control)
    try:
        done = process.follow(
            _WORKER,
            heard=listener.heard,
            meanwhile=control.check,
            given=told.encode(),
            pass_fds=() if lock is None else (lock,),
        )
        answer = listener.answer
        if done.status != 0 or "sha256" not in answer:
            raise _failure(answer, process.last_line(done.stderr), source)
        if answer["plain_sha256"] != plain.sha256:
            raise DamagedPointError(
                phrase("{path} is not what its manifest says", path=source),
                hint=phrase("Run 'kvm-backup verify' to see what else is damaged; this point cannot be used."),
            )
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    control.advance(max(0, source.stat().st_size - listener.done))
    return answer


def _unfinished(target: Path) -> Path:
    return target.with_name(f"{target.name}{UNFINISHED}")


class _Listener:
    """Lines with how many bytes are done, then one with the answer, as text that comes in pieces."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._rest = ""
        self.done = 0
        self.answer: dict[str, Any] = {}

    def heard(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.isdigit():
                self._control.advance(int(line) - self.done)
                self.done = int(line)
            elif line.startswith("{"):
                self.answer = json.loads(line)


def _failure(answer: dict[str, Any], said: str, source: Path) -> Exception:
    if "undecipherable" in answer:
        return _undecipherable(answer["undecipherable"], str(source))
    if answer.get("errno") is not None:
        path = Path(answer.get("path") or source)
        if path == source and answer["errno"] in _LOST:
            return DamagedPointError(
                phrase("{path} is missing, or no file", path=source),
                hint=phrase("Run 'kvm-backup repository check' to see what else is not as it should be."),
            )
        return durable.storage_error(OSError(answer["errno"], os.strerror(answer["errno"])), path)
    if "error" in answer:
        return StorageError(
            phrase("{path} cannot be encrypted or decrypted: {cause}", path=source, cause=answer["error"]),
            hint=phrase("Check the disk that it lies on, then try again."),
        )
    return ToolFailedError(
        phrase("the process that encrypts ended early: {said}", said=said or phrase("it said nothing")),
        hint=phrase("Nothing was sent. Try again; the kernel's log tells whether memory ran out."),
    )


def _undecipherable(said: str, where: str) -> EncryptionKeyError | DamagedPointError:
    if said == _NO_KEY:
        return EncryptionKeyError(
            phrase("none of the private keys opens {where}", where=where),
            hint=phrase(
                "Give the file with the key that it was encrypted for; with several, put them into one file."
            ),
        )
    return DamagedPointError(
        phrase("{where} is damaged, cut short, or not encrypted with age ({said})", where=where, said=said),
        hint=phrase("Fetch it again, or restore another point; look at the disks of the server that it comes from."),
    )
