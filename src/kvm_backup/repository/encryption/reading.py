"""What was fetched from an encrypted repository becomes plain files again."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, EncryptionKeyError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from kvm_backup.repository import durable
from kvm_backup.repository.encryption import files
from kvm_backup.repository.encryption.files import SUFFIX, Control, PlainFile
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.staging import plain_files
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror

ENCRYPTED_FOLDER = ".encrypted"
"""Where fetched files lie until they are decrypted: in the point's folder, and of manifests in the mirror's."""
ENCRYPTED_MANIFEST_FILE = f"{MANIFEST_FILE}{SUFFIX}"


def missing_files(manifest: Manifest, folder: Path) -> list[PlainFile]:
    """The files of a point that are not in `folder` yet, without its manifest."""
    *data, _ = plain_files(manifest, b"")
    return [plain for plain in data if not (folder / plain.name).is_file()]


def decrypt_point(manifest: Manifest, folder: Path, identities: Identities, control: Control) -> list[str]:
    """Decrypt what was fetched to `folder`/.encrypted into `folder`, and check it; each file there goes once it is
    plain. The manifest is taken as it came.

    A file that is damaged or missing goes, too, so that it is fetched anew; returns the names of those. Raises
    EncryptionKeyError, NoSpaceError, StorageError, and what `control.check` raises.
    """
    fetched = folder / ENCRYPTED_FOLDER
    damaged = [] if _decrypt_manifest(manifest, folder, identities) else [MANIFEST_FILE]
    for plain in missing_files(manifest, folder):
        source, target = fetched / f"{plain.name}{SUFFIX}", folder / plain.name
        try:
            files.decrypt(source, target, identities, plain, control)
            files.publish(target)
        except DamagedPointError:
            damaged.append(plain.name)
        except EncryptionKeyError:
            if damaged[:1] == [MANIFEST_FILE]:
                raise
            # The same keys opened the manifest: these are not the bytes that were written.
            damaged.append(plain.name)
        with suppress(OSError):
            source.unlink()
    durable.remove_tree(fetched)
    return damaged


def _decrypt_manifest(manifest: Manifest, folder: Path, identities: Identities) -> bool:
    source = folder / ENCRYPTED_FOLDER / ENCRYPTED_MANIFEST_FILE
    try:
        content = durable.read_limited(source, _FILE_MAX)
        opened = files.decipher(content, f"{manifest.id}/{ENCRYPTED_MANIFEST_FILE}", identities)
    except DamagedPointError:
        return False
    durable.replace_content(folder / MANIFEST_FILE, opened)
    return True


def decrypt_manifests(encrypted: Path, mirror: Mirror, identities: Identities) -> None:
    """Make the mirror hold the manifests below `encrypted`, and no others.

    One that is damaged, or that only another key opens, is taken as it came, so that its point is shown as damaged.
    Raises EncryptionKeyError when no key opens any of them: nothing is changed then. Raises StorageError.
    """
    there = dict(_encrypted_manifests(encrypted))
    plain: dict[str, bytes] = {}
    refused: EncryptionKeyError | None = None
    for point_id, content in there.items():
        try:
            plain[point_id] = files.decipher(content, f"{point_id}/{ENCRYPTED_MANIFEST_FILE}", identities)
        except EncryptionKeyError as error:
            refused = refused or error
        except DamagedPointError:
            continue
    if refused and not plain:
        raise refused
    for point_id, content in there.items():
        opened = plain.get(point_id, content)
        if not mirror.holds(point_id, opened):
            mirror.show(point_id, opened)
    for point_id in _ids(mirror.repository):
        if point_id not in there:
            mirror.forget(point_id)


def require_key(encrypted: Path, identities: Identities) -> None:
    """Refuse private keys that open none of the manifests below `encrypted`, where there is one to try.

    Raises EncryptionKeyError.
    """
    refused: EncryptionKeyError | None = None
    for point_id, content in _encrypted_manifests(encrypted) if encrypted.is_dir() else ():
        try:
            files.decipher(content, f"{point_id}/{ENCRYPTED_MANIFEST_FILE}", identities)
        except EncryptionKeyError as error:
            refused = refused or error
        except DamagedPointError:
            continue
        else:
            return
    if refused:
        raise refused


def no_identities(place: object) -> EncryptionKeyError:
    """The error for an encrypted repository that is to be read without any key."""
    return EncryptionKeyError(
        phrase("{place} is encrypted, and no private key is at hand", place=place),
        hint=phrase(
            "Bring the file with the private key to this host. Name it with --identity-file where the repository is "
            "added, later as identity_file in its table of the settings."
        ),
    )


def _encrypted_manifests(root: Path) -> Iterator[tuple[str, bytes]]:
    repository = LocalRepository("encrypted", root, "")
    for point_id in _ids(repository):
        with suppress(KvmBackupError):
            content = durable.read_limited(repository.path_of(point_id) / ENCRYPTED_MANIFEST_FILE, _FILE_MAX)
            if len(content) <= _FILE_MAX:
                yield point_id, content


def _ids(repository: LocalRepository) -> list[str]:
    return [f"{folder.name}/{stamp}" for folder in repository.folders() for stamp in repository.stamps(folder)]


_FILE_MAX = files.encrypted_size(MANIFEST_BYTES_MAX, 100)
