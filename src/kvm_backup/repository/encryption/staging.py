"""Encrypted files of a point, kept until they are on the other server.

The same file encrypted twice differs in every byte, so a cut transfer can only go on from the very same files. They
lie in `.encrypted-<time>--<remote>` beside the point; `staging.json` in it tells what they were made from and for
whom. Whoever fills or sends them holds the folder's lock.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvm_backup.domain.errors import DamagedPointError, PointChangedError, VmBusyError
from kvm_backup.domain.names import STAMP_PATTERN
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from kvm_backup.repository import durable
from kvm_backup.repository.encryption import files
from kvm_backup.repository.encryption.files import SUFFIX, Control, EncryptedFile, PlainFile
from kvm_backup.repository.patient_lock import locked_within

PREFIX = ".encrypted-"
NOTE_FILE = "staging.json"
_NAME = re.compile(rf"{re.escape(PREFIX)}({STAMP_PATTERN})--([A-Za-z0-9][A-Za-z0-9._-]{{0,63}})")
_NOTE_MAX = 1 << 20
_LOCK_SECONDS = 5.0
"""Long enough for the encrypting process of a run that was killed to notice it."""
_POLL_SECONDS = 0.05


def plain_files(manifest: Manifest, manifest_content: bytes) -> list[PlainFile]:
    """All files of a point, its manifest last."""
    images = [
        PlainFile(disk.file, disk.image_sha256 or "", disk.bytes_stored, image=True)
        for disk in manifest.disks
        if disk.file
    ]
    others = [PlainFile(stored.name, stored.sha256, stored.bytes) for stored in manifest.files]
    last = PlainFile(MANIFEST_FILE, hashlib.sha256(manifest_content).hexdigest(), len(manifest_content))
    return [*images, *others, last]


@dataclass(frozen=True, slots=True)
class Staging:
    """The encrypted files of one point for one remote; `folder` need not exist yet."""

    folder: Path
    stamp: str
    remote: str

    @classmethod
    def of(cls, point: Path, remote: str) -> "Staging":
        """`point` is the point's folder in the local repository."""
        return cls(point.with_name(f"{PREFIX}{point.name}--{remote}"), point.name, remote)

    @property
    def point(self) -> Path:
        return self.folder.with_name(self.stamp)

    @contextmanager
    def filled(
        self,
        manifest: Manifest,
        recipients: Sequence[str],
        *,
        room: Callable[[int], None],
        control: Control,
    ) -> Iterator[tuple[EncryptedFile, ...]]:
        """Encrypt what is not yet, for all of `recipients`; the files stay while the block lasts, and after it.

        `room` is asked once for how many bytes, and raises when they would not fit. What was made from another state
        of the point or for others is removed first. Raises DamagedPointError when a file is not what the manifest
        says, PointChangedError when the point is no longer that of `manifest`, VmBusyError when another process is
        at it, EncryptionKeyError, NoSpaceError, StorageError, and what `control.check` raises.
        """
        with self._locked(_LOCK_SECONDS) as lock:
            yield self._fill(manifest, recipients, room, control, lock)

    def remove(self) -> bool:
        """Remove it, unless a process is at it; tells whether it is gone. Raises StorageError."""
        if not self.folder.is_dir():
            return True
        try:
            with self._locked(0.0):
                # Without its note nothing of it is trusted, wherever the removal is cut off.
                (self.folder / NOTE_FILE).unlink(missing_ok=True)
                durable.remove_tree(self.folder)
        except VmBusyError:
            return False
        return True

    @contextmanager
    def _locked(self, wait: float) -> Iterator[int]:
        deadline = time.monotonic() + wait
        descriptor = -1
        try:
            try:
                while descriptor < 0 or not _is_still(self.folder, descriptor):
                    if descriptor >= 0:
                        os.close(descriptor)
                        descriptor = -1
                    self.folder.mkdir(mode=0o700, exist_ok=True)
                    with suppress(FileNotFoundError):
                        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                        if not locked_within(descriptor, deadline - time.monotonic(), poll=_POLL_SECONDS):
                            raise VmBusyError(
                                phrase("another process encrypts or sends {point}", point=self.stamp),
                                hint=phrase("Wait until it has ended, then try again."),
                            )
            except OSError as error:
                raise durable.storage_error(error, self.folder) from error
            yield descriptor
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _fill(
        self, manifest: Manifest, recipients: Sequence[str], room: Callable[[int], None], control: Control, lock: int
    ) -> tuple[EncryptedFile, ...]:
        wanted = plain_files(manifest, durable.read_limited(self.point / MANIFEST_FILE, MANIFEST_BYTES_MAX))
        origin = {"scheme": "age", "recipients": sorted(recipients), "manifest_sha256": wanted[-1].sha256}
        have = self._kept(origin)
        missing = [plain for plain in wanted if f"{plain.name}{SUFFIX}" not in have]
        self._clear(have)
        room(sum(files.encrypted_size(plain.bytes, len(recipients)) for plain in missing))
        for plain in missing:
            control.check()
            target = self.folder / f"{plain.name}{SUFFIX}"
            try:
                made = files.encrypt(self.point / plain.name, target, recipients, plain, control, lock=lock)
            except DamagedPointError as error:
                self._refuse_another_state(manifest, wanted[-1])
                raise error from None
            have[made.name] = made
            # Written down before it has its name: a file with its name is one whose digest is known.
            self._write_note({**origin, "files": {name: asdict(each) for name, each in have.items()}})
            files.publish(target)
        self._refuse_another_state(manifest, wanted[-1])
        return tuple(have[f"{plain.name}{SUFFIX}"] for plain in wanted)

    def _refuse_another_state(self, manifest: Manifest, known: PlainFile) -> None:
        with suppress(DamagedPointError):
            content = durable.read_limited(self.point / MANIFEST_FILE, MANIFEST_BYTES_MAX)
            if hashlib.sha256(content).hexdigest() == known.sha256:
                return
        raise PointChangedError(
            phrase("{id} was changed while it was encrypted", id=manifest.id),
            hint=phrase("Nothing of it was sent; the next try takes it as it is now."),
            vm=manifest.vm_name,
        )

    def _kept(self, origin: dict[str, Any]) -> dict[str, EncryptedFile]:
        """What is there, whole, and made from the same for the same."""
        try:
            note = json.loads(durable.read_limited(self.folder / NOTE_FILE, _NOTE_MAX))
            if {key: note[key] for key in origin} != origin:
                return {}
            known = [EncryptedFile(**fields) for fields in note["files"].values()]
            return {each.name: each for each in known if self._size(each.name) == each.bytes}
        except (DamagedPointError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def _size(self, name: str) -> int | None:
        try:
            return (self.folder / name).lstat().st_size
        except OSError:
            return None

    def _clear(self, kept: dict[str, EncryptedFile]) -> None:
        """Leave nothing in the folder but the note and what is kept."""
        try:
            for entry in self.folder.iterdir():
                if entry.name not in kept and (entry.name != NOTE_FILE or not kept):
                    entry.unlink()
        except OSError as error:
            raise durable.storage_error(error, self.folder) from error

    def _write_note(self, note: dict[str, Any]) -> None:
        durable.replace_content(self.folder / NOTE_FILE, json.dumps(note, indent=2, sort_keys=True).encode())


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether the folder is the one that was opened, and was not removed right before it was locked."""
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def stagings(vm_folder: Path) -> list[Staging]:
    """All that lie in a VM's folder. Raises StorageError."""
    try:
        names = [entry.name for entry in sorted(vm_folder.iterdir()) if entry.is_dir() and not entry.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise durable.storage_error(error, vm_folder) from error
    found = [_NAME.fullmatch(name) for name in names]
    return [Staging(vm_folder / each[0], each[1], each[2]) for each in found if each]


def remove_unneeded(vm_folder: Path, needed: Callable[[Staging], bool]) -> list[Staging]:
    """Remove those that nothing needs and no process is at; returns them. Raises StorageError."""
    return [each for each in stagings(vm_folder) if not needed(each) and each.remove()]
