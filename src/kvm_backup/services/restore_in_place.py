"""Restore a VM over itself: new disks are written beside the old ones, which stay until all new ones are complete."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import (
    DamagedPointError,
    NotConfirmedError,
    StorageError,
    TargetExistsError,
    UnsupportedDiskError,
    VmNotFoundError,
    VmRunningError,
    VmStateChangedError,
)
from kvm_backup.domain.phrase import phrase, sentences
from kvm_backup.domain.point import NVRAM_FILE, TPM_FILE, Manifest
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.hypervisor.checkpoints import forget_checkpoints
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.domain_xml import describe
from kvm_backup.hypervisor.host_parts import added_host_parts
from kvm_backup.hypervisor.restore_xml import in_place_of_known_vm, in_place_of_unknown_vm
from kvm_backup.hypervisor.snapshots import forget_snapshots, list_snapshots
from kvm_backup.repository import durable
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.events import Listener
from kvm_backup.services.power import stop_vm
from kvm_backup.services.restore import NVRAM_FOLDER, file_stem, left_out, make_folder
from kvm_backup.services.restore_disks import (
    DiskTarget,
    ImageFormat,
    PointReader,
    Restored,
    RestoredDisk,
    require_folder,
    require_space,
    unpack_tpm,
)
from kvm_backup.services.trusted_places import image_folders, is_safe_file, place_for_disk

_NEW = ".kvm-backup-new"
_OLD = ".kvm-backup-old"


@dataclass(frozen=True, slots=True)
class Swap:
    """A disk that will replace another: `final` is where the VM finds it, `new` where it is written first."""

    final: Path
    new: Path
    old: Path


def restore_in_place(
    repository: LocalRepository,
    manifest: Manifest,
    *,
    hypervisor: Hypervisor,
    disks_in: Path | None,
    stop: bool,
    confirm: Callable[[str], bool],
    listener: Listener,
    stop_requested: Callable[[], bool],
) -> Restored:
    """Bring a VM back to a point: disks, XML, NVRAM and TPM state. The caller holds the VM's lock.

    A VM that libvirt no longer knows is defined again. A disk that libvirt does not know goes to `disks_in`, else to
    where it was if a VM of this host has a disk in that folder (trusted_places.py). `confirm` is asked with one
    sentence that says what will be lost. Files are exchanged only when every new one is complete and durable; a
    block device can only be overwritten, which comes last.

    Raises VmRunningError, NotConfirmedError, TargetExistsError, UnsupportedDiskError, NoSpaceError,
    DamagedPointError, BrokenChainError, VmStateChangedError, StorageError.
    """
    began = time.monotonic()
    reader = PointReader(repository, manifest, lambda: hypervisor, listener, stop_requested)
    vm = check_in_place(manifest, hypervisor=hypervisor, stop=stop)
    targets, swaps = _targets(manifest, vm, image_folders(hypervisor.list_vms()), disks_in)
    old_xml = reader.domain_xml()
    require_own_xml(old_xml, manifest)
    has_nvram = reader.has(NVRAM_FILE) or describe(old_xml).nvram is not None
    nvram = str(nvram_place(manifest, vm)) if has_nvram else None
    sources = {target.disk: _final_source(target, swaps) for target in targets}
    if vm is None:
        new_xml, dropped = in_place_of_unknown_vm(old_xml, sources, nvram=nvram, safe_file=is_safe_file)
        notices = left_out(dropped)
    else:
        current = hypervisor.xml(vm.uuid)
        require_known_parts(old_xml, current, manifest)
        new_xml = in_place_of_known_vm(old_xml, current, sources, nvram=nvram)
        notices = _notices(hypervisor, vm)
    for swap in swaps:
        require_space(swap.new.parent, sum(reader.planned_bytes(target.disk) for target in targets))
    if not confirm(_question(manifest, vm, notices, targets, swaps)):
        raise not_confirmed(manifest)
    reader.check_links()
    if vm is not None and vm.has_qemu:
        stop_vm(hypervisor, vm, stop_requested=stop_requested)
    settle_remains(swaps)

    def still_off() -> None:
        if vm is not None and hypervisor.vm(vm.uuid).has_qemu:
            raise VmStateChangedError(
                phrase("the VM {vm} was started while its new disks were written", vm=vm.name),
                hint=phrase(
                    "Its disks are as they were. Shut it down and restore again; autostart may have started it."
                ),
                vm=vm.name,
            )

    with ExitStack() as undo:
        for swap in swaps:
            make_folder(swap.final.parent, undo)
        disks = _write_and_exchange(reader, targets, swaps, still_off)
        undo.pop_all()
    _restore_firmware(reader, new_xml)
    if vm is not None:
        forget_checkpoints(hypervisor, vm.uuid)
        forget_snapshots(hypervisor, vm.uuid)
    hypervisor.define(new_xml)
    for swap in swaps:
        swap.old.unlink(missing_ok=True)
    final = {str(swap.new): str(swap.final) for swap in swaps}
    disks = tuple(replace(disk, path=final.get(disk.path, disk.path)) for disk in disks)
    return Restored(
        manifest.id, manifest.vm_name, disks, (), time.monotonic() - began, name=manifest.vm_name, notices=notices
    )


def question_of(manifest: Manifest, *, hypervisor: Hypervisor, disks_in: Path | None, stop: bool) -> str:
    """What `restore_in_place` would ask now. Raises as it does for what can be told at once."""
    vm = check_in_place(manifest, hypervisor=hypervisor, stop=stop)
    targets, swaps = _targets(manifest, vm, image_folders(hypervisor.list_vms()), disks_in)
    return _question(manifest, vm, _notices(hypervisor, vm), targets, swaps)


def not_confirmed(manifest: Manifest) -> NotConfirmedError:
    """The error for a user who did not agree."""
    return NotConfirmedError(
        phrase("the restore was not confirmed"),
        hint=phrase("Nothing was changed. Scripts give --yes."),
        vm=manifest.vm_name,
    )


def check_in_place(manifest: Manifest, *, hypervisor: Hypervisor, stop: bool) -> Vm | None:
    """What can be told at once of a restore in place; the VM as it is now, None for one that libvirt does not know.

    Raises TargetExistsError, VmRunningError.
    """
    vm = _known(hypervisor, manifest)
    if vm is not None and vm.has_qemu and not stop:
        raise VmRunningError(
            phrase("the VM {vm} is paused", vm=vm.name)
            if vm.state is VmState.PAUSED
            else phrase("the VM {vm} is running", vm=vm.name),
            hint=phrase(
                "Nothing was changed. Shut it down first, or ask to have it stopped (on the command line: --stop)."
            ),
            vm=vm.name,
        )
    return vm


def _write_and_exchange(
    reader: PointReader, targets: list[DiskTarget], swaps: list[Swap], still_off: Callable[[], None]
) -> tuple[RestoredDisk, ...]:
    """Files first, which can be thrown away; then devices, whose old content is lost; then the exchange."""
    devices = [target for target in targets if target.device]
    try:
        disks = reader.write_disks([target for target in targets if not target.device], still_off)
        for swap in swaps:
            _same_owner(swap)
        still_off()
        if devices:
            disks += reader.write_disks(devices)
            still_off()
        _exchange(swaps)
    except BaseException:
        for swap in swaps:
            with suppress(OSError):
                swap.new.unlink(missing_ok=True)
        raise
    return disks


def _known(hypervisor: Hypervisor, manifest: Manifest) -> Vm | None:
    try:
        return hypervisor.vm(manifest.vm_uuid)
    except VmNotFoundError:
        pass
    try:
        other = hypervisor.vm(manifest.vm_name)
    except VmNotFoundError:
        return None
    raise TargetExistsError(
        phrase(
            "another VM is called {other} now (UUID {uuid}, the point has {vm_uuid})",
            other=other.name,
            uuid=other.uuid,
            vm_uuid=manifest.vm_uuid,
        ),
        hint=phrase("Nothing was changed. Restore under another name with --as NAME."),
        vm=other.name,
    )


def require_own_xml(xml: str, manifest: Manifest) -> None:
    """Refuse an XML of another VM, or of none: its UUID becomes a path. Raises DamagedPointError."""
    described = describe(xml)
    if (described.uuid.lower(), described.name) != (manifest.vm_uuid, manifest.vm_name):
        raise DamagedPointError(
            phrase(
                "the domain XML of {id} describes another VM ({described}, UUID {uuid})",
                id=manifest.id,
                described=described.name,
                uuid=described.uuid,
            ),
            hint=phrase(
                "Nothing was changed. Whoever can write to the repository may have changed it: restore "
                "another point, or to a folder with --to."
            ),
            vm=manifest.vm_name,
        )


def require_known_parts(xml: str, current: str, manifest: Manifest) -> None:
    """Refuse an XML that reaches more of the host than the VM does now. Raises DamagedPointError."""
    restored = {disk.target for disk in manifest.disks}
    added = added_host_parts(xml, current, is_safe_file, restored_disks=restored)
    if added:
        raise DamagedPointError(
            phrase(
                "the domain XML of {id} reaches parts of the host that {vm_name} does not have now: {added}",
                id=manifest.id,
                vm_name=manifest.vm_name,
                added=", ".join(added),
            ),
            hint=phrase(
                "Nothing was changed. If they are yours, give them to the VM first (virsh edit) and "
                "restore again. Otherwise somebody may have changed the point: restore with --as, which "
                "leaves them out, or --to."
            ),
            vm=manifest.vm_name,
        )


def nvram_place(manifest: Manifest, vm: Vm | None) -> Path:
    """Where the UEFI variables go: never where only the repository says, or it could have any file overwritten."""
    if vm is not None and vm.nvram is not None:
        return Path(vm.nvram)
    return NVRAM_FOLDER / f"{file_stem(manifest.vm_name)}_VARS.fd"


def _targets(
    manifest: Manifest, vm: Vm | None, folders: frozenset[Path], disks_in: Path | None
) -> tuple[list[DiskTarget], list[Swap]]:
    targets: list[DiskTarget] = []
    swaps: list[Swap] = []
    now = {disk.target: disk for disk in vm.disks} if vm else {}
    for disk in manifest.disks:
        held = now.get(disk.target)
        place = held.path if held is not None else disk.source_path
        if place is None:
            raise UnsupportedDiskError(
                phrase("disk {target} is neither a file nor a block device of this host", target=disk.target),
                hint=phrase(
                    "Nothing was changed. Restore to a folder with --to, then copy the disk to where it belongs."
                ),
                vm=manifest.vm_name,
            )
        path = Path(place) if held is not None else place_for_disk(disk.target, place, folders, disks_in)
        if any(swap.final == path.resolve() for swap in swaps):
            raise TargetExistsError(
                phrase("two disks of the point would become {path}", path=path),
                hint=phrase("Nothing was changed. Restore as another VM with --as NAME."),
                vm=manifest.vm_name,
            )
        if held is None:
            require_folder(path.parent)
        if held is None and os.path.lexists(path):
            raise TargetExistsError(
                phrase("{path} exists, but disk {target} of the VM is not there now", path=path, target=disk.target),
                hint=phrase(
                    "Nothing was changed. Move that file away, or restore under another name with --as NAME."
                ),
                vm=manifest.vm_name,
            )
        image_format: ImageFormat = "raw" if (held.format if held else disk.source_format) == "raw" else "qcow2"
        if held is not None and held.kind is SourceKind.BLOCK:
            targets.append(DiskTarget(disk.target, path, "raw", device=True))
            continue
        swap = swap_for(path)
        swaps.append(swap)
        targets.append(DiskTarget(disk.target, swap.new, image_format))
    return targets, swaps


def _final_source(target: DiskTarget, swaps: list[Swap]) -> tuple[str, str]:
    final = next((swap.final for swap in swaps if swap.new == target.path), target.path)
    return str(final), target.image_format


def _notices(hypervisor: Hypervisor, vm: Vm | None) -> tuple[str, ...]:
    """What the user should know of before, because it is no longer of use after."""
    if vm is None:
        return ()
    return tuple(
        phrase("the snapshot {name} is forgotten by libvirt; its image files stay on the host", name=snapshot.name)
        for snapshot in list_snapshots(hypervisor, vm.uuid)
    )


def _question(
    manifest: Manifest, vm: Vm | None, notices: tuple[str, ...], targets: list[DiskTarget], swaps: list[Swap]
) -> str:
    time = f"{manifest.created:%Y-%m-%d %H:%M:%S}"
    if vm is None:
        # The point says where, and nothing on this host confirms it.
        places = ", ".join(_final_source(target, swaps)[0] for target in targets)
        return phrase(
            "Define the VM {name} again, as it was at {time} UTC, and write {places}?",
            name=manifest.vm_name,
            time=time,
            places=places,
        )
    lost = phrase("Everything that {vm} wrote since {time} UTC will be lost.", vm=vm.name, time=time)
    stopping = [phrase("It is running and will be stopped.")] if vm.has_qemu else []
    also = [phrase("Also, {notice}.", notice=notice) for notice in notices]
    return sentences(lost, *stopping, *also, phrase("Restore?"))


def settle_remains(swaps: Sequence[Swap]) -> None:
    """Remove what a killed restore left. When it died between two disks, the old ones are put back first.

    Each new file goes away with its exchange, and no exchange begins before all are whole: so as long as one is left
    beside an old disk, the VM's disks are of two times. Raises StorageError.
    """
    try:
        if any(swap.new.exists() for swap in swaps):
            for swap in swaps:
                if swap.old.exists() and not swap.new.exists():
                    swap.old.rename(swap.final)
        for swap in swaps:
            swap.new.unlink(missing_ok=True)
        for swap in swaps:
            if swap.final.exists():
                swap.old.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            phrase(
                "what an interrupted restore left cannot be removed: {error} ({filename})",
                error=error.strerror,
                filename=error.filename,
            ),
            hint=phrase("Look at the files beside the VM's disks that end in .kvm-backup-new and .kvm-backup-old."),
        ) from error


def remains(vm: Vm) -> list[Swap]:
    """The disks of a VM beside which an interrupted restore left files."""
    places = [disk.path for disk in vm.disks if disk.path is not None and disk.kind is SourceKind.FILE]
    swaps = [swap_for(Path(place)) for place in places]
    return swaps if any(path.exists() for swap in swaps for path in (swap.new, swap.old)) else []


def settle_vm(hypervisor: Hypervisor, vm: Vm) -> None:
    """Remove what an interrupted restore left beside the disks of a VM. Raises VmRunningError, StorageError."""
    swaps = remains(vm)
    if swaps and hypervisor.vm(vm.uuid).has_qemu:
        raise VmRunningError(
            phrase("the VM {vm} runs on these disks", vm=vm.name), hint=phrase("Shut it down first."), vm=vm.name
        )
    settle_remains(swaps)


def swap_for(place: Path) -> Swap:
    """How the disk at `place` (links are followed) is exchanged."""
    path = place.resolve()
    return Swap(path, path.with_name(path.name + _NEW), path.with_name(path.name + _OLD))


def _same_owner(swap: Swap) -> None:
    if swap.final.exists():
        try:
            status = swap.final.stat()
            os.chown(swap.new, status.st_uid, status.st_gid)
            shutil.copymode(swap.final, swap.new)
        except OSError as error:
            raise durable.storage_error(error, swap.new) from error


def _exchange(swaps: list[Swap]) -> None:
    """Put the new disks in place. A hard link keeps each old one, so that at no instant a disk is missing."""
    done: list[Swap] = []
    try:
        for swap in swaps:
            if swap.final.exists():
                os.link(swap.final, swap.old)
            swap.new.rename(swap.final)
            done.append(swap)
            durable.sync_folder(swap.final.parent)
    except (OSError, StorageError) as error:
        for swap in swaps:
            with suppress(OSError):
                if swap in done and swap.old.exists():
                    swap.old.rename(swap.final)
                swap.old.unlink(missing_ok=True)
        raise StorageError(
            phrase("the new disks could not be put in place: {error}", error=error),
            hint=phrase("The old disks are in place again. Check the file system of the VM's disks."),
        ) from error


def _restore_firmware(reader: PointReader, xml: str) -> None:
    domain = describe(xml)
    if domain.nvram is not None and reader.has(NVRAM_FILE):
        durable.replace_content(Path(domain.nvram), reader.small_file(NVRAM_FILE))
    if domain.tpm_state is not None and reader.has(TPM_FILE):
        unpack_tpm(reader.small_file(TPM_FILE), Path(domain.tpm_state))
