"""A pull backup job: all disks of a running VM at one instant, served by QEMU on one unix socket.

Tried with libvirt 9.0: begin takes 0.1 s; QEMU (as its own user) creates the socket, and the scratch files must be
there before (scratch_files.py says why); the export is named after the target, and an incremental disk's bitmap
`backup-<target>`; after virDomainAbortJob the job is reported a few milliseconds longer, then the socket is gone. A
checkpoint made with the job stays. All bitmaps record on while the job runs.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from kvm_backup.domain.errors import (
    CheckpointUnusableError,
    HypervisorError,
    HypervisorUnavailableError,
    KvmBackupError,
    VmBusyError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import backup_xml, run_folder, scratch_files
from kvm_backup.hypervisor.backup_xml import JobDisk, RunningJob
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.libvirt_errors import our_error, translated

END_TIMEOUT = 150.0
"""Seconds to wait for libvirt to take a job down; it needs milliseconds unless the storage hangs, or the guest shut
itself down (see Hypervisor.shutting_down)."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks at a job that is being ended; it is gone after milliseconds unless the host is busy."""

_RESIZED_TRIES = 3
"""How often scratch files are made anew for a disk that is resized meanwhile. A job that QEMU refuses for that can
take libvirtd 9.0 down with it, when somebody else asks it about the VM at that instant."""

_NO_JOB_CODES = frozenset(
    {libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}
)


@dataclass(frozen=True, slots=True)
class Export:
    """What to read for one disk: the NBD export's name, and its dirty bitmap for an incremental.

    The bitmap's NBD meta context is `qemu:dirty-bitmap:<bitmap>`.
    """

    name: str
    bitmap: str | None


@dataclass(frozen=True, slots=True)
class DiskRequest:
    """A disk that takes part in a job."""

    target: str
    incremental: bool


class BackupJob:
    """A job that runs; `end` it whatever happens."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        vm: Vm,
        *,
        socket: Path,
        scratch_folder: Path,
        checkpoint: str | None,
        exports: Mapping[str, Export],
        instance: int | None,
    ) -> None:
        self.vm = vm
        self.socket = socket
        self.scratch_folder = scratch_folder
        self.checkpoint = checkpoint
        """Name of the checkpoint that was made, None when no disk can have a bitmap."""
        self.exports = exports
        self._hypervisor = hypervisor
        self._instance = instance

    def alive(self) -> bool:
        """Whether the same QEMU still runs this very job.

        Raises HypervisorUnavailableError: libvirtd may be restarting, while QEMU goes on serving the disks.
        """
        try:
            job = running_job(self._hypervisor, self.vm.uuid)
            return (
                job is not None
                and job.socket == str(self.socket)
                and self._hypervisor.instance(self.vm.uuid) == self._instance
                and not self._hypervisor.shutting_down(self.vm.uuid)
            )
        except HypervisorUnavailableError:
            raise
        except KvmBackupError:
            return False

    def scratch_used(self) -> int:
        """Bytes that the scratch files take on the host's file system by now."""
        used = 0
        for target in self.exports:
            with suppress(OSError):
                used += run_folder.scratch_path(self.scratch_folder, target).stat().st_blocks * 512
        return used

    def end(self) -> None:
        """End the job and wait until it is gone, with its scratch files and socket; safe to call again.

        The checkpoint stays. Raises HypervisorError when libvirt does not let go of the job, and
        HypervisorUnavailableError when it does not answer for END_TIMEOUT.
        """
        end_job(self._hypervisor, self.vm.uuid, self.socket)
        scratch_files.remove_all(run_folder.scratch_path(self.scratch_folder, target) for target in self.exports)
        self.socket.unlink(missing_ok=True)


def begin(
    hypervisor: Hypervisor,
    vm: Vm,
    disks: Sequence[DiskRequest],
    *,
    checkpoint: str | None,
    base: str | None,
    socket: Path,
    scratch_folder: Path,
) -> BackupJob:
    """Start a job over `disks`, at one instant, with a new checkpoint of that instant in the same call.

    Disks of the VM that are not asked for take no part. The checkpoint covers those asked for that can have a
    bitmap. `base` is the checkpoint that incremental disks start from. The folders are made by run_folder.
    Raises VmBusyError (another job), CheckpointUnusableError (`base` is gone or broken), VmStateChangedError,
    HypervisorError; in each case no job and no new checkpoint is left.
    """
    run_folder.check_socket_path(socket)
    if base is None and any(disk.incremental for disk in disks):
        raise CheckpointUnusableError(
            phrase("VM {vm}: an incremental needs the checkpoint it starts from", vm=vm.name),
            hint=phrase("Take a full backup."),
            vm=vm.name,
        )
    _refuse_busy(hypervisor, vm)
    all_targets = [disk.target for disk in vm.disks]
    wanted = {disk.target: disk for disk in disks}
    with_bitmap = [target for target in wanted if vm.disk(target).can_have_bitmap]
    started_from = base if any(disk.incremental for disk in disks) else None
    scratch = {target: run_folder.scratch_path(scratch_folder, target) for target in wanted}
    job_xml = backup_xml.backup(
        all_targets,
        [JobDisk(one.target, one.incremental, scratch[one.target]) for one in wanted.values()],
        socket=socket,
        base=started_from,
    )
    new_checkpoint = checkpoint if with_bitmap else None
    checkpoint_xml = (
        None if new_checkpoint is None else backup_xml.checkpoint(new_checkpoint, all_targets, with_bitmap)
    )
    domain = hypervisor.domain(vm.uuid)
    instance = hypervisor.instance(vm.uuid)
    made = _make_scratch_files(hypervisor, vm, scratch)
    try:
        domain.backupBegin(job_xml, checkpoint_xml, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL if made else 0)
    except libvirt.libvirtError as error:
        if made:
            scratch_files.remove_all(scratch.values())
        _refuse_busy(hypervisor, vm)
        raise our_error(error, vm.name) from error
    try:
        job = running_job(hypervisor, vm.uuid)
        if job is None:
            raise HypervisorError(
                phrase("VM {vm}: the backup job ended as soon as it was started", vm=vm.name),
                hint=phrase("/var/log/libvirt/qemu/<VM>.log may tell more."),
                vm=vm.name,
            )
        exports = {target: Export(*named) for target, named in job.exports.items()}
    except BaseException:
        with suppress(KvmBackupError):
            end_job(hypervisor, vm.uuid, socket)
        raise
    return BackupJob(
        hypervisor,
        vm,
        socket=socket,
        scratch_folder=scratch_folder,
        checkpoint=new_checkpoint,
        exports=exports,
        instance=instance,
    )


def running_job(hypervisor: Hypervisor, vm: str) -> RunningJob | None:
    """The backup job of the VM (a UUID), whoever started it; None when there is none (or the VM is off or gone)."""
    try:
        domain = hypervisor.handle().lookupByUUIDString(vm)
        return backup_xml.parse_backup(str(domain.backupGetXMLDesc()))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_JOB_CODES:
            return None
        raise our_error(error, vm) from error


def end_job(hypervisor: Hypervisor, vm: str, socket: Path) -> bool:
    """End the job that listens on `socket`, and no other; returns whether there was one.

    Waits until libvirt has taken it down. Raises HypervisorError when that takes longer than END_TIMEOUT, and
    HypervisorUnavailableError when libvirtd is away for as long.
    """
    deadline, aborted = time.monotonic() + END_TIMEOUT, False
    # Each look takes the domain's lock, which libvirt needs as well to take the job down.
    pause = _FIRST_PAUSE
    while True:
        try:
            job = running_job(hypervisor, vm)
            if job is None or job.socket != str(socket):
                return aborted
            if not aborted:
                _abort(hypervisor, vm)
                aborted = True
                continue
        except HypervisorUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        if time.monotonic() > deadline:
            raise HypervisorError(
                phrase("the backup job on {socket} does not end", socket=socket),
                hint=phrase("Look at it with: virsh domjobinfo {vm}; the VM itself goes on.", vm=vm),
                vm=vm,
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def leftover_job(hypervisor: Hypervisor, vm: str, run_root: Path) -> Path | None:
    """The socket of a job whose socket lies below `run_root`, so that one of our runs started it; else None."""
    job = running_job(hypervisor, vm)
    if job is None or job.socket is None:
        return None
    socket = Path(job.socket)
    return socket if socket.is_relative_to(run_root) and ".." not in socket.parts else None


def _make_scratch_files(hypervisor: Hypervisor, vm: Vm, paths: Mapping[str, Path]) -> bool:
    """As large as the disks are now, which QEMU insists on; False when libvirt has to make them."""
    owner = hypervisor.qemu_owner(vm.uuid)
    sizes = _sizes(hypervisor, vm, paths)
    for _ in range(_RESIZED_TRIES):
        # Also what a job left that its VM's end took down: no job uses it, or the VM would be busy.
        scratch_files.remove_all(paths.values())
        if not scratch_files.create_all({paths[target]: size for target, size in sizes.items()}, owner):
            return False
        before, sizes = sizes, _sizes(hypervisor, vm, paths)
        if sizes == before:
            break
    return True


def _sizes(hypervisor: Hypervisor, vm: Vm, targets: Iterable[str]) -> dict[str, int]:
    domain = hypervisor.domain(vm.uuid)
    with translated(vm.name):
        return {target: int(domain.blockInfo(target)[0]) for target in targets}


def _abort(hypervisor: Hypervisor, vm: str) -> None:
    domain = hypervisor.domain(vm)
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        # The job, or the whole VM, may have ended between the look and the call.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise our_error(error, vm) from error


def _refuse_busy(hypervisor: Hypervisor, vm: Vm) -> None:
    job = running_job(hypervisor, vm.uuid)
    if job is not None:
        raise VmBusyError(
            phrase("VM {vm} already has a backup job ({server})", vm=vm.name, server=job.server),
            hint=phrase("Wait for it to end. If its program is gone: virsh domjobabort {vm}", vm=vm.name),
            vm=vm.name,
        )
    domain = hypervisor.domain(vm.uuid)
    with translated(vm.name):
        kind = domain.jobStats()["type"]
    if kind not in (libvirt.VIR_DOMAIN_JOB_NONE, libvirt.VIR_DOMAIN_JOB_COMPLETED):
        raise VmBusyError(
            phrase("VM {vm} is being migrated, saved or dumped", vm=vm.name),
            hint=phrase("Wait for it to end; virsh domjobinfo {vm} shows its progress.", vm=vm.name),
            vm=vm.name,
        )
