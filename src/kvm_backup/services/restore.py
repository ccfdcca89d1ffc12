"""Restore a point to a folder, or as a new VM. In place: restore_in_place.py."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, NVRAM_FILE, TPM_FILE, Manifest, serialize
from kvm_backup.domain.vm import Vm
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
    require_folder,
    require_space,
    unpack_tpm,
)
from kvm_backup.services.staging import Staging, hidden_folder, reclaim
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
    again: bool = False,
) -> Restored:
    """Write a point's disks, XML and firmware state into a folder.

    Nothing that is there is overwritten. Files are hidden until all are whole, and removed when the restore fails.
    When an earlier attempt was killed, `again` tells so: it may have been complete.
    Only a snapshot asks `hypervisor`, for its images.
    Raises TargetExistsError, NoSpaceError, DamagedPointError, BrokenChainError, StorageError.
    """
    began = time.monotonic()
    reader = PointReader(repository, manifest, hypervisor, listener, stop_requested)
    targets = _targets_in_folder(manifest, folder, image_format)
    others = {stored.name: reader.small_file(stored.name) for stored in manifest.files}
    others[MANIFEST_FILE] = serialize(manifest)
    finals = [target.path for target in targets] + [folder / name for name in others]
    reclaimed = reclaim(folder)
    if again and not reclaimed and _holds(folder, finals, others[MANIFEST_FILE]):
        disks = tuple(_as_it_is(manifest, target) for target in targets)
        return _restored_to(folder, manifest, disks, others, began)
    refuse_existing(finals)
    require_space(folder, sum(reader.planned_bytes(disk.target) for disk in manifest.disks))
    reader.check_links()
    with _undo_on_failure() as undo:
        make_folder(folder, undo)
        with Staging(folder) as staging:
            disks = _write_staged(reader, targets, staging)
            for name, content in others.items():
                durable.write_new(staging.path_for(folder / name), content)
            staging.publish(finals)
    return _restored_to(folder, manifest, disks, others, began)


def check_folder(manifest: Manifest, folder: Path, image_format: ImageFormat) -> None:
    """What can be told at once of a restore to a folder. Raises BadArgumentError, TargetExistsError."""
    require_folder(folder)
    if not hidden_folder(folder).exists():  # else a restore that was killed left them, and they are reclaimed
        refuse_existing(target.path for target in _targets_in_folder(manifest, folder, image_format))


def _targets_in_folder(manifest: Manifest, folder: Path, image_format: ImageFormat) -> list[DiskTarget]:
    return [
        DiskTarget(disk.target, folder / f"{disk.target}.{_SUFFIX[image_format]}", image_format)
        for disk in manifest.disks
    ]


def _restored_to(
    folder: Path, manifest: Manifest, disks: tuple[RestoredDisk, ...], others: Iterable[str], began: float
) -> Restored:
    files = tuple(str(folder / name) for name in others)
    return Restored(manifest.id, manifest.vm_name, disks, files, time.monotonic() - began)


def _holds(folder: Path, finals: Iterable[Path], manifest: bytes) -> bool:
    """Whether a restore of that point is complete in a folder."""
    try:
        held = durable.read_limited(folder / MANIFEST_FILE, len(manifest))
    except KvmBackupError:
        return False
    return held == manifest and all(path.is_file() for path in finals)


def _as_it_is(manifest: Manifest, target: DiskTarget) -> RestoredDisk:
    """A disk that an earlier attempt wrote."""
    size = next(disk.virtual_size for disk in manifest.disks if disk.target == target.disk)
    written = target.path.stat().st_blocks * 512 if target.path.exists() else 0
    return RestoredDisk(target.disk, str(target.path), target.image_format, size, written)


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
    uuid: str,
) -> Restored:
    """Make a VM of another name, UUID and MAC addresses from a point.

    Its disks are named after it and go to `folder`, by default libvirt's image folder. Name, files and space are
    checked before anything is written; when it fails, no file and no definition stays. A VM of that name and `uuid`
    was made by an earlier attempt, which was killed then: what was left to do is done.
    """
    began = time.monotonic()
    images = IMAGE_FOLDER if folder is None else folder
    check_vm_name(name)
    known = _known_vm(hypervisor, name)
    if known is not None:
        if known.uuid != uuid:
            raise _name_taken(known)
        return _finish_new_vm(manifest, known, images, hypervisor, start=start, began=began)
    reader = PointReader(repository, manifest, lambda: hypervisor, listener, stop_requested)
    xml = reader.domain_xml()
    stem = file_stem(name)
    targets = _targets_of_new_vm(manifest, stem, images)
    nvram = NVRAM_FOLDER / f"{stem}_VARS.fd" if reader.has(NVRAM_FILE) else None
    if reclaim(images, stem) and nvram is not None:
        _reclaim_nvram(nvram, reader.small_file(NVRAM_FILE))
    finals = [target.path for target in targets]
    refuse_existing(finals + ([nvram] if nvram else []))
    new_xml, dropped = as_new_vm(
        xml,
        name=name,
        uuid=uuid,
        new_mac=new_macs(secrets.token_bytes),
        disk_paths={target.disk: (str(target.path), target.image_format) for target in targets},
        nvram=str(nvram) if nvram else None,
        safe_file=is_safe_file,
    )
    require_space(images, sum(reader.planned_bytes(disk.target) for disk in manifest.disks))
    reader.check_links()
    with _undo_on_failure() as undo:
        make_folder(images, undo)
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
            undo.callback(hypervisor.undefine, uuid)
            if start:
                hypervisor.start(uuid)
    files = (str(nvram),) if nvram else ()
    return Restored(manifest.id, manifest.vm_name, disks, files, time.monotonic() - began, name, left_out(dropped))


def check_new_vm(manifest: Manifest, name: str, *, hypervisor: Hypervisor, folder: Path | None) -> None:
    """What can be told at once of a restore as a new VM. Raises BadArgumentError, TargetExistsError."""
    check_vm_name(name)
    known = _known_vm(hypervisor, name)
    if known is not None:
        raise _name_taken(known)
    stem, images = file_stem(name), IMAGE_FOLDER if folder is None else folder
    require_folder(images)
    if not hidden_folder(images, stem).exists():  # else a restore that was killed left them, and they are reclaimed
        refuse_existing(target.path for target in _targets_of_new_vm(manifest, stem, images))


def _targets_of_new_vm(manifest: Manifest, stem: str, images: Path) -> list[DiskTarget]:
    return [DiskTarget(disk.target, images / f"{stem}-{disk.target}.qcow2", "qcow2") for disk in manifest.disks]


def _finish_new_vm(
    manifest: Manifest, vm: Vm, images: Path, hypervisor: Hypervisor, *, start: bool, began: float
) -> Restored:
    stem = file_stem(vm.name)
    durable.remove_tree(hidden_folder(images, stem))
    if start and not vm.has_qemu:
        hypervisor.start(vm.uuid)
    disks = tuple(_as_it_is(manifest, target) for target in _targets_of_new_vm(manifest, stem, images))
    files = (vm.nvram,) if vm.nvram else ()
    return Restored(manifest.id, manifest.vm_name, disks, files, time.monotonic() - began, vm.name)


def left_out(parts: Sequence[str]) -> tuple[str, ...]:
    """The notice about parts of an XML that reach the host, or none."""
    if not parts:
        return ()
    return (
        phrase(
            "left out of the VM, since it reaches the host: {parts}; the point's domain.xml still has it",
            parts=", ".join(parts),
        ),
    )


def _known_vm(hypervisor: Hypervisor, name: str) -> Vm | None:
    try:
        return hypervisor.vm(name)
    except VmNotFoundError:
        return None


def _name_taken(known: Vm) -> TargetExistsError:
    return TargetExistsError(
        phrase("a VM called {known} exists already", known=known.name),
        hint=phrase("Nothing was written. Give another name, or restore in place with --in-place."),
        vm=known.name,
    )


def file_stem(name: str) -> str:
    """What files of a VM of that name begin with. Raises BadArgumentError."""
    stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".-")
    if not stem:
        raise BadArgumentError(
            phrase("the name {name!r} has no letter or digit", name=name),
            hint=phrase("Give the new VM another name."),
        )
    return stem


def make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder with its parents; `undo` removes those again that are empty then. Raises StorageError."""
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
                f"{error.strerror or error}", hint=phrase("Nothing was left behind. Check the target's file system.")
            ) from error
        undo.pop_all()
