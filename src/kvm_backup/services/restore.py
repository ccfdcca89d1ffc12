"""Restore a point to a folder, or as a new VM. In place: restore_in_place.py."""

import contextlib
import secrets
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from kvm_backup.domain.errors import (
    BadArgumentError,
    KvmBackupError,
    StorageError,
    TargetExistsError,
    VmNotFoundError,
)
from kvm_backup.domain.point import MANIFEST_FILE, NVRAM_FILE, TPM_FILE, Manifest, serialize
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.domain_xml import describe
from kvm_backup.hypervisor.restore_xml import as_new_vm, check_vm_name, new_macs
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.events import Listener
from kvm_backup.services.restore_disks import (
    DiskTarget,
    ImageFormat,
    PointReader,
    Restored,
    RestoredDisk,
    refuse_existing,
    require_space,
    unpack_tpm,
)
from kvm_backup.services.staging import Staging, reclaim
from kvm_backup.services.trusted_places import IMAGE_FOLDER, is_safe_file

NVRAM_FOLDER = Path("/var/lib/libvirt/qemu/nvram")
_SUFFIX: dict[str, str] = {"qcow2": "qcow2", "raw": "img"}


def restore_to_folder(
    repository: LocalRepository,
    manifest: Manifest,
    folder: Path,
    image_format: ImageFormat,
    *,
    hypervisor: Callable[[], Hypervisor],
    listener: Listener,
    stop_requested: Callable[[], bool],
) -> Restored:
    """Write a point's disks, XML and firmware state into a folder.

    Nothing that is there is overwritten. Files are hidden until all are whole, and removed when the restore fails.
    Only a snapshot asks `hypervisor`, for its images.
    Raises TargetExistsError, NoSpaceError, DamagedPointError, BrokenChainError, StorageError.
    """
    began = time.monotonic()
    reader = PointReader(repository, manifest, hypervisor, listener, stop_requested)
    targets = [
        DiskTarget(disk.target, folder / f"{disk.target}.{_SUFFIX[image_format]}", image_format)
        for disk in manifest.disks
    ]
    others = {stored.name: reader.small_file(stored.name) for stored in manifest.files}
    others[MANIFEST_FILE] = serialize(manifest)
    reclaim(folder)
    finals = [target.path for target in targets] + [folder / name for name in others]
    refuse_existing(finals)
    require_space(folder, sum(reader.planned_bytes(disk.target) for disk in manifest.disks))
    reader.check_links()
    with _undo_on_failure() as undo:
        _make_folder(folder, undo)
        with Staging(folder) as staging:
            disks = _write_staged(reader, targets, staging)
            for name, content in others.items():
                durable.write_new(staging.path_for(folder / name), content)
            staging.publish(finals)
    return Restored(
        manifest.id, manifest.vm_name, disks, tuple(str(folder / name) for name in others), time.monotonic() - began
    )


def restore_as_new_vm(
    repository: LocalRepository,
    manifest: Manifest,
    name: str,
    *,
    hypervisor: Hypervisor,
    folder: Path | None,
    start: bool,
    listener: Listener,
    stop_requested: Callable[[], bool],
) -> Restored:
    """Make a VM of another name, UUID and MAC addresses from a point.

    Its disks are named after it and go to `folder`, by default libvirt's image folder. Name, files and space are
    checked before anything is written; when it fails, no file and no definition stays.
    """
    began = time.monotonic()
    check_vm_name(name)
    _refuse_known_vm(hypervisor, name)
    images = IMAGE_FOLDER if folder is None else folder
    new_uuid = str(uuids.uuid4())
    reader = PointReader(repository, manifest, lambda: hypervisor, listener, stop_requested)
    xml = reader.domain_xml()
    stem = file_stem(name)
    targets = [DiskTarget(disk.target, images / f"{stem}-{disk.target}.qcow2", "qcow2") for disk in manifest.disks]
    nvram = NVRAM_FOLDER / f"{stem}_VARS.fd" if reader.has(NVRAM_FILE) else None
    if reclaim(images, stem) and nvram is not None:
        _reclaim_nvram(nvram, reader.small_file(NVRAM_FILE))
    finals = [target.path for target in targets]
    refuse_existing(finals + ([nvram] if nvram else []))
    new_xml, dropped = as_new_vm(
        xml,
        name=name,
        uuid=new_uuid,
        new_mac=new_macs(secrets.token_bytes),
        disk_paths={target.disk: (str(target.path), target.image_format) for target in targets},
        nvram=str(nvram) if nvram else None,
        safe_file=is_safe_file,
    )
    require_space(images, sum(reader.planned_bytes(disk.target) for disk in manifest.disks))
    reader.check_links()
    with _undo_on_failure() as undo:
        _make_folder(images, undo)
        with Staging(images, stem) as staging:
            disks = _write_staged(reader, targets, staging)
            staging.publish(finals)
            if nvram is not None:
                durable.write_new(nvram, reader.small_file(NVRAM_FILE))
                undo.callback(nvram.unlink, missing_ok=True)
            tpm_state = describe(new_xml).tpm_state
            if tpm_state is not None and reader.has(TPM_FILE):
                undo.callback(durable.remove_tree, Path(tpm_state).parent)
                unpack_tpm(reader.small_file(TPM_FILE), Path(tpm_state))
            hypervisor.define(new_xml)
            undo.callback(hypervisor.undefine, new_uuid)
            if start:
                hypervisor.start(new_uuid)
    files = (str(nvram),) if nvram else ()
    return Restored(manifest.id, manifest.vm_name, disks, files, time.monotonic() - began, name, left_out(dropped))


def left_out(parts: Sequence[str]) -> tuple[str, ...]:
    """The notice about parts of an XML that reach the host, or none."""
    if not parts:
        return ()
    return (
        f"left out of the VM, since it reaches the host: {', '.join(parts)}; the point's domain.xml still has it",
    )


def _refuse_known_vm(hypervisor: Hypervisor, name: str) -> None:
    with contextlib.suppress(VmNotFoundError):
        known = hypervisor.vm(name)
        raise TargetExistsError(
            f"a VM called {known.name} exists already",
            hint="Nothing was written. Give another name, or restore in place with --in-place.",
            vm=name,
        )


def file_stem(name: str) -> str:
    """What files of a VM of that name begin with. Raises BadArgumentError."""
    stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".-")
    if not stem:
        raise BadArgumentError(f"the name {name!r} has no letter or digit", hint="Give the new VM another name.")
    return stem


def _make_folder(folder: Path, undo: ExitStack) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.storage_error(error, folder) from error
    for parent in reversed(missing):
        undo.callback(_remove_if_empty, parent)


def _write_staged(reader: PointReader, targets: Sequence[DiskTarget], staging: Staging) -> tuple[RestoredDisk, ...]:
    hidden = [replace(target, path=staging.path_for(target.path)) for target in targets]
    written = reader.write_disks(hidden)
    return tuple(replace(disk, path=str(target.path)) for disk, target in zip(written, targets, strict=True))


def _reclaim_nvram(nvram: Path, content: bytes) -> None:
    """A killed restore under the same name left it, unless it holds something else."""
    with contextlib.suppress(OSError, KvmBackupError):
        if durable.read_limited(nvram, len(content)) == content:
            nvram.unlink()


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextmanager
def _undo_on_failure() -> Iterator[ExitStack]:
    """Callbacks that run, newest first, only when the block fails."""
    with ExitStack() as undo:
        try:
            yield undo
        except OSError as error:
            raise StorageError(
                f"{error.strerror or error}", hint="Nothing was left behind. Check the target's file system."
            ) from error
        undo.pop_all()
